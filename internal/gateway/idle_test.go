// SPDX-License-Identifier: Apache-2.0

package gateway_test

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/pem"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"

	"github.com/sluice-push/sluice/internal/testwait"
	"github.com/sluice-push/sluice/mockprovider"
)

// ecKeyFile writes a new private key in PKCS #8.
func ecKeyFile(t testing.TB, dir string, i int) string {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(dir, fmt.Sprintf("key%d.pem", i))
	if err := os.WriteFile(file, pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der}), 0o600); err != nil {
		t.Fatal(err)
	}
	return file
}

// heapAlloc returns the memory in use.
func heapAlloc() int64 {
	runtime.GC()
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return int64(m.HeapAlloc + m.StackInuse)
}

// TestIdleAppsCostLittle starts a gateway with a thousand apps, each with its own credentials at
// Apple (two environments and their channels), Google and the push services of browsers. They are
// idle: at most 15 MB, four goroutines per app, and no connection.
func TestIdleAppsCostLittle(t *testing.T) {
	const apps = 1000
	s := newMockEnv(t)
	account, err := os.ReadFile(s.ready.ServiceAccountFile)
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	var text strings.Builder
	text.WriteString(listenConfig + "apps:\n")
	for i := range apps {
		accountFile := filepath.Join(dir, fmt.Sprintf("account%d.json", i))
		project := fmt.Sprintf("project-%d", i)
		if err := os.WriteFile(accountFile, []byte(strings.ReplaceAll(string(account), s.ready.ProjectID, project)), 0o600); err != nil {
			t.Fatal(err)
		}
		text.WriteString(s.appBlock(fmt.Sprintf("app%d", i),
			fmt.Sprintf("apns: {key_file: %q, key_id: KEY%07d, team_id: DEF123GHIJ, topic: com.example.app}", ecKeyFile(t, dir, i), i),
			fmt.Sprintf("fcm: {url: '%s', ca_file: %q, service_account_file: %q}", s.ready.FCM, s.ready.CAFile, accountFile),
			fmt.Sprintf("webpush: {vapid_key_file: %q, subject: 'mailto:ops@example.com'}", ecKeyFile(t, dir, apps+i))))
	}
	cfg := parse(t, text.String())
	text.Reset()
	goroutines, memory := runtime.NumGoroutine(), heapAlloc()
	h := s.startParsed(t, cfg, nil)
	testwait.Until(t, func() bool { status, _ := h.get(h.url + "/readyz"); return status == 200 }, "the gateway is ready")
	grown := runtime.NumGoroutine() - goroutines
	used := heapAlloc() - memory
	t.Logf("%d idle apps: %d goroutines, %.1f MB", apps, grown, float64(used)/1e6)
	if grown > 4*apps {
		t.Errorf("%d goroutines for %d idle apps, want at most 4 per app", grown, apps)
	}
	if used > 15e6 && !raceEnabled {
		t.Errorf("%.1f MB for %d idle apps, want at most 15 MB", float64(used)/1e6, apps)
	}
	if n := s.mock.Ledger().Summary().Services[mockprovider.FCM].Dials; n > 0 {
		t.Errorf("%d connections to FCM, want none", n)
	}
	if _, page := h.get(h.adminURL + "/metrics"); len(page) > 100_000 {
		t.Errorf("/metrics has %d bytes although nothing was sent", len(page))
	}
}

// TestPoolDisconnectsWhenIdleAndConnectsAgain tests services of all platforms with real
// connections.
func TestPoolDisconnectsWhenIdleAndConnectsAgain(t *testing.T) {
	s := newMockEnv(t)
	h := s.start(t, listenConfig+"pool: {idle_timeout: 2s}\napps:\n"+s.appBlock("shop", s.apnsBlock(), s.fcmBlock())+s.appBlock("courier", s.apnsCertBlock()))
	allIdle := func() bool {
		for _, service := range h.gw.Status().Services {
			if !service.Pool.Idle {
				return false
			}
		}
		return true
	}
	if !allIdle() {
		t.Error("a pool runs before the first notification")
	}
	if n := len(h.gw.Status().Services); n != 3 {
		t.Errorf("%d services in the status, want 3", n)
	}
	for range 2 {
		for _, c := range []struct{ app, body string }{{"shop", apnsNotification(deviceToken)}, {"shop", fcmNotification}, {"courier", apnsNotification(deviceToken)}} {
			if status, receipt := h.post(c.app, c.body); status != 200 || receipt["status"] != "accepted" {
				t.Errorf("%s %s: %d %v", c.app, c.body, status, receipt)
			}
		}
		testwait.Until(t, allIdle, "all pools are idle")
		testwait.Until(t, func() bool { return openProviderConns(s.mock) == 0 }, "the mock has no connection")
		if status, text := h.get(h.url + "/readyz"); status != 200 {
			t.Errorf("an idle gateway is not ready: %d %s", status, text)
		}
	}
}

// openProviderConns returns the number of connections that the mock's services have.
func openProviderConns(m *mockprovider.Mock) (n int) {
	for _, service := range m.Ledger().Summary().Services {
		n += service.Open
	}
	return n
}

// TestIdleTimeoutZeroConnectsAtStart tests the pools of a configuration that keeps them connected.
func TestIdleTimeoutZeroConnectsAtStart(t *testing.T) {
	s := newMockEnv(t)
	h := s.start(t, listenConfig+"pool: {idle_timeout: 0s}\napps:\n"+s.appBlock("shop", s.apnsBlock(), s.fcmBlock()))
	testwait.Until(t, func() bool {
		for _, service := range h.gw.Status().Services {
			if len(service.Pool.Endpoints) != 8 {
				return false
			}
		}
		return true
	}, "all pools are full")
}
