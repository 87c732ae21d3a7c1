{{- define "bandexa.name" -}}
{{- if contains "bandexa" .Release.Name }}{{ .Release.Name }}{{ else }}{{ .Release.Name }}-bandexa{{ end -}}
{{- end }}

{{- define "bandexa.selector" -}}
app.kubernetes.io/name: bandexa
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end }}

{{- define "bandexa.labels" -}}
{{ include "bandexa.selector" . }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ .Chart.Name }}-{{ .Chart.Version }}
{{- end }}

{{- /* Service links are off: those of a Service named bandexa would set BANDEXA_PORT. */}}
{{- define "bandexa.pod" -}}
enableServiceLinks: false
automountServiceAccountToken: false
{{- with .Values.imagePullSecrets }}
imagePullSecrets: {{ toJson . }}
{{- end }}
securityContext:
  runAsNonRoot: true
  runAsUser: 10001
  runAsGroup: 10001
  fsGroup: 10001
  seccompProfile:
    type: RuntimeDefault
{{- end }}

{{- define "bandexa.confined" -}}
allowPrivilegeEscalation: false
readOnlyRootFilesystem: true
capabilities:
  drop: [ALL]
{{- end }}

{{- define "bandexa.settings" -}}
- name: BANDEXA_STORE
  valueFrom:
    secretKeyRef:
      name: {{ .Values.database.secret }}
      key: {{ .Values.database.key }}
{{- range $name, $value := merge (dict) .Values.settings (dict "snapshot_store" "postgresql") }}
- name: BANDEXA_{{ upper $name }}
  value: {{ (kindIs "string" $value | ternary $value (toJson $value)) | quote }}
{{- end }}
{{- end }}
