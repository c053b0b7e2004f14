{{/* The specification of a SparkApplication, shared with the ScheduledSparkApplication. */}}
{{- define "orchard.sparkApplicationSpec" -}}
{{- $driverTemplate := include "orchard.driverTemplate" . -}}
{{- $executorTemplate := include "orchard.executorTemplate" . -}}
type: Python
pythonVersion: "3"
sparkVersion: {{ .Values.operator.sparkVersion | quote }}
mode: cluster
image: {{ include "orchard.image" . | quote }}
imagePullPolicy: {{ .Values.image.pullPolicy }}
mainApplicationFile: local:///opt/orchard/main.py
arguments:
  {{- include "orchard.args" . | nindent 2 }}
restartPolicy:
  {{- if .Values.backoffLimit }}
  type: OnFailure
  onFailureRetries: {{ .Values.backoffLimit }}
  onFailureRetryInterval: {{ .Values.operator.retryIntervalSeconds }}
  onSubmissionFailureRetries: {{ .Values.backoffLimit }}
  onSubmissionFailureRetryInterval: {{ .Values.operator.retryIntervalSeconds }}
  {{- else }}
  type: Never
  {{- end }}
{{- if not (or .Values.gitops (kindIs "invalid" .Values.ttlSecondsAfterFinished)) }}
timeToLiveSeconds: {{ .Values.ttlSecondsAfterFinished }}
{{- end }}
{{- with .Values.batchScheduler }}
{{- if and .name (ne .name "kueue") }}
batchScheduler: {{ .name }}
{{- with .queue }}
batchSchedulerOptions:
  queue: {{ . | toYaml }}
{{- end }}
{{- end }}
{{- end }}
sparkConf:
  {{- include "orchard.sparkConf" . | nindent 2 }}
driver:
  cores: 1
  coreRequest: {{ (include "orchard.driver" . | fromYaml).coreRequest | quote }}
  {{- with .Values.driver.coreLimit }}
  coreLimit: {{ . | quote }}
  {{- end }}
  memory: {{ .Values.driver.memory }}
  memoryOverhead: {{ (include "orchard.driver" . | fromYaml).memoryOverhead }}
  serviceAccount: {{ include "orchard.driverAccount" . | toYaml }}
  # The operator puts the application's labels over the templates': an executor would count as a driver.
  labels:
    {{- ($driverTemplate | fromYaml).metadata.labels | toYaml | nindent 4 }}
  template:
    {{- $driverTemplate | nindent 4 }}
executor:
  {{- if not .Values.dynamicAllocation.enabled }}
  instances: {{ .Values.executor.instances }}
  {{- end }}
  cores: {{ .Values.executor.cores }}
  coreRequest: {{ include "orchard.executorCoreRequest" . | quote }}
  {{- with .Values.executor.coreLimit }}
  coreLimit: {{ . | quote }}
  {{- end }}
  memory: {{ .Values.executor.memory }}
  memoryOverhead: {{ include "orchard.executorOverhead" . }}
  serviceAccount: {{ include "orchard.executorAccount" . | toYaml }}
  labels:
    {{- ($executorTemplate | fromYaml).metadata.labels | toYaml | nindent 4 }}
  template:
    {{- $executorTemplate | nindent 4 }}
{{- end -}}
