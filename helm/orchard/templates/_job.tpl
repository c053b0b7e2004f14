{{/* The same in a Job and in a CronJob. */}}
{{- define "orchard.jobSpec" -}}
backoffLimit: {{ .Values.backoffLimit }}
{{- with .Values.activeDeadlineSeconds }}
activeDeadlineSeconds: {{ . }}
{{- end }}
{{- if not (kindIs "invalid" .Values.ttlSecondsAfterFinished) }}
ttlSecondsAfterFinished: {{ .Values.ttlSecondsAfterFinished }}
{{- end }}
# A driver starts only when the one before has ended: both would write to the same output.
podReplacementPolicy: Failed
podFailurePolicy:
  rules:
    # 1: done, too many images rejected; 2: a setting; 3: source, credentials. Trying again does not mend them.
    - action: FailJob
      onExitCodes:
        containerName: driver
        operator: In
        values: [1, 2, 3]
    # A drained or preempted node is nobody's failure.
    - action: Ignore
      onPodConditions:
        - type: DisruptionTarget
          status: "True"
template:
  {{- include "orchard.driverTemplate" . | nindent 2 }}
{{- end -}}

{{- define "orchard.jobName" -}}
{{ include "orchard.fullname" . }}-{{ include "orchard.jobSpec" . | sha256sum | trunc 8 }}
{{- end -}}
