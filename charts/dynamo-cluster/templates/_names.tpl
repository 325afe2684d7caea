{{/* The operator derives names of Services and StatefulSets from this one, hence the limit of 40, and no dot, where a release may have one. */}}
{{- define "dynamo-cluster.name" -}}
{{- $name := default (.Release.Name | replace "." "-") .Values.name -}}
{{- if gt (len $name) 40 -}}
{{- fail (printf "name: %q has %d characters, at most 40 are possible; set name or a shorter release name" $name (len $name)) -}}
{{- end -}}
{{- $name -}}
{{- end -}}

{{- define "dynamo-cluster.labels" -}}
app.kubernetes.io/name: dynamokv
app.kubernetes.io/instance: {{ include "dynamo-cluster.name" . | quote }}
app.kubernetes.io/part-of: dynamokv
app.kubernetes.io/managed-by: {{ .Release.Service }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version | replace "+" "_" | trunc 63 | trimSuffix "-" }}
{{- end -}}

{{/* spec.replicas, or nothing where it is the autoscaler's. A cluster that begins with the autoscaler has none in any revision of its
release, so that no rollback finds an older one, and says so in an annotation. One that is handed over later keeps the number that it has:
without one, the API server would put its default of 3 in the place of what an earlier revision gave. That default is no size for a factor
above 3. */}}
{{- define "dynamo-cluster.replicas" -}}
{{- $live := lookup "dynamokv.io/v1alpha1" "DynamoCluster" .Release.Namespace (include "dynamo-cluster.name" .) -}}
{{- if not .Values.autoscaling.enabled -}}
{{- int .Values.replicas -}}
{{- else if and $live (ne (dig "metadata" "annotations" "dynamokv.io/replicas" "" $live) "autoscaled") -}}
{{- int $live.spec.replicas -}}
{{- else if gt (int .Values.replication.factor) 3 -}}
{{- int (dig "spec" "replicas" .Values.autoscaling.minReplicas $live) -}}
{{- end -}}
{{- end -}}

{{/* What needs two values side by side, and so is beyond values.schema.json. The API server refuses the same; this says it earlier. */}}
{{- define "dynamo-cluster.check" -}}
{{- $n := int .Values.replication.factor -}}
{{- if gt (int .Values.replication.r) $n -}}
{{- fail (printf "replication.r: %d answers of %d copies are not possible; set it to at most replication.factor" (int .Values.replication.r) $n) -}}
{{- end -}}
{{- if gt (int .Values.replication.w) $n -}}
{{- fail (printf "replication.w: %d answers of %d copies are not possible; set it to at most replication.factor" (int .Values.replication.w) $n) -}}
{{- end -}}
{{- /* A key of a values file with nothing below it is null. */ -}}
{{- $settings := .Values.settings | default dict -}}
{{- $after := int (dig "hintAfterMs" 500 $settings) -}}
{{- $timeout := int (dig "requestTimeoutMs" 5000 $settings) -}}
{{- if ge $after $timeout -}}
{{- fail (printf "settings.hintAfterMs: %d is not below settings.requestTimeoutMs, which is %d; lower it or raise that" $after $timeout) -}}
{{- end -}}
{{- if .Values.autoscaling.enabled -}}
{{- if lt (int .Values.autoscaling.minReplicas) $n -}}
{{- fail (printf "autoscaling.minReplicas: %d nodes cannot hold %d copies; set it to at least replication.factor" (int .Values.autoscaling.minReplicas) $n) -}}
{{- end -}}
{{- if lt (int .Values.autoscaling.maxReplicas) (int .Values.autoscaling.minReplicas) -}}
{{- fail (printf "autoscaling.maxReplicas: %d is below autoscaling.minReplicas; raise it" (int .Values.autoscaling.maxReplicas)) -}}
{{- end -}}
{{- $requests := (.Values.resources | default dict).requests | default dict -}}
{{- if not $requests.cpu -}}
{{- fail "resources.requests.cpu: the autoscaler measures use against it; set it, for example to 1" -}}
{{- end -}}
{{- else if lt (int .Values.replicas) $n -}}
{{- fail (printf "replicas: %d nodes cannot hold %d copies; set it to at least replication.factor" (int .Values.replicas) $n) -}}
{{- end -}}
{{- end -}}
