{{/*
What all pods have in common: dict "root" $ "role" (a map such as .Values.driver), and "component" where the batch scheduler
is to place them.
*/}}
{{- define "orchard.podSpec" -}}
enableServiceLinks: false
{{- with .root.Values.podSecurityContext }}
securityContext:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with include "orchard.imagePullSecrets" .root | trim }}
imagePullSecrets:
  {{- . | nindent 2 }}
{{- end }}
{{- with .role.nodeSelector }}
nodeSelector:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .role.tolerations }}
tolerations:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .role.affinity }}
affinity:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .role.topologySpreadConstraints }}
topologySpreadConstraints:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .role.priorityClassName }}
priorityClassName: {{ . }}
{{- end }}
{{- with .role.runtimeClassName }}
runtimeClassName: {{ . }}
{{- end }}
{{- if and (eq .root.Values.mode "job") (has .root.Values.batchScheduler.name (list "volcano" "yunikorn")) (hasKey . "component") }}
schedulerName: {{ .root.Values.batchScheduler.name }}
{{- end }}
{{- end -}}

{{- define "orchard.volumes" -}}
- name: tmp
  emptyDir: {}
{{- range $name, $claim := .Values.persistence }}
{{- if $claim.existingClaim }}
- name: {{ $name }}
  persistentVolumeClaim:
    claimName: {{ $claim.existingClaim }}
{{- end }}
{{- end }}
{{- with .Values.extraVolumes }}
{{ toYaml . }}
{{- end }}
{{- end -}}

{{- define "orchard.volumeMounts" -}}
- name: tmp
  mountPath: /tmp
{{- range $name, $claim := .Values.persistence }}
{{- if $claim.existingClaim }}
- name: {{ $name }}
  mountPath: {{ $claim.mountPath }}
  {{- with $claim.subPath }}
  subPath: {{ . }}
  {{- end }}
  {{- if $claim.readOnly }}
  readOnly: true
  {{- end }}
{{- end }}
{{- end }}
{{- with .Values.extraVolumeMounts }}
{{ toYaml . }}
{{- end }}
{{- end -}}

{{/* Environment of every container that reads images or writes results. */}}
{{- define "orchard.envFrom" -}}
{{- with .Values.s3.existingSecret }}
- secretRef:
    name: {{ . }}
{{- end }}
{{- with .Values.extraEnvFrom }}
{{ toYaml . }}
{{- end }}
{{- end -}}

{{- define "orchard.podMetadata" -}}
{{- $batch := .root.Values.batchScheduler }}
{{- $queued := and (eq .root.Values.mode "job") (has .component (list "driver" "executor")) }}
{{- $labels := mergeOverwrite (deepCopy (.root.Values.podLabels | default dict)) (.role.labels | default dict) }}
{{- if and $queued (eq $batch.name "yunikorn") }}
{{- $_ := set $labels "applicationId" (include "orchard.fullname" .root) }}
{{- with $batch.queue }}{{ $_ := set $labels "queue" . }}{{ end }}
{{- end }}
{{- $annotations := mergeOverwrite (deepCopy (.root.Values.podAnnotations | default dict)) (.role.annotations | default dict) (.annotations | default dict) }}
{{- if and $queued (eq $batch.name "volcano") $batch.queue }}
{{- $_ := set $annotations "scheduling.volcano.sh/queue-name" $batch.queue }}
{{- end -}}
labels:
  {{- include "orchard.labels" (dict "root" .root "component" .component "labels" $labels) | nindent 2 }}
{{- with $annotations }}
annotations:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- end -}}

{{/* The executors' pod template. Spark adds image, resources, arguments, local directories. */}}
{{- define "orchard.executorTemplate" -}}
metadata:
  {{- include "orchard.podMetadata" (dict "root" . "role" .Values.executor "component" "executor") | nindent 2 }}
