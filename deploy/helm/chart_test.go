// SPDX-License-Identifier: Apache-2.0

// Package helm tests the Helm chart.
package helm

import (
	"fmt"
	"io"
	"log"
	"maps"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"helm.sh/helm/v3/pkg/chart"
	"helm.sh/helm/v3/pkg/chart/loader"
	"helm.sh/helm/v3/pkg/chartutil"
	"helm.sh/helm/v3/pkg/engine"
	"helm.sh/helm/v3/pkg/lint"
	"helm.sh/helm/v3/pkg/lint/support"
	appsv1 "k8s.io/api/apps/v1"
	autoscalingv2 "k8s.io/api/autoscaling/v2"
	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	policyv1 "k8s.io/api/policy/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/yaml"

	"github.com/sluice-push/sluice/deploy/deploytest"
)

// valueSets are the files in testdata, with the objects that each renders.
var valueSets = map[string][]string{
	"minimal":    {"ConfigMap", "Deployment", "Service", "Service", "ServiceAccount"},
	"embedded":   {"ConfigMap", "Service", "Service", "ServiceAccount", "StatefulSet"},
	"nats":       {"ConfigMap", "Deployment", "PodDisruptionBudget", "Service", "Service", "ServiceAccount"},
	"everything": {"ConfigMap", "ConfigMap", "Deployment", "HorizontalPodAutoscaler", "NetworkPolicy", "PodDisruptionBudget", "PrometheusRule", "Service", "Service", "ServiceAccount", "ServiceMonitor"},
	"mock":       {"ConfigMap", "Service", "Service", "ServiceAccount", "StatefulSet"},
}

// serviceMonitor and prometheusRule are the parts of these types that the chart uses.
type serviceMonitor struct {
	metav1.TypeMeta   `json:",inline"`
	metav1.ObjectMeta `json:"metadata"`
	Spec              struct {
		Selector  metav1.LabelSelector `json:"selector"`
		Endpoints []struct {
			Port     string `json:"port"`
			Path     string `json:"path"`
			Interval string `json:"interval"`
		} `json:"endpoints"`
	} `json:"spec"`
}

type prometheusRule struct {
	metav1.TypeMeta   `json:",inline"`
	metav1.ObjectMeta `json:"metadata"`
	Spec              struct {
		Groups []struct {
			Name  string `json:"name"`
			Rules []struct {
				Alert       string            `json:"alert"`
				Expr        string            `json:"expr"`
				For         string            `json:"for"`
				Labels      map[string]string `json:"labels"`
				Annotations map[string]string `json:"annotations"`
			} `json:"rules"`
		} `json:"groups"`
	} `json:"spec"`
}

// newObject returns an empty object of a kind in an API version.
var newObject = map[string]func() metav1.Object{
	"v1 ConfigMap":                            func() metav1.Object { return new(corev1.ConfigMap) },
	"v1 Service":                              func() metav1.Object { return new(corev1.Service) },
	"v1 ServiceAccount":                       func() metav1.Object { return new(corev1.ServiceAccount) },
	"apps/v1 Deployment":                      func() metav1.Object { return new(appsv1.Deployment) },
	"apps/v1 StatefulSet":                     func() metav1.Object { return new(appsv1.StatefulSet) },
	"policy/v1 PodDisruptionBudget":           func() metav1.Object { return new(policyv1.PodDisruptionBudget) },
	"autoscaling/v2 HorizontalPodAutoscaler":  func() metav1.Object { return new(autoscalingv2.HorizontalPodAutoscaler) },
	"networking.k8s.io/v1 NetworkPolicy":      func() metav1.Object { return new(networkingv1.NetworkPolicy) },
	"monitoring.coreos.com/v1 ServiceMonitor": func() metav1.Object { return new(serviceMonitor) },
	"monitoring.coreos.com/v1 PrometheusRule": func() metav1.Object { return new(prometheusRule) },
}

func TestMain(m *testing.M) {
	log.SetOutput(io.Discard) // the loader logs every link
	os.Exit(m.Run())
}

