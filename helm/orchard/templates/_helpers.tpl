{{/* The name of every object, and Spark's application id: the executors' set is spark-s-<name>-0. */}}
{{- define "orchard.fullname" -}}
{{- $name := .Values.fullnameOverride | default .Release.Name -}}
{{- if not (regexMatch "^[a-z]([-a-z0-9]*[a-z0-9])?$" $name) -}}
{{- fail (printf "The name %q cannot be that of services and executors: take small letters, digits and dashes, a letter first, for the release or for fullnameOverride." $name) -}}
{{- end -}}
{{- if gt (len $name) 42 -}}
{{- fail (printf "The name %q has %d characters and may have 42, so that the labels of executors fit: choose a shorter release name or fullnameOverride." $name (len $name)) -}}
{{- end -}}
{{- $name -}}
{{- end -}}

{{- define "orchard.selector" -}}
app.kubernetes.io/name: orchard
app.kubernetes.io/instance: {{ include "orchard.fullname" .root | toYaml }}
app.kubernetes.io/component: {{ .component }}
{{- end -}}

{{/* Labels of an object: dict "root" $ "component" …, and perhaps "labels". */}}
{{- define "orchard.labels" -}}
{{- /* A tag may begin and end with what a label's value may not. */ -}}
{{- $version := regexReplaceAll "^[._-]+|[._-]+$" (.root.Values.image.tag | default .root.Chart.AppVersion | trunc 63) "" -}}
{{- mergeOverwrite (include "orchard.selector" . | fromYaml) (deepCopy (.root.Values.commonLabels | default dict)) (.labels | default dict)
  (dict "app.kubernetes.io/version" $version "app.kubernetes.io/managed-by" .root.Release.Service) | toYaml -}}
{{- end -}}

{{/* metadata of an object: dict "root" $ "name" … "component" …, and perhaps "labels" and "annotations". */}}
{{- define "orchard.metadata" -}}
name: {{ .name | toYaml }}
labels:
  {{- include "orchard.labels" . | nindent 2 }}
{{- with mergeOverwrite (deepCopy (.root.Values.commonAnnotations | default dict)) (.annotations | default dict) }}
annotations:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- end -}}

{{/* The image; a global registry takes the place of the repository's own. */}}
{{- define "orchard.image" -}}
{{- $repository := .Values.image.repository -}}
{{- with .Values.global.imageRegistry -}}
{{- $repository = printf "%s/%s" (trimSuffix "/" .) (regexReplaceAll "^[^/]*[.:][^/]*/" $repository "") -}}
{{- end -}}
{{- $repository }}{{ with .Values.image }}{{ if .digest }}@{{ .digest }}{{ else }}:{{ .tag | default $.Chart.AppVersion }}{{ end }}{{ end -}}
{{- end -}}

{{- define "orchard.imagePullSecrets" -}}
{{- $names := list -}}
{{- range concat (.Values.imagePullSecrets | default list) (.Values.global.imagePullSecrets | default list) -}}
{{- if kindIs "string" . }}{{ $names = append $names . }}{{ else }}{{ $names = append $names .name }}{{ end -}}
{{- end -}}
{{- range uniq $names }}
- name: {{ . | toYaml }}
{{- end }}
{{- end -}}

{{- define "orchard.driverAccount" -}}
{{- $account := .Values.serviceAccount.driver -}}
{{- $account.name | default (ternary (printf "%s-driver" (include "orchard.fullname" .)) "default" $account.create) -}}
{{- end -}}

{{- define "orchard.executorAccount" -}}
{{- $account := .Values.serviceAccount.executor -}}
{{- $account.name | default (ternary (printf "%s-executor" (include "orchard.fullname" .)) "default" $account.create) -}}
{{- end -}}

{{/* The workload that makes the executors' pods; empty where Spark makes them one by one. */}}
{{- define "orchard.allocator" -}}
{{- if not .Values.dynamicAllocation.enabled }}{{ .Values.executor.allocator }}{{ end -}}
{{- end -}}

