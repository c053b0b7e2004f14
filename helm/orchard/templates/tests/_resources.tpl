{{/* Resources of a pod of helm test: dict "root" $ "requests" …. A quota that demands limits for the driver demands them for this pod too. */}}
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
