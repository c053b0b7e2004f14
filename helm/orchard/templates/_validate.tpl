{{/* Whether a place is in a bucket of any cloud; empty if not. */}}
{{- define "orchard.isObject" -}}
{{- if regexMatch "^(s3a?|gs|abfss?)://" (trim (toString .)) }}yes{{ end -}}
{{- end -}}

{{/*
A place of images, results or a model is one that pods can reach: dict "root" $ "name" … "place" …. Locally it must lie under a mount.
*/}}
{{- define "orchard.reachable" -}}
{{- $place := trim (toString .place) -}}
{{- $name := .name -}}
{{- if regexMatch "^[A-Za-z][A-Za-z0-9+.-]*://" $place -}}
{{- if regexMatch "^(wasbs?|https?|az|azure|adl|gcs)://" $place }}{{ fail (printf "%s=%s cannot be read: write s3a://BUCKET/PREFIX, gs://BUCKET/PREFIX or abfss://CONTAINER@ACCOUNT.dfs.core.windows.net/PREFIX." $name $place) }}{{ end -}}
{{- if and (regexMatch "^abfss?://" $place) (not (regexMatch "^abfss?://[^/@]+@[^/@.]+\\.dfs\\.[^/@]+(/|$)" $place)) }}{{ fail (printf "%s=%s does not say whose container that is: write abfss://CONTAINER@ACCOUNT.dfs.core.windows.net/PREFIX." $name $place) }}{{ end -}}
{{- if not (regexMatch "^(s3a?|gs|abfss?|file)://" $place) }}{{ fail (printf "%s=%s cannot be read: give an s3a://, gs:// or abfss:// address, or a folder that a volume mounts." $name $place) }}{{ end -}}
{{- end -}}
{{- if not (include "orchard.isObject" $place) -}}
{{- $path := clean (regexReplaceAll "^file:/+" $place "/") -}}
{{- if not (hasPrefix "/" $path) }}{{ fail (printf "%s=%s is no absolute path: give a bucket's address such as s3a://bucket/images, or a folder that a volume mounts." $name $place) }}{{ end -}}
{{- $mounts := list -}}
{{- range $_, $claim := .root.Values.persistence }}{{ if $claim.existingClaim }}{{ $mounts = append $mounts $claim.mountPath }}{{ end }}{{ end -}}
{{- range .root.Values.extraVolumeMounts }}{{ $mounts = append $mounts .mountPath }}{{ end -}}
{{- $under := false -}}
{{- range $mounts }}{{ if hasPrefix (printf "%s/" (trimSuffix "/" (clean .))) (printf "%s/" (trimSuffix "/" $path)) }}{{ $under = true }}{{ end }}{{ end -}}
{{- if not $under }}{{ fail (printf "%s=%s lies under no mount (%s): name its claim in persistence, mount a volume there with extraVolumes, or give a bucket's address such as s3a://bucket/images." $name $place ($mounts | join ", " | default "there is none")) }}{{ end -}}
{{- end -}}
{{- end -}}

{{/* Refuse labels that the chart, Spark and Helm use to find objects. */}}
{{- define "orchard.validateLabels" -}}
{{- range $where, $labels := dict "commonLabels" .Values.commonLabels "podLabels" .Values.podLabels "driver.labels" .Values.driver.labels "executor.labels" .Values.executor.labels "serve.labels" .Values.serve.labels -}}
{{- range $key, $_ := $labels -}}
{{- if regexMatch "^(app\\.kubernetes\\.io/(name|instance|component|version|managed-by)|spark-.*|(batch\\.kubernetes\\.io/)?(job-name|controller-uid))$" $key -}}
{{- fail (printf "%s may not set %s: services, roles and orchard status find their objects by it." $where $key) -}}
{{- end -}}
{{- end -}}
{{- end -}}
{{- end -}}

