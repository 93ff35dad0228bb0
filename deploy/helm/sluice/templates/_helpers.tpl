{{- define "sluice.fullname" -}}
{{- if .Values.fullnameOverride -}}
{{- .Values.fullnameOverride | trunc 52 | trimSuffix "-" -}}
{{- else -}}
{{- $name := default .Chart.Name .Values.nameOverride -}}
{{- if contains $name .Release.Name -}}{{- .Release.Name | trunc 52 | trimSuffix "-" -}}
{{- else -}}{{- printf "%s-%s" .Release.Name $name | trunc 52 | trimSuffix "-" -}}{{- end -}}
{{- end -}}
{{- end }}

{{- define "sluice.selector" -}}
app.kubernetes.io/name: {{ default .Chart.Name .Values.nameOverride | trunc 63 | trimSuffix "-" }}
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end }}

{{- define "sluice.labels" -}}
{{ include "sluice.selector" . }}
app.kubernetes.io/version: {{ default .Chart.AppVersion .Values.image.tag | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version | replace "+" "_" | trunc 63 | trimSuffix "-" }}
{{- end }}

{{- define "sluice.serviceAccount" -}}
{{- if .Values.serviceAccount.create -}}{{ default (include "sluice.fullname" .) .Values.serviceAccount.name }}
{{- else -}}{{ default "default" .Values.serviceAccount.name }}{{- end -}}
{{- end }}

{{/* The configuration file: that of the user, and what the chart decides. */}}
{{- define "sluice.config" -}}
{{- range $key := list "listen" "drain" "tls" "zone" -}}
{{- if hasKey $.Values.config $key -}}{{- fail (printf "config.%s: the chart sets this key (see values.yaml)" $key) -}}{{- end -}}
{{- end -}}
{{- $own := dict "listen" "0.0.0.0:8080" "admin" (dict "listen" "0.0.0.0:9090") -}}
{{- $_ := set $own "drain" (dict "delay" (printf "%ds" (int .Values.drain.delaySeconds)) "grace" (printf "%ds" (int .Values.drain.graceSeconds))) -}}
{{- with .Values.zone.name -}}{{- $_ := set $own "zone" . -}}{{- end -}}
{{- if .Values.tls.secretName -}}
{{- $tls := dict "cert_file" "/etc/sluice/tls/tls.crt" "key_file" "/etc/sluice/tls/tls.key" -}}
{{- if .Values.tls.clientCA -}}{{- $_ := set $tls "client_ca_file" "/etc/sluice/tls/ca.crt" -}}{{- end -}}
{{- $_ := set $own "tls" $tls -}}
{{- end -}}
{{- if eq .Values.queue.mode "embedded" -}}
{{- $_ := set $own "queue" (dict "dir" "/var/lib/sluice/queue") -}}
{{- else if eq .Values.queue.mode "nats" -}}
{{- $nats := dict "url" (required "queue.nats.url is required with queue.mode nats, such as nats://nats.nats.svc:4222" .Values.queue.nats.url) "replicas" (int .Values.queue.nats.replicas) -}}
{{- if .Values.queue.nats.credentialsSecret -}}{{- $_ := set $nats "credentials_file" "/etc/sluice/nats/nats.creds" -}}{{- end -}}
{{- $_ := set $own "queue" (dict "nats" $nats) -}}
{{- $_ := set $own "history" (dict "dir" "/var/lib/sluice/history") -}}
{{- end -}}
{{- if .Values.mock.enabled -}}
{{- $_ := set $own "apps" (dict "demo" (include "sluice.demo" . | fromYaml)) -}}
{{- else if not (get .Values.config "apps") -}}
{{- fail "config.apps: at least one app is required, or mock.enabled=true for a trial" -}}
{{- end -}}
{{- toYaml (mustMergeOverwrite (deepCopy .Values.config) $own) -}}
{{- end }}

{{/* The app of mock.enabled. The hash is that of the key "demo". */}}
{{- define "sluice.demo" -}}
keys:
  - name: demo
    hash: "sha256:2a97516c354b68848cdbd8f54a226a0a55b21ed138e207ad6c5cbb9c00aa5aea"
    scopes: [send, read]
