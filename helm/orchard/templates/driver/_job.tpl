{{/* The specification of a Job, shared with the CronJob. */}}
{{- define "orchard.jobSpec" -}}
backoffLimit: {{ .Values.backoffLimit }}
{{- with .Values.activeDeadlineSeconds }}
activeDeadlineSeconds: {{ . }}
{{- end }}
{{- if not (or .Values.gitops (kindIs "invalid" .Values.ttlSecondsAfterFinished)) }}
ttlSecondsAfterFinished: {{ .Values.ttlSecondsAfterFinished }}
{{- end }}
# A driver starts only when the last one has ended, because both write to the same output.
podReplacementPolicy: Failed
podFailurePolicy:
  rules:
    # 1: done, too many images rejected; 2: a setting; 3: source, credentials. A retry does not help.
    - action: FailJob
      onExitCodes:
        containerName: driver
        operator: In
        values: [1, 2, 3]
    # A drained or preempted node does not count as a failure.
    - action: Ignore
      onPodConditions:
        - type: DisruptionTarget
          status: "True"
template:
  {{- include "orchard.driverTemplate" . | nindent 2 }}
{{- end -}}

{{/*
A Job cannot be edited. Helm removes a Job whose name is gone; tools that apply manifests do not, or only after the next one has started.
For them the name is fixed, and annotations tell Argo CD and Flux to replace the Job.
*/}}
{{- define "orchard.jobName" -}}
{{ include "orchard.fullname" . }}{{ if not .Values.gitops }}-{{ include "orchard.jobSpec" . | sha256sum | trunc 8 }}{{ end }}
{{- end -}}

{{/* Annotations of the workload. It is applied last and removed first, so that accounts and roles outlive the driver. */}}
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
