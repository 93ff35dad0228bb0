// SPDX-License-Identifier: Apache-2.0

package main

import (
	"crypto/x509"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/layout"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/validate"

	"github.com/sluice-push/sluice/deploy/deploytest"
)

// openImage returns the image of this machine from the layout of the release, after a check of all
// digests and sizes.
func openImage(t *testing.T) v1.Image {
	t.Helper()
	file, err := os.Open(released(t, "*_image.tar"))
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	dir := t.TempDir()
	unpack(t, file, dir)
	outer, err := layout.ImageIndexFromPath(dir)
	if err != nil {
		t.Fatal(err)
	}
	manifest, err := outer.IndexManifest()
	if err != nil || len(manifest.Manifests) != 1 || manifest.Manifests[0].Annotations["org.opencontainers.image.ref.name"] != testVersion {
		t.Fatal(manifest, err)
	}
	index, err := outer.ImageIndex(manifest.Manifests[0].Digest)
	if err == nil {
		err = validate.Index(index)
	}
	if err != nil {
		t.Fatal(err)
	}
	images, err := index.IndexManifest()
	if err != nil {
		t.Fatal(err)
	}
	for _, m := range images.Manifests {
		if m.Platform.OS == testTarget.os && m.Platform.Architecture == testTarget.arch {
			image, err := index.Image(m.Digest)
			if err != nil {
				t.Fatal(err)
			}
			return image
		}
	}
	t.Fatal("no image for", testTarget)
	return nil
}

// unpackImage unpacks the file system of an image.
func unpackImage(t *testing.T, image v1.Image) (root string) {
	t.Helper()
	root = t.TempDir()
	files := mutate.Extract(image)
	defer files.Close()
	unpack(t, files, root)
	return root
}

func TestImageHasRootCertificates(t *testing.T) {
	root := unpackImage(t, openImage(t))
	text, err := os.ReadFile(filepath.Join(root, "etc/ssl/certs/ca-certificates.crt"))
	if err != nil {
		t.Fatal(err)
	}
	if pool := x509.NewCertPool(); !pool.AppendCertsFromPEM(text) || strings.Count(string(text), "BEGIN CERTIFICATE") < 100 {
		t.Errorf("%d certificates", strings.Count(string(text), "BEGIN CERTIFICATE"))
	}
	// Authorities of api.push.apple.com, fcm.googleapis.com, Mozilla and Microsoft.
	for _, name := range []string{"USERTrust RSA", "GTS Root R1", "ISRG Root X1", "DigiCert Global Root G2", "Amazon Root CA 1"} {
		if !strings.Contains(string(text), name) {
			t.Errorf("%s is missing", name)
		}
	}
}

// containerSpec returns the configuration of a container in the form that OCI runtimes read. It is what
// Kubernetes makes of the pod of the chart: no privileges, a read-only root, one writable volume.
func containerSpec(root string, config v1.Config, args []string, binds map[string]string) map[string]any {
	mounts := []map[string]any{
		{"destination": "/proc", "type": "proc", "source": "proc"},
		{"destination": "/dev", "type": "tmpfs", "source": "tmpfs", "options": []string{"nosuid", "mode=755", "size=64k"}},
	}
	for inside, outside := range binds {
		mode := "ro"
		if inside == config.WorkingDir {
			mode = "rw"
		}
		mounts = append(mounts, map[string]any{"destination": inside, "type": "bind", "source": outside, "options": []string{"bind", mode, "nosuid", "nodev"}})
	}
	return map[string]any{
		"ociVersion": "1.0.2",
		"process": map[string]any{
			"user": map[string]int{"uid": user, "gid": user}, "args": append(config.Entrypoint, args...), "cwd": config.WorkingDir,
			"env": config.Env, "noNewPrivileges": true, "capabilities": map[string]any{},
		},
		"root":   map[string]any{"path": root, "readonly": true},
		"mounts": mounts,
		"linux": map[string]any{ // the network is that of the test, where the mock listens
			"namespaces":    []map[string]string{{"type": "pid"}, {"type": "ipc"}, {"type": "uts"}, {"type": "mount"}},
			"maskedPaths":   []string{"/proc/kcore", "/proc/keys"},
			"readonlyPaths": []string{"/proc/sys"},
		},
	}
}

