{{/* Names are fixed: guards and certificates are bound to them, and a cluster has one installation. */}}

{{- define "sidegate.labels" -}}
app.kubernetes.io/name: sidegate
app.kubernetes.io/instance: {{ .Release.Name }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
app.kubernetes.io/part-of: sidegate
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version | replace "+" "_" }}
{{- end -}}

{{/* What pods are selected by: never changes, for a Deployment's selector can't. Call with the component's name. */}}
{{- define "sidegate.selector" -}}
app.kubernetes.io/name: sidegate
app.kubernetes.io/component: {{ . }}
{{- end -}}

{{- define "sidegate.operatorImage" -}}
{{- required "operator.image isn't given; fix: name the operator's image, as in --set operator.image=registry.example/sidegate/operator@sha256:..." .Values.operator.image -}}
{{- end -}}

{{- define "sidegate.gateImage" -}}
{{- required "gate.image isn't given; fix: name the gate's image by digest, as in --set gate.image=registry.example/sidegate/gate@sha256:..." .Values.gate.image -}}
{{- end -}}

{{- define "sidegate.gatewayUrl" -}}
https://sidegate-gateway.{{ .Release.Namespace }}.svc:{{ .Values.gateway.port }}
{{- end -}}

{{- define "sidegate.podSecurity" -}}
runAsNonRoot: true
runAsUser: 64802
runAsGroup: 64802
seccompProfile: {type: RuntimeDefault}
{{- end -}}

{{- define "sidegate.containerSecurity" -}}
allowPrivilegeEscalation: false
capabilities: {drop: [ALL]}
privileged: false
readOnlyRootFilesystem: true
{{- end -}}

{{/* Where pods go. Call with a list: the component's name, its values, the root. */}}
{{- define "sidegate.placement" -}}
{{- $component := index . 0 }}{{ $values := index . 1 }}{{ $root := index . 2 -}}
{{- with $root.Values.imagePullSecrets }}
imagePullSecrets:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with $values.priorityClassName }}
priorityClassName: {{ . }}
{{- end }}
{{- with $values.nodeSelector }}
nodeSelector:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with $values.tolerations }}
tolerations:
  {{- toYaml . | nindent 2 }}
{{- end }}
affinity:
  podAntiAffinity:
    {{- if eq $values.spread "Required" }}
    requiredDuringSchedulingIgnoredDuringExecution:
    - topologyKey: kubernetes.io/hostname
      labelSelector:
        matchLabels:
          {{- include "sidegate.selector" $component | nindent 10 }}
    {{- else }}
    preferredDuringSchedulingIgnoredDuringExecution:
    - weight: 100
      podAffinityTerm:
        topologyKey: kubernetes.io/hostname
        labelSelector:
          matchLabels:
            {{- include "sidegate.selector" $component | nindent 12 }}
    {{- end }}
{{- end -}}

{{/* A peer of a NetworkPolicy: the API server, as far as it is known. */}}
{{- define "sidegate.apiServerPeers" -}}
{{- range .Values.networkPolicies.apiServer.cidrs }}
- ipBlock: {cidr: {{ . | quote }}}
{{- end }}
{{- end -}}

{{- define "sidegate.egress" -}}
- ports: # names: some clusters give pods the API server's name instead of its address
  - {port: 53, protocol: UDP}
  - {port: 53, protocol: TCP}
- ports:
  {{- range .Values.networkPolicies.apiServer.ports }}
  - {port: {{ . }}, protocol: TCP}
  {{- end }}
  {{- with include "sidegate.apiServerPeers" . | trim }}
  to:
  {{- . | nindent 2 }}
  {{- end }}
{{- end -}}

{{- define "sidegate.metricsPeers" -}}
- namespaceSelector:
    matchExpressions:
    - {key: kubernetes.io/metadata.name, operator: In, values: {{ .Values.networkPolicies.metricsFrom | toJson }}}
{{- end -}}