{{- define "orchard.executorSet" -}}
{{- printf "spark-%s-%s-0" (trunc 1 .Values.executor.allocator) (include "orchard.fullname" .) -}}
{{- end -}}

{{/* 900m or 2g as a number of MiB. */}}
{{- define "orchard.mebibytes" -}}
{{- mul (trimSuffix "m" (trimSuffix "g" .) | int64) (ternary 1024 1 (hasSuffix "g" .)) -}}
{{- end -}}

{{/* 500m or 1.5 CPUs as thousandths. */}}
{{- define "orchard.millicores" -}}
{{- $cpu := toString . -}}
{{- if hasSuffix "m" $cpu }}{{ trimSuffix "m" $cpu | int64 }}{{ else }}{{ mulf (float64 $cpu) 1000 | int64 }}{{ end -}}
{{- end -}}

{{/* 512Mi or 2G as bytes. */}}
{{- define "orchard.bytes" -}}
{{- $unit := regexFind "[kKMGT]i?$" . -}}
{{- mul (trimSuffix $unit . | int64) (get (dict "k" 1000 "M" 1000000 "G" 1000000000 "T" 1000000000000 "Ki" 1024 "Mi" 1048576 "Gi" 1073741824 "Ti" 1099511627776) $unit | int64) -}}
{{- end -}}

{{/* What sizing.md knows of executors: the JVM's own memory and a Python worker for each core. */}}
{{- define "orchard.leastOverhead" -}}
{{- add 384 (mul 450 (int .Values.executor.cores)) -}}
{{- end -}}

{{- define "orchard.executorOverhead" -}}
{{- .Values.executor.memoryOverhead | default (printf "%sm" (include "orchard.leastOverhead" .)) -}}
{{- end -}}

{{- define "orchard.executorCoreRequest" -}}
{{- $cores := mul 500 (int .Values.executor.cores) -}}
{{- with .Values.executor.coreLimit }}{{ $cores = min $cores (include "orchard.millicores" . | int64) }}{{ end -}}
{{- .Values.executor.coreRequest | default (printf "%dm" $cores) -}}
{{- end -}}

{{/* Whether the driver follows executor.instances while it runs; empty if not. */}}
{{- define "orchard.followsUpgrades" -}}
{{- if and (eq .Values.mode "job") (include "orchard.allocator" .) (not .Values.schedule.cron) (not .Values.autoscale.enabled) .Values.scaleOnUpgrade.enabled }}true{{ end -}}
{{- end -}}

{{/* A setting as a variable's value: a list joined by commas; JSON writes 100000000, not 1e+08. */}}
{{- define "orchard.variable" -}}
{{- if kindIs "slice" . }}{{ join "," . }}{{ else if kindIs "string" . }}{{ . }}{{ else }}{{ toJson . }}{{ end -}}
{{- end -}}

