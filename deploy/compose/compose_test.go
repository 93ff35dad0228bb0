// SPDX-License-Identifier: Apache-2.0

// Package compose tests the files for Docker Compose.
package compose

import (
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/compose-spec/compose-go/v2/loader"
	"github.com/compose-spec/compose-go/v2/types"
	"go.yaml.in/yaml/v3"

	"github.com/sluice-push/sluice/deploy/deploytest"
)

// loadProject loads compose.yaml, after a check against the schema of the specification.
func loadProject(t *testing.T) *types.Project {
	t.Helper()
	file, err := filepath.Abs("compose.yaml")
	if err != nil {
		t.Fatal(err)
	}
	project, err := loader.LoadWithContext(t.Context(), types.ConfigDetails{
		WorkingDir: filepath.Dir(file), ConfigFiles: []types.ConfigFile{{Filename: file}}, Environment: types.Mapping{"SLUICE_IMAGE": "registry.example/sluice:1.2.3"},
	})
	if err != nil {
		t.Fatal(err)
	}
	return project
}

var pinned = regexp.MustCompile(`:v?\d+\.\d+\.\d+`)

func TestProjectIsValid(t *testing.T) {
	project := loadProject(t)
	ports := map[string]string{}
	for name, service := range project.Services {
		if !pinned.MatchString(service.Image) {
			t.Errorf("%s: the image %s has no version", name, service.Image)
		}
		for _, volume := range service.Volumes {
			if volume.Type != types.VolumeTypeBind {
				continue
			}
			if _, err := os.Stat(volume.Source); err != nil || !volume.ReadOnly {
				t.Errorf("%s: %s, read-only %v: %v", name, volume.Source, volume.ReadOnly, err)
			}
		}
		for _, port := range service.Ports {
			if other := ports[port.Published]; other != "" || port.HostIP != "127.0.0.1" {
				t.Errorf("%s: port %s of %s, also of %s", name, port.Published, port.HostIP, other)
			}
			ports[port.Published] = name
		}
	}
	for _, name := range []string{"gateway1", "gateway2", "gateway3", "mock", "nats1", "nats2", "nats3", "prometheus", "grafana"} {
		if _, err := project.GetService(name); err != nil {
			t.Error(err)
		}
	}
	for _, name := range []string{"gateway1", "gateway2", "gateway3", "mock"} {
		service := project.Services[name]
		if !service.ReadOnly || len(service.CapDrop) != 1 || service.Image != "registry.example/sluice:1.2.3" {
			t.Errorf("%s: read-only %v, capabilities %v, image %s", name, service.ReadOnly, service.CapDrop, service.Image)
		}
	}
}

// TestMountedConfigurationsAreValid runs the checks of each program.
func TestMountedConfigurationsAreValid(t *testing.T) {
	bin := deploytest.BuildPrograms(t)
	t.Run("gateway", func(t *testing.T) { checkGateway(t, bin) })
	t.Run("nats", func(t *testing.T) {
		deploytest.Output(t, filepath.Join(bin, "nats-server"), "-t", "-c", "nats.conf")
	})
	t.Run("prometheus", func(t *testing.T) {
		deploytest.Require(t, "promtool")
		dir := t.TempDir()
		for from, to := range map[string]string{"prometheus.yaml": "prometheus.yml", "../prometheus/rules.yaml": "rules.yaml"} {
			text := read(t, from)
			if err := os.WriteFile(filepath.Join(dir, to), []byte(text), 0o600); err != nil {
				t.Fatal(err)
			}
		}
		deploytest.Output(t, "promtool", "check", "config", filepath.Join(dir, "prometheus.yml"))
	})
	t.Run("grafana", func(t *testing.T) {
		for _, file := range []string{"grafana-datasource.yaml", "grafana-dashboards.yaml"} {
			var v struct {
				APIVersion int `yaml:"apiVersion"`
			}
			if err := yaml.Unmarshal([]byte(read(t, file)), &v); err != nil || v.APIVersion != 1 {
				t.Error(file, v, err)
			}
		}
	})
}

func read(t *testing.T, file string) string {
	t.Helper()
	text, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

// checkGateway runs the mock and gateway check with the configurations of the project, on free ports of
// this machine.
func checkGateway(t *testing.T, bin string) {
	mockFile := filepath.Join(t.TempDir(), "mock.yaml")
	mockText := regexp.MustCompile(`0\.0\.0\.0:\d+`).ReplaceAllString(read(t, "mock.yaml"), "127.0.0.1:0")
	mockText = strings.NewReplacer("advertise: mock\n", "", "listen: 0.0.0.0\n", "listen: 127.0.0.1\n").Replace(mockText)
	if err := os.WriteFile(mockFile, []byte(mockText), 0o600); err != nil {
		t.Fatal(err)
	}
	keys := t.TempDir()
	mock := deploytest.StartMock(t, filepath.Join(bin, "gateway"), keys, "-c", mockFile)
	if len(mock.APNsEndpoints) != 3 {
		t.Errorf("the mock of APNs listens on %v", mock.APNsEndpoints)
	}
	natsURL := deploytest.StartNATS(t, filepath.Join(bin, "nats-server"))
	dir := t.TempDir()
	text := strings.NewReplacer(
		"nats://nats1:4222,nats://nats2:4222,nats://nats3:4222", natsURL, "replicas: 3", "replicas: 1",
		`"mock:2197", "mock:2198", "mock:2199"`, strings.Join(mock.APNsEndpoints, ", "), "mock:2196", mock.APNsManage,
		"https://mock:4430", mock.FCM, "mock:4430", mock.FCMEndpoints[0],
		"/run/sluice-keys", keys, "/var/lib/sluice", dir, "0.0.0.0:8080", "127.0.0.1:0", "0.0.0.0:9090", "127.0.0.1:0",
	).Replace(read(t, "gateway.yaml"))
	if strings.Contains(text, "mock:") || strings.Contains(text, "nats1") {
		t.Errorf("an address of the project is left in\n%s", text)
	}
	file := filepath.Join(dir, "gateway.yaml")
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	if out := deploytest.Output(t, filepath.Join(bin, "gateway"), "check", "-c", file); strings.Contains(out, "FAIL") {
		t.Error(out)
	}
}