spec:
  serviceAccountName: {{ include "orchard.executorAccount" . }}
  automountServiceAccountToken: false
  terminationGracePeriodSeconds: {{ .Values.executor.terminationGracePeriodSeconds }}
  {{- include "orchard.podSpec" (dict "root" . "role" .Values.executor "component" "executor") | nindent 2 }}
  containers:
    - name: spark-kubernetes-executor
      {{- with .Values.securityContext }}
      securityContext:
        {{- toYaml . | nindent 8 }}
      {{- end }}
      {{- with include "orchard.envFrom" . | trim }}
      envFrom:
        {{- . | nindent 8 }}
      {{- end }}
      {{- with .Values.extraEnv }}
      env:
        {{- toYaml . | nindent 8 }}
      {{- end }}
      resources:
        requests:
          ephemeral-storage: {{ .Values.executor.ephemeralStorage.request }}
        {{- $limits := dict }}
        {{- with .Values.executor.ephemeralStorage.limit }}{{ $_ := set $limits "ephemeral-storage" . }}{{ end }}
        {{- with .Values.executor.gpu }}{{ if .count }}{{ $_ := set $limits .resource (int .count) }}{{ end }}{{ end }}
        {{- with $limits }}
        limits:
          {{- toYaml . | nindent 10 }}
        {{- end }}
      # Why one ends that hardly began.
      terminationMessagePolicy: FallbackToLogsOnError
      volumeMounts:
        {{- include "orchard.volumeMounts" . | nindent 8 }}
  volumes:
    {{- include "orchard.volumes" . | nindent 4 }}
{{- end -}}

{{/* The driver's pod template: whole in mode job; in mode operator Spark adds image, arguments and resources. */}}
{{- define "orchard.driverTemplate" -}}
{{- $name := include "orchard.fullname" . -}}
metadata:
  {{- include "orchard.podMetadata" (dict "root" . "role" .Values.driver "component" "driver"
    "annotations" (include "orchard.driverAnnotations" . | fromYaml)) | nindent 2 }}
spec:
  serviceAccountName: {{ include "orchard.driverAccount" . }}
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
      envFrom:
        - configMapRef:
            name: {{ $name }}-settings
        {{- with include "orchard.envFrom" . | trim }}
        {{- . | nindent 8 }}
        {{- end }}
      env:
        - name: ORCHARD_APP_ID
          value: {{ $name }}
        {{- if eq .Values.mode "job" }}
        # What a setting such as fresh is done once for, however many drivers the Job takes.
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
          value: {{ join "," . | quote }}
        {{- end }}
        {{- with .Values.webhook.existingSecret }}
        - name: ORCHARD_WEBHOOK
          valueFrom: {secretKeyRef: {name: {{ . }}, key: url}}
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

{{- define "orchard.driverAnnotations" -}}
checksum/settings: {{ printf "%s%s" (include "orchard.settings" .) (include "orchard.executorTemplate" .) | sha256sum }}
{{- with .Values.rerun }}
orchard/rerun: {{ . | toString | quote }}
{{- end }}
{{- end -}}

{{/* What the driver's container may use; in mode operator Spark adds CPU and memory itself. */}}
{{- define "orchard.driverLimits" -}}
{{- $limits := dict -}}
{{- if ne .Values.mode "operator" -}}
{{- $_ := set $limits "memory" (include "orchard.driverMemory" .) -}}
{{- with .Values.driver.coreLimit }}{{ $_ := set $limits "cpu" (toString .) }}{{ end -}}
{{- end -}}
{{- with .Values.driver.ephemeralStorage.limit }}{{ $_ := set $limits "ephemeral-storage" . }}{{ end -}}
{{- toYaml $limits -}}
{{- end -}}

{{/* Resources of a pod of helm test: dict "root" $ "requests" …. What a quota asks of the driver, it asks of this pod too. */}}
{{- define "orchard.testResources" -}}
{{- with .root.Values.tests.resources -}}
{{- toYaml . -}}
{{- else -}}
{{- $driver := .root.Values.driver -}}
{{- $limits := dict "memory" (include "orchard.driverMemory" .root) -}}
{{- with $driver.coreLimit }}{{ $_ := set $limits "cpu" (toString .) }}{{ end -}}
{{- with $driver.ephemeralStorage.limit }}{{ $_ := set $limits "ephemeral-storage" . }}{{ end -}}
{{- toYaml (dict "requests" .requests "limits" $limits) -}}
{{- end -}}
{{- end -}}

{{- define "orchard.driverMemory" -}}
{{- $driver := include "orchard.driver" . | fromYaml -}}
{{- add (include "orchard.mebibytes" $driver.memory) (include "orchard.mebibytes" $driver.memoryOverhead) -}}Mi
{{- end -}}

{{/* The values of the driver: those of tune.resources in their place where it tunes the network. */}}
{{- define "orchard.driver" -}}
{{- $settings := .Values.settings -}}
{{- $tunes := eq (toString $settings.quality) "best" -}}
{{- if hasKey $settings "tune" }}{{ $tunes = eq (toString $settings.tune) "true" }}{{ end -}}
{{- if eq .Values.command "tune" }}{{ $tunes = true }}{{ end -}}
{{- toYaml (mergeOverwrite (deepCopy .Values.driver) (ternary (deepCopy .Values.tune.resources) dict $tunes)) -}}
{{- end -}}
