{{/* The driver's pod template: complete in mode job; in mode operator Spark adds image, arguments and resources. */}}
{{- define "orchard.driverTemplate" -}}
{{- $name := include "orchard.fullname" . -}}
metadata:
  {{- include "orchard.podMetadata" (dict "root" . "role" .Values.driver "component" "driver"
    "annotations" (include "orchard.driverAnnotations" . | fromYaml)) | nindent 2 }}
spec:
  serviceAccountName: {{ include "orchard.driverAccount" . | toYaml }}
  automountServiceAccountToken: true
  {{- if eq .Values.mode "job" }}
  restartPolicy: Never
  {{- else if .Values.activeDeadlineSeconds }}
  activeDeadlineSeconds: {{ .Values.activeDeadlineSeconds }}
  {{- end }}
  {{- include "orchard.podSpec" (dict "root" . "role" .Values.driver "component" "driver") | nindent 2 }}
  {{- with .Values.driver.initContainers }}
  initContainers:
    {{- tpl (toYaml .) $ | nindent 4 }}
  {{- end }}
  containers:
    - name: {{ ternary "driver" "spark-kubernetes-driver" (eq .Values.mode "job") }}
      {{- if eq .Values.mode "job" }}
      image: {{ include "orchard.image" . | quote }}
      imagePullPolicy: {{ .Values.image.pullPolicy }}
      args:
        {{- include "orchard.args" . | nindent 8 }}
      ports:
        - name: driver
          containerPort: 7078
        - name: blockmanager
          containerPort: 7079
        {{- if .Values.metrics.enabled }}
        - name: spark-ui
          containerPort: 4040
        - name: metrics
          containerPort: 4041
        {{- end }}
      {{- else if .Values.metrics.enabled }}
      ports:
        - name: metrics
          containerPort: 4041
      {{- end }}
      resources:
        requests:
          {{- if eq .Values.mode "job" }}
          cpu: {{ (include "orchard.driver" . | fromYaml).coreRequest | quote }}
          memory: {{ include "orchard.driverMemory" . }}
          {{- end }}
          ephemeral-storage: {{ (include "orchard.driver" . | fromYaml).ephemeralStorage.request }}
        {{- with include "orchard.driverLimits" . | fromYaml }}
        limits:
          {{- toYaml . | nindent 10 }}
        {{- end }}
      terminationMessagePolicy: FallbackToLogsOnError
      {{- with .Values.securityContext }}
      securityContext:
        {{- toYaml . | nindent 8 }}
      {{- end }}
      {{- with printf "%s%s" (include "orchard.settingsFrom" .) (include "orchard.envFrom" .) | trim }}
      envFrom:
        {{- . | nindent 8 }}
      {{- end }}
      env:
        {{- with include "orchard.ownSettings" . | trim }}
        {{- . | nindent 8 }}
        {{- end }}
        - name: ORCHARD_APP_ID
          value: {{ $name | toYaml }}
        {{- if eq .Values.mode "job" }}
        # Identifies the Job, so that a setting such as fresh takes effect once, not for each driver.
        - name: ORCHARD_JOB_UID
          valueFrom: {fieldRef: {fieldPath: "metadata.labels['batch.kubernetes.io/controller-uid']"}}
        {{- end }}
        - name: ORCHARD_POD_NAME
          valueFrom: {fieldRef: {fieldPath: metadata.name}}
        - name: ORCHARD_POD_NAMESPACE
          valueFrom: {fieldRef: {fieldPath: metadata.namespace}}
        - name: ORCHARD_POD_IP
          valueFrom: {fieldRef: {fieldPath: status.podIP}}
        {{- $claims := list }}
        {{- range .Values.persistence }}{{ if .existingClaim }}{{ $claims = append $claims (printf "%s=%s" .existingClaim .mountPath) }}{{ end }}{{ end }}
        {{- with $claims }}
        - name: ORCHARD_CLAIMS
          value: {{ join "," . | include "orchard.literal" }}
        {{- end }}
        {{- with .Values.webhook.existingSecret }}
        - name: ORCHARD_WEBHOOK
          valueFrom: {secretKeyRef: {name: {{ . | toYaml }}, key: url}}
        {{- end }}
        {{- with .Values.extraEnv }}
        {{- toYaml . | nindent 8 }}
        {{- end }}
      volumeMounts:
        {{- if eq .Values.mode "job" }}
        - name: pods
          mountPath: /etc/orchard
          readOnly: true
        {{- end }}
        {{- include "orchard.volumeMounts" . | nindent 8 }}
  volumes:
    {{- if eq .Values.mode "job" }}
    - name: pods
      configMap:
        name: {{ $name }}-pods
    {{- end }}
    {{- include "orchard.volumes" . | nindent 4 }}
{{- end -}}

