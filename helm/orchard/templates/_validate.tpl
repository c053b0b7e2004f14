{{/* What values.schema.json cannot say: values that do not go together. */}}
{{- define "orchard.validate" -}}
{{- $v := .Values -}}
{{- $runs := ne $v.mode "none" -}}
{{- if and $runs (not $v.source) }}{{ fail "source is missing: --set source=s3a://bucket/images (or a folder that a volume mounts)." }}{{ end -}}
{{- if and $runs (not $v.output) }}{{ fail "output is missing: --set output=s3a://bucket/results (or a folder that a volume mounts on driver and executors)." }}{{ end -}}
{{- /* A folder inside the source is another place. */ -}}
{{- $source := trimSuffix "/" (regexReplaceAll "^s3://" (trim (toString $v.source)) "s3a://") -}}
{{- $output := trimSuffix "/" (regexReplaceAll "^s3://" (trim (toString $v.output)) "s3a://") -}}
{{- if and $runs (eq $source $output) }}{{ fail (printf "%s is where the images are: choose another output, such as a folder in it." $v.output) }}{{ end -}}
{{- if and (hasKey $v.settings "variance") (hasKey $v.settings "components") (not (kindIs "invalid" $v.settings.variance)) (not (kindIs "invalid" $v.settings.components)) }}{{ fail "settings.variance and settings.components exclude each other: give one of them." }}{{ end -}}
{{- with $v.dynamicAllocation }}{{ if and .enabled (gt (int .min) (int .max)) }}{{ fail (printf "dynamicAllocation.min (%d) is greater than dynamicAllocation.max (%d)." (int .min) (int .max)) }}{{ end }}{{ end -}}
{{- if and $v.eventLog.enabled (not $v.eventLog.directory) }}{{ fail "eventLog.directory is missing: name the folder, such as s3a://bucket/spark-events." }}{{ end -}}
{{- if and $v.eventLog.historyServer.enabled (not $v.eventLog.enabled) }}{{ fail "eventLog.historyServer needs eventLog.enabled=true and eventLog.directory." }}{{ end -}}
{{- if and $v.metrics.podMonitor.enabled (not $v.metrics.enabled) }}{{ fail "metrics.podMonitor needs metrics.enabled=true." }}{{ end -}}
{{- if and (eq (include "orchard.allocator" .) "deployment") (contains "persistentVolumeClaim:" (include "orchard.volumes" .)) }}{{ fail "Spark takes no volume claims with executor.allocator=deployment: use statefulset." }}{{ end -}}
{{- with $v.batchScheduler }}{{ if and (eq .name "kueue") (not .queue) }}{{ fail "batchScheduler.queue is missing: name the LocalQueue of Kueue." }}{{ end }}{{ end -}}
{{- if not (or $runs $v.serve.enabled) }}{{ fail "mode none runs nothing: add --set serve.enabled=true, or choose mode job or operator." }}{{ end -}}
{{- if and $v.serve.enabled (not (or $v.serve.model $v.output)) }}{{ fail "serve.model is missing: name the output that holds the model, such as s3a://bucket/results." }}{{ end -}}
{{- if and $v.serve.ingress.enabled (not $v.serve.ingress.host) }}{{ fail "serve.ingress.host is missing: name the host, such as fruits.example.com." }}{{ end -}}
{{- with $v.serve.autoscaling }}{{ if and .enabled (gt (int .min) (int .max)) }}{{ fail (printf "serve.autoscaling.min (%d) is greater than serve.autoscaling.max (%d)." (int .min) (int .max)) }}{{ end }}{{ end -}}
{{- range $place, $claim := $v.persistence }}{{ if and $claim.existingClaim (not (hasPrefix "/" $claim.mountPath)) }}{{ fail (printf "persistence.%s.mountPath must be an absolute path." $place) }}{{ end }}{{ end -}}
{{- end -}}