apns:
  endpoints: ["127.0.0.1:2197"]
  manage_url: https://127.0.0.1:2196
  ca_file: /var/lib/sluice-mock/ca.pem
  key_file: /var/lib/sluice-mock/AuthKey_MOCKKEY001.p8
  key_id: MOCKKEY001
  team_id: MOCKTEAM01
  topic: com.example.app
fcm:
  url: https://127.0.0.1:4430
  endpoints: ["127.0.0.1:4430"]
  ca_file: /var/lib/sluice-mock/ca.pem
  service_account_file: /var/lib/sluice-mock/service-account.json
{{- end }}

{{/* The pod, which the Deployment and the StatefulSet share. */}}
{{- define "sluice.pod" -}}
metadata:
  labels:
    {{- include "sluice.labels" . | nindent 4 }}
    {{- with .Values.podLabels }}{{ toYaml . | nindent 4 }}{{ end }}
  {{- if or .Values.podAnnotations .Values.restartOnConfigChange }}
  annotations:
    {{- if .Values.restartOnConfigChange }}
    checksum/config: {{ include "sluice.config" . | sha256sum }}
    {{- end }}
    {{- with .Values.podAnnotations }}{{ toYaml . | nindent 4 }}{{ end }}
  {{- end }}
spec:
  serviceAccountName: {{ include "sluice.serviceAccount" . }}
  automountServiceAccountToken: false
  enableServiceLinks: false
  terminationGracePeriodSeconds: {{ add .Values.drain.delaySeconds .Values.drain.graceSeconds 15 }}
  {{- with .Values.imagePullSecrets }}
  imagePullSecrets: {{ toYaml . | nindent 4 }}
  {{- end }}
  {{- with .Values.priorityClassName }}
  priorityClassName: {{ . }}
  {{- end }}
  securityContext:
    runAsNonRoot: true
    runAsUser: 65532
    runAsGroup: 65532
    fsGroup: 65532
    fsGroupChangePolicy: OnRootMismatch
    seccompProfile: {type: RuntimeDefault}
  {{- if .Values.mock.enabled }}
  initContainers:
    # A sidecar: it starts before the gateway and ends after it.
    - name: mock
      image: {{ include "sluice.image" . }}
      imagePullPolicy: {{ .Values.image.pullPolicy }}
      restartPolicy: Always
      args: [mock, -c, /etc/sluice/config/mock.yaml, --keys, /var/lib/sluice-mock]
      securityContext: {{- include "sluice.containerSecurity" . | nindent 8 }}
      startupProbe:
        tcpSocket: {port: 4433}
        periodSeconds: 1
        failureThreshold: 60
      resources: {requests: {cpu: 50m, memory: 64Mi}, limits: {memory: 256Mi}}
      volumeMounts:
        - {name: config, mountPath: /etc/sluice/config, readOnly: true}
        - {name: mock, mountPath: /var/lib/sluice-mock}
  {{- end }}
  containers:
    - name: gateway
      image: {{ include "sluice.image" . }}
      imagePullPolicy: {{ .Values.image.pullPolicy }}
      args: [serve, -c, /etc/sluice/config/gateway.yaml]
      env:
        {{- with .Values.goMemLimit }}
        - {name: GOMEMLIMIT, value: {{ . | quote }}}
        {{- end }}
        {{- if .Values.zone.fromTopologyLabel }}
        - name: SLUICE_ZONE # empty on clusters that do not copy the label
          valueFrom: {fieldRef: {fieldPath: "metadata.labels['topology.kubernetes.io/zone']"}}
        {{- end }}
        {{- with .Values.extraEnv }}{{ toYaml . | nindent 8 }}{{ end }}
      ports:
        - {name: http, containerPort: 8080}
        - {name: admin, containerPort: 9090}
      # The admin listener needs no certificate, whatever tls says. A large queue takes its time to open.
      startupProbe:
        httpGet: {path: /livez, port: admin}
        periodSeconds: 5
        failureThreshold: 120
      livenessProbe:
        httpGet: {path: /livez, port: admin}
        periodSeconds: 10
        timeoutSeconds: 5
        failureThreshold: 6
      readinessProbe:
        httpGet: {path: /readyz, port: admin}
        periodSeconds: 5
        timeoutSeconds: 3
        failureThreshold: 2
      resources: {{- toYaml .Values.resources | nindent 8 }}
      securityContext: {{- include "sluice.containerSecurity" . | nindent 8 }}
      volumeMounts:
        - {name: config, mountPath: /etc/sluice/config, readOnly: true}
        - {name: data, mountPath: /var/lib/sluice}
        {{- range .Values.credentials }}
        - {name: {{ printf "credentials-%s" .name }}, mountPath: {{ printf "/etc/sluice/credentials/%s" .name }}, readOnly: true}
        {{- end }}
        {{- if .Values.tls.secretName }}
        - {name: tls, mountPath: /etc/sluice/tls, readOnly: true}
        {{- end }}
        {{- if and (eq .Values.queue.mode "nats") .Values.queue.nats.credentialsSecret }}
        - {name: nats, mountPath: /etc/sluice/nats, readOnly: true}
        {{- end }}
        {{- if .Values.mock.enabled }}
        - {name: mock, mountPath: /var/lib/sluice-mock, readOnly: true}
        {{- end }}
        {{- with .Values.extraVolumeMounts }}{{ toYaml . | nindent 8 }}{{ end }}
  volumes:
    - name: config
      configMap: {name: {{ include "sluice.fullname" . }}}
    {{- if eq .Values.queue.mode "nats" }}
    - name: data # the index of the history, which a new pod rebuilds
      emptyDir: {sizeLimit: {{ .Values.queue.nats.indexSize }}}
    {{- else if eq .Values.queue.mode "none" }}
    - name: data
      emptyDir: {sizeLimit: 1Gi}
    {{- end }}
    {{- range .Values.credentials }}
    - name: {{ printf "credentials-%s" .name }}
      secret: {secretName: {{ .secretName | quote }}, defaultMode: 0440}
    {{- end }}
    {{- with .Values.tls.secretName }}
    - name: tls
      secret: {secretName: {{ . | quote }}, defaultMode: 0440}
    {{- end }}
    {{- if eq .Values.queue.mode "nats" }}
    {{- with .Values.queue.nats.credentialsSecret }}
    - name: nats
      secret: {secretName: {{ . | quote }}, defaultMode: 0440}
    {{- end }}
    {{- end }}
    {{- if .Values.mock.enabled }}
    - name: mock
      emptyDir: {medium: Memory, sizeLimit: 1Mi}
    {{- end }}
    {{- with .Values.extraVolumes }}{{ toYaml . | nindent 4 }}{{ end }}
  {{- with .Values.nodeSelector }}
  nodeSelector: {{- toYaml . | nindent 4 }}
  {{- end }}
  {{- with .Values.tolerations }}
  tolerations: {{- toYaml . | nindent 4 }}
  {{- end }}
  {{- with .Values.affinity }}
  affinity: {{- toYaml . | nindent 4 }}
  {{- end }}
  topologySpreadConstraints:
    {{- if .Values.topologySpreadConstraints }}
    {{- toYaml .Values.topologySpreadConstraints | nindent 4 }}
    {{- else }}
    {{- range list "topology.kubernetes.io/zone" "kubernetes.io/hostname" }}
    - topologyKey: {{ . }}
      maxSkew: 1
      whenUnsatisfiable: ScheduleAnyway
      labelSelector:
        matchLabels: {{- include "sluice.selector" $ | nindent 10 }}
    {{- end }}
    {{- end }}
{{- end }}

{{- define "sluice.image" -}}
{{ printf "%s:%s" .Values.image.repository (default .Chart.AppVersion .Values.image.tag) | quote }}
{{- end }}

{{- define "sluice.containerSecurity" -}}
allowPrivilegeEscalation: false
readOnlyRootFilesystem: true
capabilities: {drop: [ALL]}
{{- end }}
