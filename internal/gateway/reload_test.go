// SPDX-License-Identifier: Apache-2.0

package gateway_test

import (
	"context"
	"flag"
	"fmt"
	"math/rand/v2"
	"net/http"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/sluice-push/sluice/internal/config"
	"github.com/sluice-push/sluice/internal/gateway"
	"github.com/sluice-push/sluice/internal/identity"
	"github.com/sluice-push/sluice/internal/testwait"
	"github.com/sluice-push/sluice/mockprovider"
)

// reload parses a configuration and reloads the gateway with it.
func (h testGateway) reload(text string) ([]string, error) {
	cfg, err := config.Parse(filepath.Join(h.t.TempDir(), "gateway.yaml"), []byte(text), nil)
	if err != nil {
		return nil, err
	}
	return h.gw.Reload(withTestKey(cfg))
}

// sendBoth posts one notification for shop to each platform and fails unless both are accepted.
func (h testGateway) sendBoth() {
	h.t.Helper()
	for _, body := range []string{fcmNotification, fmt.Sprintf(`{"platform":"apns","token":%q,"title":"Hi"}`, deviceToken)} {
		if code, receipt := h.post("shop", body); code != http.StatusOK || receipt["status"] != "accepted" {
			h.t.Errorf("%s: %d %v", body, code, receipt)
		}
	}
}

// dialCount returns the number of connections that the mock's APNs and FCM have accepted so far.
func (s mockEnv) dialCount() (n uint64) {
	for _, name := range []string{mockprovider.APNs, mockprovider.FCM} {
		for _, endpoint := range s.mock.Ledger().Summary().Services[name].Endpoints {
			n += endpoint.Dials
		}
	}
	return n
}

var reloads = flag.Int("reloads", 200, "number of configuration changes under load")

func TestReloadsUnderLoad(t *testing.T) {
	s := newMockEnv(t)
	shop := func(apns string) string { return s.appBlock("shop", apns, s.fcmBlock()) }
	with := func(retry, limits, more, apps string) string { // otherwise slowTimeouts
		return listenConfig + fmt.Sprintf("retry: {attempt_timeout: 2m%s}\nlimits: {send_timeout: 10m%s}\n%sapps:\n%s", retry, limits, more, apps)
	}
	h := s.start(t, with("", "", "", shop(s.apnsBlock())))
	h.sendBoth()
	var callers sync.WaitGroup
	var over atomic.Bool
	for range 4 {
		callers.Go(func() {
			for !over.Load() {
				h.sendBoth()
			}
		})
	}
	good := []func(i int) string{
		func(int) string { return with("", "", "", shop(s.apnsBlock())) },
		func(int) string { return with("", "", "", shop(s.apnsCertBlock())) },
		func(i int) string {
			return with("", "", "", shop(s.apnsBlock())+s.appBlock(fmt.Sprint("app", i), s.fcmBlock()))
		},
		func(i int) string { return with(fmt.Sprint(", attempts: ", 2+i%3), "", "", shop(s.apnsBlock())) },
		func(i int) string { return with("", fmt.Sprint(", batch: ", 1+i), "", shop(s.apnsBlock())) },
		func(i int) string { return with("", "", fmt.Sprintf("pool: {size: %d}\n", 1+i%4), shop(s.apnsBlock())) },
	}
	bad := []string{
		with("", "", "pol: {size: 4}\n", shop(s.apnsBlock())),
		with("", "", "", strings.Replace(shop(s.apnsBlock()), s.ready.APNsKeyFile, "nowhere.p8", 1)),
		listenConfig + "apps: {}\n",
	}
	random := rand.New(rand.NewPCG(1, 2))
	for i := range *reloads {
		if i%10 == 9 {
			if _, err := h.reload(bad[random.IntN(len(bad))]); err == nil {
				t.Fatal("an invalid configuration was accepted")
			}
			h.sendBoth() // limits the number of concurrent dials, for slow machines
			continue
		}
		if _, err := h.reload(good[random.IntN(len(good))](i)); err != nil {
			t.Fatal(err)
		}
	}
	over.Store(true)
	testwait.Call(t, callers.Wait, "the end of all callers")
	h.sendBoth()
}