{{/*
Spark's properties that are a matter of Kubernetes, the same in both modes, as YAML; all values are strings.
What a driver would need more permissions for, and can do without, is switched off: a ConfigMap for executors that would be
empty, the deletion of services and claims (they belong to the driver's pod and go with it).
*/}}
{{- define "orchard.sparkConf" -}}
{{- $name := include "orchard.fullname" . -}}
{{- $conf := dict
  "spark.app.name" $name
  "spark.kubernetes.executor.disableConfigMap" "true"
  "spark.kubernetes.driver.ownPersistentVolumeClaim" "false"
  "spark.kubernetes.driver.reusePersistentVolumeClaim" "false"
  "spark.kubernetes.driver.service.deleteOnTermination" "false"
  "spark.kubernetes.executor.terminationGracePeriodSeconds" (printf "%ds" (int .Values.executor.terminationGracePeriodSeconds))
  "spark.driver.port" "7078"
  "spark.blockManager.port" "7079"
  "spark.driver.blockManager.port" "7079"
  "spark.authenticate" "true"
  "spark.network.crypto.enabled" "true"
  "spark.network.crypto.cipher" "AES/GCM/NoPadding"
  "spark.io.encryption.enabled" "true"
-}}
{{- if not (kindIs "invalid" .Values.s3.pathStyle) -}}
{{- $_ := set $conf "spark.hadoop.fs.s3a.path.style.access" (toString .Values.s3.pathStyle) -}}
{{- end -}}
{{- if .Values.dynamicAllocation.enabled -}}
{{- /*
A driver waits for its first executor before it has tasks for which Spark would make one. Spark would end after twice as many
failures as executors, and counts each try that a full quota refuses.
*/ -}}
{{- $conf = merge $conf (dict
  "spark.dynamicAllocation.enabled" "true"
  "spark.dynamicAllocation.shuffleTracking.enabled" "true"
  "spark.dynamicAllocation.initialExecutors" (max 1 (int .Values.dynamicAllocation.min) | toString)
  "spark.dynamicAllocation.minExecutors" (.Values.dynamicAllocation.min | int | toString)
  "spark.dynamicAllocation.maxExecutors" (.Values.dynamicAllocation.max | int | toString)
  "spark.kubernetes.allocation.pods.allocator" "direct"
  "spark.executor.maxNumFailures" "1000000"
) -}}
{{- else -}}
{{- $_ := set $conf "spark.kubernetes.allocation.pods.allocator" .Values.executor.allocator -}}
{{- end -}}
{{- if .Values.decommission.enabled -}}
{{- $conf = merge $conf (dict
  "spark.decommission.enabled" "true"
  "spark.storage.decommission.enabled" "true"
  "spark.storage.decommission.rddBlocks.enabled" "true"
  "spark.storage.decommission.shuffleBlocks.enabled" "true"
  "spark.storage.decommission.replicationReattemptInterval" "3s"
) -}}
{{- end -}}
{{- if .Values.eventLog.enabled -}}
{{- /* A log is named for the application, whose second driver would not start if it might not overwrite it. */ -}}
{{- $conf = merge $conf (dict
  "spark.eventLog.enabled" "true"
  "spark.eventLog.dir" .Values.eventLog.directory
  "spark.eventLog.compress" "true"
  "spark.eventLog.overwrite" "true"
) -}}
{{- end -}}
{{- if .Values.metrics.enabled -}}
{{- $conf = merge $conf (dict
  "spark.ui.enabled" "true"
  "spark.ui.port" "4040"
  "spark.ui.killEnabled" "false"
  "spark.ui.prometheus.enabled" "true"
  "spark.metrics.namespace" "orchard"
  "spark.metrics.conf.*.sink.prometheusServlet.class" "org.apache.spark.metrics.sink.PrometheusServlet"
  "spark.metrics.conf.*.sink.prometheusServlet.path" "/metrics/prometheus"
) -}}
{{- end -}}
{{- range $key, $value := .Values.sparkConf -}}
{{- $_ := set $conf $key (include "orchard.variable" $value) -}}
{{- end -}}
{{- $conf | toYaml -}}
{{- end -}}

{{/* What the history server's S3 connector must know; a driver tells its own. */}}
{{- define "orchard.s3aConf" -}}
{{- $pathStyle := .Values.s3.pathStyle -}}
{{- if kindIs "invalid" $pathStyle }}{{ $pathStyle = ne .Values.s3.endpoint "" }}{{ end -}}
spark.hadoop.fs.s3a.aws.credentials.provider: software.amazon.awssdk.auth.credentials.DefaultCredentialsProvider
spark.hadoop.fs.s3a.path.style.access: {{ $pathStyle }}
{{- with .Values.s3.endpoint }}
spark.hadoop.fs.s3a.endpoint: {{ . }}
{{- end }}
{{- with .Values.s3.region }}
spark.hadoop.fs.s3a.endpoint.region: {{ . | toYaml }}
{{- end }}
{{- end -}}