func loadChart(t *testing.T) *chart.Chart {
	t.Helper()
	c, err := loader.Load("sluice")
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func readValues(t *testing.T, name string) chartutil.Values {
	t.Helper()
	values, err := chartutil.ReadValuesFile(filepath.Join("testdata", name+".yaml"))
	if err != nil {
		t.Fatal(err)
	}
	return values
}

// render renders the chart, after its schema has checked the values.
func render(t *testing.T, values chartutil.Values) (map[string]string, error) {
	t.Helper()
	c := loadChart(t)
	all, err := chartutil.ToRenderValues(c, values, chartutil.ReleaseOptions{Name: "trial", Namespace: "push", IsInstall: true}, chartutil.DefaultCapabilities)
	if err != nil {
		return nil, err
	}
	return engine.Engine{LintMode: false, Strict: true}.Render(c, all)
}

var documentStart = regexp.MustCompile(`(?m)^---\n`)

// objects renders the chart and decodes every document; unknown fields are errors.
func objects(t *testing.T, values chartutil.Values) (decoded []metav1.Object, kinds []string) {
	t.Helper()
	files, err := render(t, values)
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range slices.Sorted(maps.Keys(files)) {
		if strings.HasSuffix(name, ".txt") {
			continue
		}
		for _, document := range documentStart.Split(files[name], -1) {
			var meta metav1.TypeMeta
			if err := yaml.Unmarshal([]byte(document), &meta); err != nil {
				t.Fatalf("%s: %v\n%s", name, err, document)
			}
			if meta.Kind == "" {
				if strings.TrimSpace(document) != "" {
					t.Errorf("%s: no kind: %s", name, document)
				}
				continue
			}
			create := newObject[meta.APIVersion+" "+meta.Kind]
			if create == nil {
				t.Fatalf("%s: %s %s is not expected", name, meta.APIVersion, meta.Kind)
			}
			object := create()
			if err := yaml.UnmarshalStrict([]byte(document), object); err != nil {
				t.Errorf("%s: %v\n%s", name, err, document)
			}
			decoded = append(decoded, object)
			kinds = append(kinds, meta.Kind)
		}
	}
	slices.Sort(kinds)
	return decoded, kinds
}

// find returns the first object of a type.
func find[T metav1.Object](t *testing.T, all []metav1.Object) (first T) {
	t.Helper()
	for _, object := range all {
		if o, ok := object.(T); ok {
			return o
		}
	}
	t.Fatalf("no %T", first)
	return first
}

// podOf returns the pod of the Deployment or StatefulSet.
func podOf(t *testing.T, all []metav1.Object) corev1.PodSpec {
	t.Helper()
	for _, object := range all {
		switch o := object.(type) {
		case *appsv1.Deployment:
			return o.Spec.Template.Spec
		case *appsv1.StatefulSet:
			return o.Spec.Template.Spec
		}
	}
	t.Fatal("no pod")
	return corev1.PodSpec{}
}

func TestChartPassesLint(t *testing.T) {
	for name := range valueSets {
		lintValues(t, name, readValues(t, name))
	}
}

// lintValues runs helm lint with values.
func lintValues(t *testing.T, name string, values chartutil.Values) {
	t.Helper()
	for _, m := range lint.AllWithKubeVersion("sluice", values, "push", nil).Messages {
		if m.Severity > support.InfoSev {
			t.Errorf("%s: %v", name, m)
		}
	}
}

func TestEveryDocumentIsValid(t *testing.T) {
	for name, want := range valueSets {
		t.Run(name, func(t *testing.T) {
			all, kinds := objects(t, readValues(t, name))
			if !slices.Equal(kinds, want) {
				t.Errorf("got %v, want %v", kinds, want)
			}
			for _, object := range all {
				if object.GetLabels()["app.kubernetes.io/instance"] != "trial" || !strings.HasPrefix(object.GetName(), find[*corev1.ServiceAccount](t, all).Name) {
					t.Errorf("%T %s has the labels %v", object, object.GetName(), object.GetLabels())
				}
			}
			checkPod(t, podOf(t, all))
		})
	}
}

// checkPod checks what every pod must have: no privileges, probes, volumes for all mounts, and time for
// the drain.
func checkPod(t *testing.T, pod corev1.PodSpec) {
	t.Helper()
	security := pod.SecurityContext
	if security == nil || !*security.RunAsNonRoot || *security.RunAsUser != 65532 || *security.FSGroup != 65532 || security.SeccompProfile.Type != corev1.SeccompProfileTypeRuntimeDefault {
		t.Errorf("security context of the pod: %v", security)
	}
	if pod.AutomountServiceAccountToken == nil || *pod.AutomountServiceAccountToken {
		t.Error("the token of the service account is mounted")
	}
	volumes := map[string]bool{"data": true} // a StatefulSet claims it
	for _, v := range pod.Volumes {
		volumes[v.Name] = true
	}
	for _, c := range slices.Concat(pod.InitContainers, pod.Containers) {
		s := c.SecurityContext
		if s == nil || *s.AllowPrivilegeEscalation || !*s.ReadOnlyRootFilesystem || !slices.Equal(s.Capabilities.Drop, []corev1.Capability{"ALL"}) {
			t.Errorf("security context of %s: %v", c.Name, s)
		}
		for _, m := range c.VolumeMounts {
			if !volumes[m.Name] {
				t.Errorf("%s mounts %s, which is not a volume", c.Name, m.Name)
			}
		}
		if c.Resources.Limits.Memory().IsZero() || c.Resources.Requests.Cpu().IsZero() {
			t.Errorf("resources of %s: %v", c.Name, c.Resources)
		}
	}
	gateway := pod.Containers[0]
	ports := map[string]bool{}
	for _, p := range gateway.Ports {
		ports[p.Name] = true
	}
	for path, probe := range map[string]*corev1.Probe{"/livez": gateway.LivenessProbe, "/readyz": gateway.ReadinessProbe} {
		if probe == nil || probe.HTTPGet.Path != path || !ports[probe.HTTPGet.Port.String()] {
			t.Errorf("the probe of %s is %v", path, probe)
		}
	}
	if *pod.TerminationGracePeriodSeconds < 45 || len(pod.TopologySpreadConstraints) == 0 {
		t.Errorf("grace period %d, topology spread %v", *pod.TerminationGracePeriodSeconds, pod.TopologySpreadConstraints)
	}
}

// TestValuesReachTheObjects checks values whose effect the types do not check.
func TestValuesReachTheObjects(t *testing.T) {
	all, _ := objects(t, readValues(t, "everything"))
	pod := podOf(t, all)
	if *pod.TerminationGracePeriodSeconds != 95 {
		t.Errorf("grace period %d, want drain.delaySeconds + drain.graceSeconds + 15", *pod.TerminationGracePeriodSeconds)
	}
	env := map[string]string{}
	for _, e := range pod.Containers[0].Env {
		env[e.Name] = e.Value
		if e.ValueFrom != nil {
			env[e.Name] = e.ValueFrom.FieldRef.FieldPath
		}
	}
	if env["SLUICE_ZONE"] != "metadata.labels['topology.kubernetes.io/zone']" || env["SLUICE_POOL_SIZE"] != "12" || env["GOMEMLIMIT"] != "850MiB" {
		t.Error(env)
	}
	if hpa := find[*autoscalingv2.HorizontalPodAutoscaler](t, all); len(hpa.Spec.Metrics) != 2 || hpa.Spec.Metrics[1].Pods.Metric.Name != "sluice_concurrency_in_flight" || hpa.Spec.ScaleTargetRef.Name != "push" {
		t.Error(hpa.Spec)
	}
	if find[*appsv1.Deployment](t, all).Spec.Replicas != nil {
		t.Error("the Deployment has replicas, which the autoscaler sets")
	}
	monitor := find[*serviceMonitor](t, all)
	headless := all[slices.IndexFunc(all, func(o metav1.Object) bool { return o.GetName() == "push-headless" })]
	for key, value := range monitor.Spec.Selector.MatchLabels {
		if headless.GetLabels()[key] != value {
			t.Errorf("the ServiceMonitor does not select the headless service: %s", key)
		}
	}
	policy := find[*networkingv1.NetworkPolicy](t, all)
	if len(policy.Spec.Ingress) != 2 || len(policy.Spec.Egress) != 4 || len(policy.Spec.Ingress[1].From) != 1 {
		t.Error(policy.Spec)
	}
	var original prometheusRule
	text, err := os.ReadFile("../prometheus/rules.yaml")
	if err == nil {
		err = yaml.UnmarshalStrict(text, &original.Spec)
	}
	if err != nil {
		t.Fatal(err)
	}
	if rules := find[*prometheusRule](t, all); fmt.Sprint(rules.Spec) != fmt.Sprint(original.Spec) || len(rules.Spec.Groups) == 0 {
		t.Error("the PrometheusRule differs from deploy/prometheus/rules.yaml")
	}
	claims, _ := objects(t, readValues(t, "embedded"))
	if c := find[*appsv1.StatefulSet](t, claims).Spec.VolumeClaimTemplates; len(c) != 1 || c[0].Spec.Resources.Requests.Storage().String() != "40Gi" || *c[0].Spec.StorageClassName != "fast" {
		t.Error(c)
	}
}

func TestWrongValuesAreRefused(t *testing.T) {
	for _, c := range []struct{ values, want string }{
		{"{}", "config.apps: at least one app is required"},
		{"{replica: 3}", "additional properties 'replica' not allowed"},
		{"{mock: {enabled: true}, queue: {mode: disk}}", "value must be one of 'none', 'embedded', 'nats'"},
		{"{mock: {enabled: true}, queue: {mode: nats}}", "queue.nats.url is required"},
		{"{mock: {enabled: true}, queue: {mode: embedded}, autoscaling: {enabled: true}}", "autoscaling needs queue.mode none or nats"},
		{"{mock: {enabled: true}, autoscaling: {enabled: true, cpuPercent: 0}}", "autoscaling: set cpuPercent or inFlight"},
		{`{mock: {enabled: true}, config: {listen: "0.0.0.0:80"}}`, "config.listen: the chart sets this key"},
		{"{mock: {enabled: true}, drain: {delaySeconds: 10s}}", "got string, want integer"},
	} {
		values, err := chartutil.ReadValues([]byte(c.values))
		if err != nil {
			t.Fatal(err)
		}
		if _, err := render(t, values); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %v; want %q", c.values, err, c.want)
		}
	}
}

