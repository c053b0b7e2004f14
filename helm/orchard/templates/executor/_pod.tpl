{{/* The executors' pod template. Spark adds image, resources, arguments, local directories. */}}
{{- define "orchard.executorTemplate" -}}
metadata:
  {{- include "orchard.podMetadata" (dict "root" . "role" .Values.executor "component" "executor") | nindent 2 }}
spec:
  serviceAccountName: {{ include "orchard.executorAccount" . | toYaml }}
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
      # Shows why an executor failed at its start.
      terminationMessagePolicy: FallbackToLogsOnError
      volumeMounts:
        {{- include "orchard.volumeMounts" . | nindent 8 }}
  volumes:
    {{- include "orchard.volumes" . | nindent 4 }}
{{- end -}}