{{/* Whether a run may outlast a change of the ConfigMap: one of a schedule, or one whose Job is not replaced at once. */}}
{{- define "orchard.outlastsChanges" -}}
{{- if or .Values.schedule.cron .Values.gitops }}true{{ end -}}
{{- end -}}

{{/* The settings and the first number of executors, which is no part of the Job that it leaves running. */}}
{{- define "orchard.variables" -}}
{{- $variables := include "orchard.settings" . | fromYaml -}}
{{- if and (eq .Values.mode "job") (not .Values.dynamicAllocation.enabled) -}}
{{- $conf := $variables.ORCHARD_SPARK_CONF | fromJson -}}
{{- $_ := set $conf "spark.executor.instances" (.Values.executor.instances | int | toString) -}}
{{- $_ := set $variables "ORCHARD_SPARK_CONF" (toJson $conf) -}}
{{- end -}}
{{- toYaml $variables -}}
{{- end -}}

{{- define "orchard.settingsFrom" -}}
{{- if not (include "orchard.outlastsChanges" .) -}}
- configMapRef:
    name: {{ include "orchard.fullname" . }}-settings
{{ end -}}
{{- end -}}

{{/* The settings within the pod, so that the next driver of a run has those of the first, and not those of the next run. */}}
{{- define "orchard.ownSettings" -}}
{{- if include "orchard.outlastsChanges" . -}}
{{- $given := list -}}
{{- range .Values.extraEnv }}{{ $given = append $given .name }}{{ end -}}
{{- range $name, $value := include "orchard.variables" . | fromYaml -}}
{{- if not (has $name $given) }}
- name: {{ $name }}
  {{- if and (eq $name "ORCHARD_SPARK_CONF") $.Values.gitops (not $.Values.schedule.cron) }}
  # Has the number of executors, which changes without another Job.
  valueFrom: {configMapKeyRef: {name: {{ include "orchard.fullname" $ }}-settings, key: {{ $name }}}}
  {{- else }}
  value: {{ include "orchard.literal" $value }}
  {{- end }}
{{- end -}}
{{- end -}}
{{- end -}}
{{- end -}}

{{- define "orchard.driverAnnotations" -}}
checksum/settings: {{ printf "%s%s" (include "orchard.settings" .) (include "orchard.executorTemplate" .) | sha256sum }}
{{- with .Values.rerun }}
orchard/rerun: {{ . | toString | quote }}
{{- end }}
{{- end -}}

{{/* Limits of the driver's container; in mode operator Spark adds CPU and memory itself. */}}
{{- define "orchard.driverLimits" -}}
{{- $limits := dict -}}
{{- if ne .Values.mode "operator" -}}
{{- $_ := set $limits "memory" (include "orchard.driverMemory" .) -}}
{{- with .Values.driver.coreLimit }}{{ $_ := set $limits "cpu" (toString .) }}{{ end -}}
{{- end -}}
{{- with .Values.driver.ephemeralStorage.limit }}{{ $_ := set $limits "ephemeral-storage" . }}{{ end -}}
{{- toYaml $limits -}}
{{- end -}}

{{- define "orchard.driverMemory" -}}
{{- $driver := include "orchard.driver" . | fromYaml -}}
{{- add (include "orchard.mebibytes" $driver.memory) (include "orchard.mebibytes" $driver.memoryOverhead) -}}Mi
{{- end -}}

{{/* The values of the driver, with those of tune.resources if it tunes a backbone. */}}
{{- define "orchard.driver" -}}
{{- $settings := .Values.settings -}}
{{- $tunes := eq (toString $settings.quality) "best" -}}
{{- if hasKey $settings "tune" }}{{ $tunes = eq (toString $settings.tune) "true" }}{{ end -}}
{{- if eq .Values.command "tune" }}{{ $tunes = true }}{{ end -}}
{{- toYaml (mergeOverwrite (deepCopy .Values.driver) (ternary (deepCopy .Values.tune.resources) dict $tunes)) -}}
{{- end -}}