{{/* Refuse two volumes of one name or at one path: Kubernetes would, and of an operator's job only when it is submitted. */}}
{{- define "orchard.validateVolumes" -}}
{{- $names := ternary (list "tmp" "pods") (list "tmp") (eq .Values.mode "job") -}}
{{- $paths := ternary (list "/tmp" "/etc/orchard") (list "/tmp") (eq .Values.mode "job") -}}
{{- range $name, $claim := .Values.persistence -}}
{{- if $claim.existingClaim }}{{ $names = append $names $name }}{{ $paths = append $paths (clean $claim.mountPath) }}{{ end -}}
{{- end -}}
{{- range .Values.extraVolumes }}{{ $names = append $names .name }}{{ end -}}
{{- range .Values.extraVolumeMounts }}{{ $paths = append $paths (clean .mountPath) }}{{ end -}}
{{- range $nth, $name := $names -}}
{{- if has $name (slice $names 0 $nth) }}{{ fail (printf "Two volumes have the name %s: give the one of extraVolumes another name." $name) }}{{ end -}}
{{- end -}}
{{- range $nth, $path := $paths -}}
{{- if has $path (slice $paths 0 $nth) }}{{ fail (printf "Two volumes are mounted at %s: give each a path of its own; subPath mounts one folder of a claim." $path) }}{{ end -}}
{{- end -}}
{{- end -}}

{{/* Refuse requests above their limits: Kubernetes would refuse the pod, an executor's only when the job already runs. */}}
{{- define "orchard.validateLimits" -}}
{{- range $role := list "driver" "executor" -}}
{{- $of := get $.Values $role -}}
{{- if eq $role "driver" }}{{ $of = include "orchard.driver" $ | fromYaml }}{{ end -}}
{{- $request := toString $of.coreRequest -}}
{{- if and $of.coreLimit $request (gt (include "orchard.millicores" $request | int64) (include "orchard.millicores" $of.coreLimit | int64)) -}}
{{- fail (printf "%s.coreLimit=%s is less than the %s CPUs that its pod requests: raise it, or lower %s.coreRequest (tune.resources.coreRequest of a driver that tunes)." $role (toString $of.coreLimit) $request $role) -}}
{{- end -}}
{{- with $of.ephemeralStorage -}}
{{- if and .limit (gt (include "orchard.bytes" .request | int64) (include "orchard.bytes" .limit | int64)) -}}
{{- fail (printf "%s.ephemeralStorage.limit=%s is less than the %s that its pod requests: raise it, or lower the request (tune.resources.ephemeralStorage.request of a driver that tunes)." $role .limit .request) -}}
{{- end -}}
{{- end -}}
{{- end -}}
{{- end -}}