func TestReloadReplacesAppsAndKeys(t *testing.T) {
	s := newMockEnv(t)
	h := s.start(t, listenConfig+"apps:\n"+s.appBlock("shop", s.fcmBlock()))
	other, hash := identity.NewKey()
	changes, err := h.reload(listenConfig + "apps:\n" + strings.Replace(s.appBlock("bank", s.fcmBlock()), s.hash, hash, 1))
	if err != nil || strings.Join(changes, "; ") != "apps.bank: (none) → (new); apps.shop: (set) → (none)" {
		t.Errorf("%q, %v", changes, err)
	}
	if code, _ := h.post("shop", fcmNotification); code != http.StatusUnauthorized {
		t.Errorf("the removed app responds with %d", code)
	}
	h.key = other
	if code, receipt := h.post("bank", fcmNotification); code != http.StatusOK {
		t.Errorf("the new app responds with %d: %v", code, receipt)
	}
}

func TestRejectedReloadChangesNothing(t *testing.T) {
	s := newMockEnv(t)
	h := s.start(t, listenConfig+"apps:\n"+s.appBlock("shop", s.apnsBlock(), s.fcmBlock()))
	for text, want := range map[string]string{
		"pool: {size: 99}\napps:\n" + s.appBlock("shop", s.fcmBlock()):                      "pool.size",
		"zone: osaka\napps:\n" + s.appBlock("shop", s.fcmBlock()):                           "zone cannot change while the gateway runs",
		"apps:\n" + strings.ReplaceAll(s.appBlock("shop", s.fcmBlock()), "ca_file", "cafi"): "cafi",
		"apps:\n" + strings.ReplaceAll(s.appBlock("shop", s.fcmBlock()), ".json", ".jso"):   "no such file",
	} {
		if _, err := h.reload(listenConfig + text); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("want %q in: %v", want, err)
		}
	}
	h.sendBoth()
	if changes, err := h.reload(listenConfig + "apps:\n" + s.appBlock("shop", s.apnsBlock(), s.fcmBlock())); err != nil || len(changes) != 0 {
		t.Errorf("%v, %v", changes, err)
	}
}

func TestReloadKeepsUnchangedConnections(t *testing.T) {
	s := newMockEnv(t)
	h := s.start(t, listenConfig+"apps:\n"+s.appBlock("shop", s.apnsBlock(), s.fcmBlock()))
	h.sendBoth()
	for i := range 20 {
		text := listenConfig + fmt.Sprintf("limits: {batch: %d}\nretry: {attempts: %d}\napps:\n", 100+i, 1+i%3) +
			s.appBlock("shop", s.apnsBlock(), s.fcmBlock()) + s.appBlock(fmt.Sprint("other", i), s.fcmBlock())
		if _, err := h.reload(text); err != nil {
			t.Fatal(err)
		}
		h.sendBoth()
	}
	if dials, endpoints := s.dialCount(), uint64(len(s.ready.APNsEndpoints)+len(s.ready.FCMEndpoints)); dials > endpoints {
		t.Errorf("%d connections were dialed, for %d endpoints", dials, endpoints)
	}
}

