{{/* Whom a network policy is for: dict "root" $ "component" …. Each component's own file says who may come in and where it may go. */}}
{{- define "orchard.policyHead" -}}
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata:
  {{- include "orchard.metadata" (merge (dict "name" (printf "%s-%s" (include "orchard.fullname" .root) .component)) .) | nindent 2 }}
spec:
  podSelector:
    matchLabels:
      {{- include "orchard.selector" . | nindent 6 }}
  policyTypes: [Ingress, Egress]
{{- end -}}

{{/* Driver and executors of this release, as peers. */}}
{{- define "orchard.sparkPeers" -}}
{{- range $component := list "driver" "executor" }}
- podSelector:
    matchLabels:
      {{- include "orchard.selector" (dict "root" $ "component" $component) | nindent 6 }}
{{- end }}
{{- end -}}

{{/* Who may use a server, and who may read metrics, as peers. */}}
{{- define "orchard.userPeers" -}}
{{- .Values.networkPolicy.allowFrom | default (list (dict "podSelector" dict)) | toYaml -}}
{{- end -}}

{{- define "orchard.metricsPeers" -}}
{{- with .Values.networkPolicy.allowMetricsFrom }}{{ toYaml . }}{{ else }}{{ include "orchard.userPeers" . }}{{ end -}}
{{- end -}}

{{/* Egress that every pod has: DNS. */}}
{{- define "orchard.dnsEgress" -}}
- ports:
    - {port: 53, protocol: UDP}
    - {port: 53, protocol: TCP}
{{- end -}}

{{/* Egress that every pod has: the object storage, what gives out its credentials, and the user's own rules. May be empty. */}}
{{- define "orchard.storageEgress" -}}
{{- $policy := .Values.networkPolicy -}}
{{- $settings := .Values.settings -}}
{{- $read := list $settings.weights $settings.cards $settings.corrections $settings.unknown $settings.backgrounds .Values.serve.privacyNotice -}}
{{- $places := concat $read (list .Values.source .Values.output .Values.serve.model .Values.eventLog.directory) | compact | join " " -}}
{{- $ports := list 443 -}}
{{- with .Values.s3.endpoint }}
{{- $port := regexFind ":[0-9]+$" (urlParse .).host | trimPrefix ":" -}}
{{- $ports = list ($port | default (ternary "80" "443" (hasPrefix "http://" .)) | int) -}}
{{- end -}}
{{- if regexMatch "(^| )(s3a?|gs|abfss?)://" $places }}
# The object storage.
- ports:
    {{- range $policy.storage.ports | default $ports }}
    - {port: {{ . }}, protocol: TCP}
    {{- end }}
  {{- with $policy.storage.cidrs }}
  to:
    {{- range . }}
    - ipBlock: {cidr: {{ . | quote }}}
    {{- end }}
  {{- end }}
{{- if regexMatch "(^| )s3a?://" $places }}
# The agent of EKS Pod Identity, for credentials.
- to:
    - ipBlock: {cidr: 169.254.170.23/32}
    - ipBlock: {cidr: "fd00:ec2::23/128"}
  ports:
    - {port: 80, protocol: TCP}
{{- end }}
{{- if regexMatch "(^| )gs://" $places }}
# GKE's metadata server, for credentials: of Dataplane V2, and of nodes without it.
- to:
    - ipBlock: {cidr: 169.254.169.254/32}
  ports:
    - {port: 80, protocol: TCP}
- to:
    - ipBlock: {cidr: 169.254.169.252/32}
  ports:
    - {port: 988, protocol: TCP}
{{- end }}
{{- end }}
{{- with $policy.extraEgress }}
{{ toYaml . }}
{{- end }}
{{- end -}}