// startMock starts the mock providers and writes a configuration of a gateway for them to dir, with keys
// that only the user owner can read.
func startMock(t *testing.T, dir string, owner int) {
	t.Helper()
	archive, _ := unpackGzip(t, "*.tar.gz")
	mock := deploytest.StartMock(t, filepath.Join(archive, "sluice_"+testVersion+"_"+testTarget.String(), "gateway"), dir)
	text := fmt.Sprintf(`listen: 127.0.0.1:0
admin: {listen: "127.0.0.1:0"}
queue: {dir: /var/lib/sluice/queue}
log: {format: json}
apps:
  shop:
    keys: [{name: backend, hash: "sha256:9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08", scopes: [send, read]}]
    fcm: {url: %q, token_url: %q, endpoints: [%q], ca_file: %s, service_account_file: %s}
`, mock.FCM, mock.TokenURL, mock.FCMEndpoints[0], filepath.Base(mock.CAFile), filepath.Base(mock.ServiceAccountFile))
	if err := os.WriteFile(filepath.Join(dir, "gateway.yaml"), []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range entries {
		if err := os.Chown(filepath.Join(dir, e.Name()), owner, owner); err != nil {
			t.Fatal(err)
		}
	}
}

// apiKey is the key whose hash is in the configuration of startMock.
const apiKey = "test"

// send sends a notification and returns its receipt.
func send(t *testing.T, url, prefer string) string {
	t.Helper()
	request, err := http.NewRequestWithContext(t.Context(), "POST", url+"/v1/apps/shop/notifications", strings.NewReader(`{"platform":"fcm","token":"device-1:registration-token","title":"Hello"}`))
	if err != nil {
		t.Fatal(err)
	}
	request.Header.Set("Content-Type", "application/json")
	if prefer != "" {
		request.Header.Set("Prefer", prefer)
	}
	return body(t, request)
}

// find returns the notification that an answer of send has accepted.
func find(t *testing.T, url, accepted string) string {
	t.Helper()
	var notification struct{ ID string }
	if err := json.Unmarshal([]byte(accepted[strings.Index(accepted, "{"):]), &notification); err != nil {
		t.Fatal(accepted, err)
	}
	return get(t, url+"/v1/apps/shop/notifications/"+notification.ID)
}

// get returns the status and the body of a page.
func get(t *testing.T, url string) string {
	t.Helper()
	request, err := http.NewRequestWithContext(t.Context(), "GET", url, nil)
	if err != nil {
		t.Fatal(err)
	}
	return body(t, request)
}

func body(t *testing.T, request *http.Request) string {
	t.Helper()
	request.Header.Set("Authorization", "Bearer "+apiKey)
	response, err := http.DefaultClient.Do(request)
	if err != nil {
		t.Fatal(err)
	}
	defer response.Body.Close()
	text, err := io.ReadAll(response.Body)
	if err != nil {
		t.Fatal(err)
	}
	return response.Status + " " + string(text)
}

// requireRoot ends the test unless it can make namespaces.
func requireRoot(t *testing.T) {
	t.Helper()
	if os.Getuid() != 0 || exec.Command("unshare", "--mount", "--pid", "--fork", "true").Run() != nil {
		deploytest.Missing(t, "namespaces need root")
	}
}

// TestImageRunsWithoutPrivileges runs the image with an OCI runtime as its user, without capabilities
// and with a read-only root.
func TestImageRunsWithoutPrivileges(t *testing.T) {
	deploytest.Require(t, "runc")
	requireRoot(t)
	image := openImage(t)
	config, err := image.ConfigFile()
	if err != nil {
		t.Fatal(err)
	}
	if config.Config.User != "65532:65532" || config.Config.Labels["org.opencontainers.image.version"] != testVersion {
		t.Error(config.Config)
	}
	bundle, etc, data := t.TempDir(), t.TempDir(), t.TempDir()
	startMock(t, etc, user)
	for _, dir := range []string{etc, data} {
		if err := os.Chown(dir, user, user); err != nil {
			t.Fatal(err)
		}
	}
	spec, err := json.Marshal(containerSpec(unpackImage(t, image), config.Config, []string{"serve", "-c", "/etc/sluice/gateway.yaml"}, map[string]string{
		"/etc/sluice": etc, "/var/lib/sluice": data,
	}))
	if err == nil {
		err = os.WriteFile(filepath.Join(bundle, "config.json"), spec, 0o600)
	}
	if err != nil {
		t.Fatal(err)
	}
	pidFile := filepath.Join(bundle, "pid")
	p := deploytest.Start(t, "runc", "--root", filepath.Join(bundle, "state"), "run", "--pid-file", pidFile, "--bundle", bundle, fmt.Sprintf("sluice-%d", os.Getpid()))
	deploytest.Until(t, func() bool { return deploytest.GatewayURL(p.Output()) != "" || p.Exited() }, "the gateway in the container serves")
	if p.Exited() {
		t.Fatal(p.Output())
	}
	url := deploytest.GatewayURL(p.Output())
	if text := get(t, url+"/livez"); !strings.HasPrefix(text, "200") {
		t.Error(text)
	}
	if text := send(t, url, ""); !strings.Contains(text, `"status":"accepted"`) {
		t.Error(text)
	}
	accepted := send(t, url, "respond-async")
	if !strings.HasPrefix(accepted, "202") {
		t.Fatal(accepted)
	}
	deploytest.Until(t, func() bool { return strings.Contains(find(t, url, accepted), `"status":"accepted"`) }, "the queue has sent the notification")
	text, err := os.ReadFile(pidFile)
	if err != nil {
		t.Fatal(err)
	}
	pid := strings.TrimSpace(string(text))
	status, err := os.ReadFile("/proc/" + pid + "/status")
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"Uid:\t65532\t65532", "CapEff:\t0000000000000000", "CapBnd:\t0000000000000000", "NoNewPrivs:\t1"} {
		if !strings.Contains(string(status), want) {
			t.Errorf("no %q in %s", want, status)
		}
	}
	mounts, err := os.ReadFile("/proc/" + pid + "/mountinfo")
	if err != nil || !strings.Contains(string(mounts), " / / ro") && !strings.Contains(string(mounts), " / ro,") {
		t.Errorf("%v; the root is writable:\n%s", err, mounts)
	}
	if code := p.Stop(); code != 0 {
		t.Errorf("exit code %d after SIGTERM\n%s", code, p.Output())
	}
}