// TestNotes checks that the notes fit the values.
func TestNotes(t *testing.T) {
	for name, want := range map[string]string{
		"minimal": "deployment/trial-sluice", "mock": "Bearer demo", "everything": "https://push.push.svc:443",
	} {
		files, err := render(t, readValues(t, name))
		if err != nil {
			t.Fatal(err)
		}
		if notes := files["sluice/templates/NOTES.txt"]; !strings.Contains(notes, want) {
			t.Errorf("%s: no %q in\n%s", name, want, notes)
		}
	}
}

// TestRenderedConfigurationPassesCheck runs gateway check, with a mock of the providers and a NATS server,
// on the files that each pod has: with the values in testdata, and with those that gateway init writes.
func TestRenderedConfigurationPassesCheck(t *testing.T) {
	bin := deploytest.BuildPrograms(t)
	gateway, keys := filepath.Join(bin, "gateway"), t.TempDir()
	mock := deploytest.StartMock(t, gateway, keys)
	natsURL := deploytest.StartNATS(t, filepath.Join(bin, "nats-server"))
	check := func(t *testing.T, values chartutil.Values, secret map[string]string) {
		t.Helper()
		all, _ := objects(t, values)
		dir := t.TempDir()
		writeMounts(t, dir, secret, podOf(t, all))
		file := filepath.Join(dir, "gateway.yaml")
		text := localConfig(t, find[*corev1.ConfigMap](t, all).Data["gateway.yaml"], dir, natsURL, mock)
		if err := os.WriteFile(file, text, 0o600); err != nil {
			t.Fatal(err)
		}
		out := deploytest.Output(t, gateway, "check", "-c", file)
		if !strings.Contains(out, "ok    ") || strings.Contains(out, "FAIL") {
			t.Error(out)
		}
	}
	from := func(name string) string { return filepath.Join(keys, name) }
	apnsKey, fcmKey := from("AuthKey_MOCKKEY001.p8"), from("service-account.json")
	tls := map[string]string{"tls.crt": from("apns-cert.pem"), "tls.key": from("apns-cert-key.pem"), "ca.crt": from("ca.pem")}
	for name := range valueSets {
		t.Run(name, func(t *testing.T) {
			secret := map[string]string{
				"firebase.json": fcmKey, "AuthKey.p8": apnsKey,
				// What the sidecar mock writes.
				"service-account.json": fcmKey, "AuthKey_MOCKKEY001.p8": apnsKey, "ca.pem": from("ca.pem"),
			}
			maps.Copy(secret, tls)
			check(t, readValues(t, name), secret)
		})
	}
	apns := []string{"--apns-key-file", apnsKey, "--apns-team-id", "MOCKTEAM01", "--apns-topic", "com.example.app"}
	fcm := []string{"--fcm-service-account-file", fcmKey}
	for name, args := range map[string][]string{
		"embedded":  slices.Concat(apns, fcm, []string{"--webpush-subject", "mailto:push@example.com"}),
		"encrypted": slices.Concat(apns, []string{"--encrypt"}),
		"nats":      slices.Concat(fcm, []string{"--encrypt", "--queue", "nats", "--nats-url", "nats://nats-0.nats.svc:4222,nats://nats-1.nats.svc:4222"}),
		"no queue":  slices.Concat(fcm, []string{"--queue", "none", "--app", "Shop_of.the-longest-name-that-the-gateway-accepts-for-an-app.eu"}),
		"TLS": {"--apns-cert-file", from("apns-cert.pem"), "--apns-cert-key-file", from("apns-cert-key.pem"), "--apns-topic", "com.example.app",
			"--tls-cert-file", tls["tls.crt"], "--tls-key-file", tls["tls.key"]},
	} {
		t.Run("init "+name, func(t *testing.T) {
			dir := t.TempDir()
			deploytest.Output(t, gateway, append([]string{"init", "--yes", "--helm", "--app", "shop", "--dir", dir}, args...)...)
			values, err := chartutil.ReadValuesFile(filepath.Join(dir, "values.yaml"))
			if err != nil {
				t.Fatal(err)
			}
			lintValues(t, name, values)
			check(t, values, secretOf(t, filepath.Join(dir, "values.yaml"), tls))
		})
	}
}