{{/* Refuse values that do not go together, which values.schema.json cannot express. */}}
{{- define "orchard.validate" -}}
{{- $v := .Values -}}
{{- $runs := ne $v.mode "none" -}}
{{- if and $runs (not $v.source) (ne $v.command "tune") }}{{ fail "source is missing: --set source=s3a://bucket/images (or a folder that a volume mounts)." }}{{ end -}}
{{- if and $runs (not $v.output) }}{{ fail "output is missing: --set output=s3a://bucket/results (or a folder that a volume mounts on driver and executors)." }}{{ end -}}
{{- if not $v.image.repository }}{{ fail "image.repository is missing, for there is no public image: build and push one first (make image IMAGE=registry.example.com/orchard:0.1.0; docker push registry.example.com/orchard:0.1.0), then --set image.repository=registry.example.com/orchard." }}{{ end -}}
{{- include "orchard.validateLabels" . -}}
{{- include "orchard.validateVolumes" . -}}
{{- if ne (eq $v.command "compare") (not (empty $v.compare.backbones)) }}{{ fail "command=compare and compare.backbones need each other: give both, or neither." }}{{ end -}}
{{- if and (eq $v.command "compare") $v.settings.backbone }}{{ fail "settings.backbone is not for command=compare: name the networks in compare.backbones." }}{{ end -}}
{{- if and (eq $v.command "compare") $v.serve.enabled (not $v.serve.model) }}{{ fail (printf "serve.model is missing: a comparison leaves a model for each network, such as %s/%s." $v.output (index (splitList "," (include "orchard.variable" $v.compare.backbones)) 0)) }}{{ end -}}
{{- if $runs -}}
{{- with $v.source }}{{ include "orchard.reachable" (dict "root" $ "name" "source" "place" .) }}{{ end -}}
{{- include "orchard.reachable" (dict "root" . "name" "output" "place" $v.output) -}}
{{- range $name := list "cards" "corrections" "unknown" -}}
{{- with get $v.settings $name }}{{ include "orchard.reachable" (dict "root" $ "name" (printf "settings.%s" $name) "place" .) }}{{ end -}}
{{- end -}}
{{- with $v.settings.backgrounds }}{{ if ne . "none" }}{{ include "orchard.reachable" (dict "root" $ "name" "settings.backgrounds" "place" .) }}{{ end }}{{ end -}}
{{- with $v.settings.weights }}{{ if not (has . (list "imagenet" "random")) }}{{ include "orchard.reachable" (dict "root" $ "name" "settings.weights" "place" .) }}{{ end }}{{ end -}}
{{- end -}}
{{- if $v.serve.enabled }}{{ with $v.serve.model }}{{ include "orchard.reachable" (dict "root" $ "name" "serve.model" "place" .) }}{{ end }}{{ end -}}
{{- if $v.serve.enabled }}{{ with $v.serve.privacyNotice }}{{ if not (regexMatch "^https?://" .) }}{{ include "orchard.reachable" (dict "root" $ "name" "serve.privacyNotice" "place" .) }}{{ end }}{{ end }}{{ end -}}
{{- /* A folder inside the source is another place. */ -}}
{{- $source := regexReplaceAll "/+$" (regexReplaceAll "^abfs://" (regexReplaceAll "^s3://" (trim (toString $v.source)) "s3a://") "abfss://") "" -}}
{{- $output := regexReplaceAll "/+$" (regexReplaceAll "^abfs://" (regexReplaceAll "^s3://" (trim (toString $v.output)) "s3a://") "abfss://") "" -}}
{{- if not (include "orchard.isObject" $source) }}{{ $source = clean (trimPrefix "file://" $source) }}{{ $output = clean (trimPrefix "file://" $output) }}{{ end -}}
{{- if and $runs (eq $source $output) }}{{ fail (printf "%s is where the images are: choose another output, such as a folder in it." $v.output) }}{{ end -}}
{{- range $role := list "driver" "executor" -}}
{{- $memory := (get $v $role).memory -}}
{{- if lt (include "orchard.mebibytes" $memory | int) 512 }}{{ fail (printf "%s.memory=%s is too little: Spark starts with 512m at the least." $role $memory) }}{{ end -}}
{{- end -}}
{{- if lt (include "orchard.mebibytes" (include "orchard.executorOverhead" .) | int) (include "orchard.leastOverhead" . | int) }}{{ fail (printf "executor.memoryOverhead=%s is too little for executor.cores=%d: 384m for the JVM and 450m for each core's Python worker are %sm; leave it empty to have that." $v.executor.memoryOverhead (int $v.executor.cores) (include "orchard.leastOverhead" .)) }}{{ end -}}
{{- if $runs }}{{ include "orchard.validateLimits" . }}{{ end -}}
{{- if and $v.executor.gpu.count (not $v.executor.gpu.imageHasEngine) }}{{ fail "executor.gpu.count needs an image with an engine for GPUs, which Orchard's own is not: build one with such a TensorFlow, and set executor.gpu.imageHasEngine=true and settings.engine=tensorflow." }}{{ end -}}
{{- if and (hasKey $v.settings "variance") (hasKey $v.settings "components") (not (kindIs "invalid" $v.settings.variance)) (not (kindIs "invalid" $v.settings.components)) }}{{ fail "settings.variance and settings.components exclude each other: give one of them." }}{{ end -}}
{{- with $v.dynamicAllocation }}{{ if and .enabled (gt (int .min) (int .max)) }}{{ fail (printf "dynamicAllocation.min (%d) is greater than dynamicAllocation.max (%d)." (int .min) (int .max)) }}{{ end }}{{ end -}}
{{- with $v.autoscale }}{{ if .enabled -}}
{{- if or (ne $v.mode "job") $v.dynamicAllocation.enabled }}{{ fail "autoscale is for mode job without dynamicAllocation: where the operator runs the job, or Spark makes the executors, set dynamicAllocation instead." }}{{ end -}}
{{- if gt (int .min) (int .max) }}{{ fail (printf "autoscale.min (%d) is greater than autoscale.max (%d)." (int .min) (int .max)) }}{{ end -}}
{{- end }}{{ end -}}
{{- if and $v.eventLog.enabled (not $v.eventLog.directory) }}{{ fail "eventLog.directory is missing: name the folder, such as s3a://bucket/spark-events." }}{{ end -}}
{{- if $v.eventLog.enabled }}{{ with $v.eventLog.directory }}{{ if or (hasPrefix "/" .) (hasPrefix "file:" .) }}{{ include "orchard.reachable" (dict "root" $ "name" "eventLog.directory" "place" .) }}{{ end }}{{ end }}{{ end -}}
{{- if and $v.eventLog.historyServer.enabled (not $v.eventLog.enabled) }}{{ fail "eventLog.historyServer needs eventLog.enabled=true and eventLog.directory." }}{{ end -}}
{{- if and $v.metrics.podMonitor.enabled (not $v.metrics.enabled) }}{{ fail "metrics.podMonitor needs metrics.enabled=true." }}{{ end -}}
{{- if and $v.metrics.rules.enabled (not (and $runs $v.metrics.enabled)) }}{{ fail "metrics.rules needs metrics.enabled=true, and a job (mode job or operator)." }}{{ end -}}
{{- if and (eq (include "orchard.allocator" .) "deployment") (contains "persistentVolumeClaim:" (include "orchard.volumes" .)) }}{{ fail "Spark takes no volume claims with executor.allocator=deployment: use statefulset." }}{{ end -}}
{{- if and $v.networkPolicy.enabled (not $v.networkPolicy.apiServerPorts) }}{{ fail "networkPolicy.apiServerPorts is empty, and a rule without ports opens all of them: name the ports of the Kubernetes API's endpoints." }}{{ end -}}
{{- with $v.batchScheduler }}{{ if and (eq .name "kueue") (not .queue) }}{{ fail "batchScheduler.queue is missing: name the LocalQueue of Kueue." }}{{ end }}{{ end -}}
{{- if not (or $runs $v.serve.enabled) }}{{ fail "mode none runs nothing: add --set serve.enabled=true, or choose mode job or operator." }}{{ end -}}
{{- if and $v.serve.enabled (not (or $v.serve.model $v.output)) }}{{ fail "serve.model is missing: name the output that holds the model, such as s3a://bucket/results." }}{{ end -}}
{{- if and $v.serve.gateway.enabled (not $v.serve.gateway.parentRefs) }}{{ fail "serve.gateway.parentRefs is missing: name the Gateway, such as [{name: public, namespace: gateways}]." }}{{ end -}}
{{- if and $v.serve.ingress.enabled (not $v.serve.ingress.host) }}{{ fail "serve.ingress.host is missing: name the host, such as fruits.example.com." }}{{ end -}}
{{- with $v.serve.autoscaling }}{{ if and .enabled (gt (int .min) (int .max)) }}{{ fail (printf "serve.autoscaling.min (%d) is greater than serve.autoscaling.max (%d)." (int .min) (int .max)) }}{{ end }}{{ end -}}
{{- range $place, $claim := $v.persistence }}{{ if and $claim.existingClaim (not (hasPrefix "/" $claim.mountPath)) }}{{ fail (printf "persistence.%s.mountPath must be an absolute path." $place) }}{{ end }}{{ end -}}
{{- end -}}
