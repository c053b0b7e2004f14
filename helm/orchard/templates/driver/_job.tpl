{{/* The same in a Job and in a CronJob. */}}
{{- define "orchard.jobSpec" -}}
backoffLimit: {{ .Values.backoffLimit }}
{{- with .Values.activeDeadlineSeconds }}
activeDeadlineSeconds: {{ . }}
{{- end }}
{{- if not (or .Values.gitops (kindIs "invalid" .Values.ttlSecondsAfterFinished)) }}
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

{{/*
A Job cannot be edited. Helm removes the one whose name is gone; what applies manifests does not, or not before the next one runs:
for it there is one name, and Argo CD and Flux are told to replace the Job where it cannot be changed.
*/}}
{{- define "orchard.jobName" -}}
{{ include "orchard.fullname" . }}{{ if not .Values.gitops }}-{{ include "orchard.jobSpec" . | sha256sum | trunc 8 }}{{ end }}
{{- end -}}

{{/* Annotations of what runs. It comes last and goes first: accounts and roles outlive the driver that uses them. */}}
{{- define "orchard.runAnnotations" -}}
{{- if .Values.gitops -}}
argocd.argoproj.io/sync-wave: "1"
{{- if eq .Values.mode "job" }}
argocd.argoproj.io/sync-options: Force=true
kustomize.toolkit.fluxcd.io/force: enabled
{{- end }}
{{- else -}}
{}
{{- end -}}
{{- end -}}