func TestReloadDetectsNewKeyFileContents(t *testing.T) {
	s := newMockEnv(t)
	account := filepath.Join(t.TempDir(), "account.json")
	copyFrom := func(from string) {
		t.Helper()
		text, err := os.ReadFile(from)
		if err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(account, text, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	copyFrom(s.ready.ServiceAccountFile)
	text := listenConfig + "apps:\n" + strings.ReplaceAll(s.appBlock("shop", s.apnsBlock(), s.fcmBlock()), s.ready.ServiceAccountFile, account)
	h := s.start(t, text)
	h.sendBoth()
	other := newMockEnv(t, mockprovider.Config{})
	copyFrom(other.ready.ServiceAccountFile)
	changes, err := h.reload(text)
	if err != nil || strings.Join(changes, "; ") != "apps.shop.fcm: new credential" {
		t.Errorf("%q, %v", changes, err)
	}
}

func TestReloadKeepsIdempotencyKeys(t *testing.T) {
	s := newMockEnv(t)
	h := s.start(t, listenConfig+"apps:\n"+s.appBlock("shop", s.fcmBlock()))
	_, first := h.request(http.MethodPost, "", fcmNotification, "Idempotency-Key", "once")
	if _, err := h.reload(listenConfig + "limits: {batch: 7}\napps:\n" + s.appBlock("shop", s.fcmBlock())); err != nil {
		t.Fatal(err)
	}
	if _, again := h.request(http.MethodPost, "", fcmNotification, "Idempotency-Key", "once"); again["id"] != first["id"] || first["id"] == nil {
		t.Errorf("receipts before and after the reload: %v, %v", first, again)
	}
}

func TestReloadedQuotaKeepsConnectionsAndUsage(t *testing.T) {
	s := newMockEnv(t)
	with := func(top string) string { return listenConfig + top + "apps:\n" + s.appBlock("shop", s.fcmBlock()) }
	h := s.start(t, with("quota: {fcm: {rate: 1/h}}\n"))
	if code, receipt := h.post("shop", fcmNotification); code != http.StatusOK {
		t.Fatalf("the first notification: %d %v", code, receipt)
	}
	dials := uint64(len(s.ready.FCMEndpoints))
	testwait.Until(t, func() bool { return s.dialCount() == dials }, "all endpoints are connected") // the notification needed only the first of them
	for _, c := range []struct {
		top  string
		want int
	}{
		{"quota: {fcm: {rate: 2/h}}\n", http.StatusTooManyRequests},
		{"quota: {fcm: {rate: 2/h, topics_rate: 1/h}}\npool: {size: 3}\n", http.StatusTooManyRequests}, // new connections do not reset the usage
		{"quota: {fcm: {rate: 1000/s}}\npool: {size: 3}\n", http.StatusOK},
	} {
		if changes, err := h.reload(with(c.top)); err != nil || len(changes) == 0 {
			t.Errorf("%s%q, %v", c.top, changes, err)
		}
		if code, receipt := h.post("shop", fcmNotification); code != c.want {
			t.Errorf("%s%d %v, want %d", c.top, code, receipt, c.want)
		}
		if c.top == "quota: {fcm: {rate: 2/h}}\n" && s.dialCount() != dials {
			t.Errorf("%d connections were dialed because of a quota", s.dialCount()-dials)
		}
	}
}

// openConns returns the number of open connections to the mock's APNs and FCM.
func (s mockEnv) openConns() int {
	services := s.mock.Ledger().Summary().Services
	return services[mockprovider.APNs].Open + services[mockprovider.FCM].Open
}

func TestReloadBeforeRunDoesNotPreventTheEndOfRun(t *testing.T) {
	s := newMockEnv(t)
	dir := t.TempDir()
	configOf := func(size int) *config.Config {
		return parse(t, listenConfig+slowTimeouts+fmt.Sprintf("pool: {size: %d}\nqueue: {dir: %q}\napps:\n", size, dir)+
			s.appBlock("shop", s.apnsBlock(), s.fcmBlock()))
	}
	g, err := gateway.New(configOf(1), nil)
	if err != nil {
		t.Fatal(err)
	}
	if err := g.Listen(); err != nil {
		t.Fatal(err)
	}
	for size := range 3 { // as while the queue opens
		if changes, err := g.Reload(configOf(size + 2)); err != nil || len(changes) == 0 {
			t.Fatal(changes, err)
		}
	}
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- g.Run(ctx) }()
	h := testGateway{t: t, key: s.key, url: "http://" + g.Addr().String(), gw: g}
	h.sendBoth()
	if _, err := g.Reload(configOf(1)); err != nil {
		t.Fatal(err)
	}
	h.sendBoth()
	testwait.Until(t, func() bool { return s.openConns() == 2 }, "one connection to each provider is open")
	cancel()
	if err := testwait.For(t, ended, "the end of Run"); err != nil {
		t.Error(err)
	}
}

func TestReloadsLeaveConnectionsAndGoroutinesUnchanged(t *testing.T) {
	s := newMockEnv(t)
	with := func(size int) string {
		return listenConfig + slowTimeouts + fmt.Sprintf("pool: {size: %d, idle_timeout: 0s}\napps:\n", size) + s.appBlock("shop", s.apnsBlock(), s.fcmBlock())
	}
	h := s.start(t, with(2))
	steady := func() bool { // the mock counts connections before their handshake, which has goroutines of its own
		connected := 0
		for _, service := range h.gw.Status().Services {
			for _, e := range service.Pool.Endpoints {
				connected += e.Connections
			}
		}
		return s.openConns() == 4 && connected == 4
	}
	h.sendBoth()
	testwait.Until(t, steady, "both pools are full")
	http.DefaultClient.CloseIdleConnections()
	goroutines := runtime.NumGoroutine()
	var callers sync.WaitGroup
	var over atomic.Bool
	for range 2 {
		callers.Go(func() {
			for !over.Load() {
				h.sendBoth()
			}
		})
	}
	for i := range 50 {
		if _, err := h.reload(with(1 + i%3)); err != nil { // the last size is 2
			t.Fatal(err)
		}
	}
	over.Store(true)
	testwait.Call(t, callers.Wait, "the end of all callers")
	testwait.Until(t, steady, "only the connections of the current configuration are open")
	testwait.Until(t, func() bool {
		http.DefaultClient.CloseIdleConnections()
		return runtime.NumGoroutine() <= goroutines
	}, "no more goroutines run than before")
}

func TestConcurrentReloadsAreAllApplied(t *testing.T) {
	s := newMockEnv(t)
	with := func(size, apps int) string {
		text := listenConfig + slowTimeouts + fmt.Sprintf("pool: {size: %d, idle_timeout: 0s}\napps:\n", size) + s.appBlock("shop", s.apnsBlock(), s.fcmBlock())
		for i := range apps {
			text += s.appBlock(fmt.Sprint("app", i), s.fcmBlock())
		}
		return text
	}
	h := s.start(t, with(1, 0))
	var callers sync.WaitGroup
	for size := range 4 {
		callers.Go(func() {
			for apps := range 10 {
				if _, err := h.reload(with(1+size, apps)); err != nil {
					t.Error(err)
				}
				h.sendBoth()
			}
		})
	}
	testwait.Call(t, callers.Wait, "the end of all reloads")
	if _, err := h.reload(with(3, 1)); err != nil {
		t.Error(err)
	}
	testwait.Until(t, func() bool { return s.openConns() == 6 }, "only the connections of the last configuration are open")
}

func TestFileChangeInOneServiceOfABlockIsReportedOnce(t *testing.T) {
	s := newMockEnv(t)
	apns := strings.Replace(s.apnsBlock(), fmt.Sprintf("url: 'https://%s', ", s.ready.APNs), "", 1) // three services: two environments and channel management
	text := listenConfig + "apps:\n" + s.appBlock("shop", apns, s.fcmBlock())
	h := s.start(t, text)
	if changes, err := h.reload(text); err != nil || len(changes) != 0 {
		t.Errorf("without a change: %q, %v", changes, err)
	}
	if changes, err := h.reload(strings.Replace(text, "apps:", "limits: {batch: 7}\napps:", 1)); err != nil || strings.Join(changes, "; ") != "limits.batch: 10000 → 7" {
		t.Errorf("%q, %v", changes, err)
	}
}

func TestDigestChangesWithEveryReferencedFile(t *testing.T) {
	s := newMockEnv(t)
	folder := t.TempDir()
	copyOf := func(name string) string {
		t.Helper()
		text, err := os.ReadFile(name)
		if err != nil {
			t.Fatal(err)
		}
		path := filepath.Join(folder, filepath.Base(name))
		if err := os.WriteFile(path, text, 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	files := []string{s.ready.CAFile, s.ready.APNsKeyFile, s.ready.ServiceAccountFile, s.files.ClientCert, s.files.ClientKey}
	text := "apps:\n" + s.appBlock("shop", s.apnsBlock(), s.fcmBlock()) + s.appBlock("bank", s.apnsCertBlock())
	for i, name := range files {
		files[i] = copyOf(name)
		text = strings.ReplaceAll(text, name, files[i])
	}
	defaultAccount := filepath.Join(folder, "default.json")
	t.Setenv("GOOGLE_APPLICATION_CREDENTIALS", defaultAccount)
	text += s.appBlock("cloud", fmt.Sprintf("fcm: {url: '%s', endpoints: ['%s'], ca_file: %q}", s.ready.FCM, s.ready.FCMEndpoints[0], files[0]))
	cfg := parse(t, text)
	previous := gateway.Digest([]byte(text), cfg)
	if again := gateway.Digest([]byte(text), cfg); again != previous {
		t.Error("two digests of the same contents differ")
	}
	for _, name := range append(files, defaultAccount) {
		if err := os.WriteFile(name, []byte("new contents"), 0o600); err != nil {
			t.Fatal(err)
		}
		next := gateway.Digest([]byte(text), cfg)
		if next == previous {
			t.Errorf("new contents of %s do not change the digest", filepath.Base(name))
		}
		if err := os.Remove(name); err != nil {
			t.Fatal(err)
		}
		if previous = gateway.Digest([]byte(text), cfg); previous == next {
			t.Errorf("the removal of %s does not change the digest", filepath.Base(name))
		}
	}
}