var fromFile = regexp.MustCompile(`--from-file=(\S+)`)

// secretOf returns the files of the secrets that the comment in a file of values creates, and those of TLS.
func secretOf(t *testing.T, file string, tls map[string]string) map[string]string {
	t.Helper()
	text, err := os.ReadFile(file)
	flags := fromFile.FindAllSubmatch(text, -1)
	if err != nil || flags == nil {
		t.Fatalf("no secret, %v:\n%s", err, text)
	}
	secret := maps.Clone(tls)
	for _, flag := range flags {
		secret[filepath.Base(string(flag[1]))] = string(flag[1])
	}
	return secret
}

// writeMounts writes the files that the mounts of a pod contain.
func writeMounts(t *testing.T, dir string, secret map[string]string, pod corev1.PodSpec) {
	t.Helper()
	for _, m := range pod.Containers[0].VolumeMounts {
		inside := filepath.Join(dir, m.MountPath)
		if err := os.MkdirAll(inside, 0o700); err != nil {
			t.Fatal(err)
		}
		if m.Name == "config" || m.Name == "data" {
			continue
		}
		for name, source := range secret {
			text, err := os.ReadFile(source)
			if err == nil {
				err = os.WriteFile(filepath.Join(inside, name), text, 0o600)
			}
			if err != nil {
				t.Fatal(err)
			}
		}
	}
}

