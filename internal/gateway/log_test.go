// SPDX-License-Identifier: Apache-2.0

package gateway_test

import (
	"fmt"
	"log/slog"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/sluice-push/sluice/internal/config"
	"github.com/sluice-push/sluice/internal/testwait"
	"github.com/sluice-push/sluice/mockprovider"
)

// infoLogger returns a logger at info level, and the detector that it writes to.
func infoLogger() (*leakDetector, *slog.Logger) {
	d := newLeakDetector()
	return d, slog.New(slog.NewTextHandler(d, &slog.HandlerOptions{Level: slog.LevelInfo}))
}

// TestStartHasFewLogLines: a start has at most ten lines at info level, however many apps, pools and
// warnings there are.
func TestStartHasFewLogLines(t *testing.T) {
	s := newMockEnv(t)
	dir := t.TempDir()
	copyFile := func(from, to string, mode os.FileMode) {
		t.Helper()
		text, err := os.ReadFile(from)
		if err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(dir, to), text, mode); err != nil {
			t.Fatal(err)
		}
	}
	for to, from := range map[string]string{
		"AuthKey_ABC123DEFG.p8": s.ready.APNsKeyFile, "shop-firebase.json": s.ready.ServiceAccountFile,
		"courier-apns.pem": s.files.ClientCert, "courier-apns.key": s.files.ClientKey,
	} {
		copyFile(from, to, 0o600)
	}
	example, err := os.ReadFile("../../examples/gateway.yaml")
	if err != nil {
		t.Fatal(err)
	}
	hundred := listenConfig + "pool: {size: 1, idle_timeout: 0s}\nqueue: {dir: queue}\nlimits: {send_timeout: 1s}\napps:\n" // a warning about send_timeout
	for i := range 100 {
		readable := fmt.Sprintf("readable-%d.p8", i)
		copyFile(ecKeyFile(t, dir, i), readable, 0o644)
		hundred += s.appBlock(fmt.Sprintf("app-%d", i), strings.Replace(s.apnsBlock(), s.ready.APNsKeyFile, readable, 1))
	}
	for name, c := range map[string]struct {
		text  string
		pools int // that connect at the start
	}{
		"example":  {strings.NewReplacer("127.0.0.1:8080", "127.0.0.1:0", "127.0.0.1:9090", "127.0.0.1:0").Replace(string(example)), 0},
		"100 apps": {hundred, 100},
	} {
		t.Run(name, func(t *testing.T) {
			cfg, err := config.Parse(filepath.Join(dir, "gateway.yaml"), []byte(c.text), nil)
			if err != nil {
				t.Fatal(err)
			}
			log, logger := infoLogger()
			h := s.startParsed(t, cfg, logger)
			testwait.Until(t, func() bool {
				connected := 0
				for _, service := range h.gw.Status().Services {
					if len(service.Pool.Endpoints) > 0 {
						connected++
					}
				}
				return strings.Contains(log.text(), "msg=serving") && connected == c.pools
			}, "the gateway serves and is connected")
			if lines := strings.Count(log.text(), "\n"); lines > 10 {
				t.Errorf("%d lines:\n%s", lines, log.text())
			}
			if c.pools > 0 && !strings.Contains(log.text(), "not_logged=96") {
				t.Errorf("the number of further warnings is missing:\n%s", log.text())
			}
		})
	}
}

// TestProviderOutageIsLogged: all endpoints of APNs go down and come back while notifications are sent.
// FCM is not affected.
func TestProviderOutageIsLogged(t *testing.T) {
	s := newMockEnv(t, mockprovider.Config{Endpoints: 3})
	log, logger := infoLogger()
	h := s.startLogging(t, listenConfig+"pool: {size: 3}\napps:\n"+s.appBlock("shop", s.apnsBlock(), s.fcmBlock()), logger)
	wantAccepted := func(body string) {
		t.Helper()
		if status, receipt := h.post("shop", body); status != http.StatusOK || receipt["status"] != "accepted" {
			t.Errorf("%d %v", status, receipt)
		}
	}
	play := func(faults ...mockprovider.Fault) {
		t.Helper()
		if err := s.mock.SetScript(mockprovider.Script{Faults: faults}); err != nil {
			t.Fatal(err)
		}
	}
	wantAccepted(apnsNotification(deviceToken))
	wantAccepted(fcmNotification)
	started := log.text()
	play(mockprovider.Fault{Service: mockprovider.APNs, Refuse: true}, mockprovider.Fault{Service: mockprovider.APNs, Reset: &mockprovider.Reset{}})
	testwait.Until(t, func() bool { return strings.Contains(log.text(), "provider unavailable") }, "the outage is logged")
	failed := 0
	for range 20 {
		if status, _ := h.post("shop", apnsNotification(deviceToken)); status == http.StatusServiceUnavailable {
			failed++
		}
		wantAccepted(fcmNotification)
	}
	play()
	testwait.Until(t, func() bool {
		if status, _ := h.post("shop", apnsNotification(deviceToken)); status == http.StatusServiceUnavailable {
			failed++
		}
		return strings.Contains(log.text(), "provider recovered")
	}, "the recovery is logged")
	lines := strings.Split(strings.TrimSpace(strings.TrimPrefix(log.text(), started)), "\n")
	pool := fmt.Sprintf("pool=\"apns %s MOCKKEY001\"", s.ready.APNs)
	if len(lines) != 2 {
		t.Fatalf("%d lines, want 2:\n%s", len(lines), strings.Join(lines, "\n"))
	}
	for i, parts := range [][]string{
		{"level=WARN", "provider unavailable", pool, "since=", "no endpoint can be reached: ", "connection refused"},
		{"level=INFO", "provider recovered", pool, "since=", "for=", fmt.Sprintf("affected=%d ", failed), "no endpoint can be reached: "},
	} {
		for _, part := range parts {
			if !strings.Contains(lines[i], part) {
				t.Errorf("%q is missing in %s", part, lines[i])
			}
		}
	}
	if _, text := h.get(h.adminURL + "/metrics"); !strings.Contains(text, "sluice_pool_unavailable{"+pool+"} 0") {
		t.Error("the metric does not show the recovery")
	}
}