{{/*
The driver's ORCHARD_* variables, without the executors' number, which may change while the job runs. In mode operator it is the
operator that hands Spark its properties.
*/}}
{{- define "orchard.settings" -}}
{{- $variables := dict -}}
{{- range $key, $value := .Values.settings -}}
{{- if not (kindIs "invalid" $value) -}}
{{- $_ := set $variables (printf "ORCHARD_%s" (upper $key)) (include "orchard.variable" $value) -}}
{{- end -}}
{{- end -}}
{{- with .Values.s3.endpoint }}{{ $_ := set $variables "ORCHARD_S3_ENDPOINT" . }}{{ end -}}
{{- with .Values.s3.region }}{{ $_ := set $variables "ORCHARD_S3_REGION" . }}{{ end -}}
{{- with .Values.autoscale -}}
{{- if .enabled -}}
{{- $variables = merge $variables (dict "ORCHARD_MIN_EXECUTORS" (.min | int | toString) "ORCHARD_MAX_EXECUTORS" (.max | int | toString) "ORCHARD_FINISH_WITHIN" .finishWithin) -}}
{{- end -}}
{{- end -}}
{{- if .Values.metrics.enabled }}{{ $_ := set $variables "ORCHARD_METRICS_PORT" "4041" }}{{ end -}}
{{- if eq .Values.mode "job" -}}
{{- $conf := include "orchard.sparkConf" . | fromYaml -}}
{{- $sizes := dict
  "spark.kubernetes.container.image" (include "orchard.image" .)
  "spark.kubernetes.authenticate.executor.serviceAccountName" (include "orchard.executorAccount" .)
  "spark.kubernetes.container.image.pullPolicy" .Values.image.pullPolicy
  "spark.kubernetes.executor.podTemplateFile" "/etc/orchard/executor.yaml"
  "spark.executor.cores" (.Values.executor.cores | int | toString)
  "spark.kubernetes.executor.request.cores" (include "orchard.executorCoreRequest" .)
  "spark.executor.memory" .Values.executor.memory
  "spark.executor.memoryOverhead" (include "orchard.executorOverhead" .)
-}}
{{- with .Values.executor.coreLimit }}{{ $_ := set $sizes "spark.kubernetes.executor.limit.cores" (toString .) }}{{ end -}}
{{- $_ := set $variables "ORCHARD_MASTER" "k8s://https://kubernetes.default.svc" -}}
{{- $_ := set $variables "ORCHARD_DRIVER_MEMORY" .Values.driver.memory -}}
{{- $_ := set $variables "ORCHARD_SPARK_CONF" (merge $conf $sizes | toJson) -}}
{{- else -}}
{{- /* spark-submit sets an application id of its own, and then the executors' set would have no predictable name. */ -}}
{{- $_ := set $variables "ORCHARD_SPARK_CONF" (dict "spark.app.id" (include "orchard.fullname" .) | toJson) -}}
{{- end -}}
{{- toYaml $variables -}}
{{- end -}}

{{/* A word as it is: in arguments and variables Kubernetes takes $(NAME) for a variable, and $$ for one $. */}}
{{- define "orchard.literal" -}}
{{- replace "$" "$$" (toString .) | quote -}}
{{- end -}}

{{- define "orchard.args" -}}
- {{ .Values.command }}
{{- if ne .Values.command "tune" }}
- {{ include "orchard.literal" .Values.source }}
- --output
{{- end }}
- {{ include "orchard.literal" .Values.output }}
{{- if eq .Values.command "compare" }}
- --backbones
- {{ include "orchard.variable" .Values.compare.backbones | include "orchard.literal" }}
- --tolerance
- {{ include "orchard.variable" .Values.compare.tolerance | quote }}
{{- end }}
{{- end -}}

{{/* The label by which Kueue finds what it queues. */}}
{{- define "orchard.queueLabels" -}}
{{- if eq .Values.batchScheduler.name "kueue" -}}
kueue.x-k8s.io/queue-name: {{ .Values.batchScheduler.queue | toYaml }}
{{- else -}}
{}
{{- end -}}
{{- end -}}