// localConfig returns a rendered configuration with the folders, addresses and keys of this test.
func localConfig(t *testing.T, text, dir, natsURL string, mock deploytest.Mock) []byte {
	t.Helper()
	for _, root := range []string{"/etc/sluice", "/var/lib/sluice"} {
		text = strings.ReplaceAll(text, root, dir+root)
	}
	var config struct {
		Listen string                    `json:"listen"`
		Admin  map[string]any            `json:"admin"`
		Queue  map[string]any            `json:"queue"`
		Apps   map[string]map[string]any `json:"apps"`
	}
	if err := yaml.Unmarshal([]byte(text), &config); err != nil {
		t.Fatal(err)
	}
	if config.Listen != "0.0.0.0:8080" || config.Admin["listen"] != "0.0.0.0:9090" {
		t.Errorf("listen %s, admin %s", config.Listen, config.Admin)
	}
	var all map[string]any
	if err := yaml.Unmarshal([]byte(text), &all); err != nil {
		t.Fatal(err)
	}
	all["listen"], all["admin"] = "127.0.0.1:0", map[string]any{"listen": "127.0.0.1:0"}
	if nats, found := config.Queue["nats"].(map[string]any); found {
		nats["url"], nats["replicas"] = natsURL, 1
		delete(nats, "credentials_file") // the server has no users
		all["queue"] = config.Queue
	}
	for _, app := range config.Apps {
		if fcm, found := app["fcm"].(map[string]any); found {
			fcm["url"], fcm["endpoints"], fcm["ca_file"] = mock.FCM, mock.FCMEndpoints, mock.CAFile
		}
		if apns, found := app["apns"].(map[string]any); found {
			apns["endpoints"], apns["manage_url"], apns["ca_file"] = mock.APNsEndpoints, "https://"+mock.APNsManage, mock.CAFile
			if apns["key_id"] != nil {
				apns["key_id"], apns["team_id"] = mock.APNsKeyID, mock.APNsTeamID
			}
		}
		if webpush, found := app["webpush"].(map[string]any); found {
			webpush["url"], webpush["ca_file"] = mock.WebPush, mock.CAFile
		}
	}
	all["apps"] = config.Apps
	changed, err := yaml.Marshal(all)
	if err != nil {
		t.Fatal(err)
	}
	return changed
}
