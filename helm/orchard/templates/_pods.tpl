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
priorityClassName: {{ . | toYaml }}
{{- end }}
{{- with .role.runtimeClassName }}
runtimeClassName: {{ . | toYaml }}
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
    claimName: {{ $claim.existingClaim | toYaml }}
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
  mountPath: {{ $claim.mountPath | toYaml }}
  {{- with $claim.subPath }}
  subPath: {{ . | toYaml }}
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
    name: {{ . | toYaml }}
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
