// SPDX-License-Identifier: Apache-2.0

package gateway_test

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"io"
	"log/slog"
	"math/big"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/sluice-push/sluice/internal/config"
	"github.com/sluice-push/sluice/internal/gateway"
	"github.com/sluice-push/sluice/internal/identity"
	"github.com/sluice-push/sluice/internal/jetstream/jetstreamtest"
	"github.com/sluice-push/sluice/internal/testwait"
	"github.com/sluice-push/sluice/mockprovider"
)

func TestMain(m *testing.M) {
	tests := jetstreamtest.Main(m)
	if file := os.Getenv(childConfigVar); file != "" {
		os.Exit(runChild(file))
	}
	goleak.VerifyTestMain(tests, goleak.Cleanup(func(code int) {
		if jetstreamtest.Keys() != nil {
			_ = os.Remove(string(testKeyFile()))
		}
		os.Exit(code)
	}))
}

const deviceToken = "00fc13adff785122b4ad28809a3420982341241421348097878e577c991de8f0"

// mockEnv is a mock with the files and values that a configuration needs.
type mockEnv struct {
	mock  *mockprovider.Mock
	files mockprovider.Files
	ready mockprovider.Ready
	key   string
	hash  string
}

func newMockEnv(t testing.TB, cfg ...mockprovider.Config) mockEnv {
	t.Helper()
	m := mockprovider.Start(t, cfg...)
	files, err := m.WriteFiles(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	key, hash := identity.NewKey()
	return mockEnv{mock: m, files: files, ready: m.Ready(files), key: key, hash: hash}
}

func (s mockEnv) keysBlock() string { return fmt.Sprintf("keys: [{name: test, hash: %q}]", s.hash) }

func (s mockEnv) apnsBlock() string {
	return fmt.Sprintf("apns: {url: 'https://%s', endpoints: ['%s'], ca_file: %q, key_file: %q, key_id: %s, team_id: %s, topic: %s}",
		s.ready.APNs, strings.Join(s.ready.APNsEndpoints, "', '"), s.ready.CAFile, s.ready.APNsKeyFile, s.ready.APNsKeyID, s.ready.APNsTeamID, s.ready.APNsTopic)
}

func (s mockEnv) apnsCertBlock() string {
	return fmt.Sprintf("apns: {url: 'https://%s', endpoints: ['%s'], ca_file: %q, cert_file: %q, cert_key_file: %q, topic: %s}",
		s.ready.APNs, strings.Join(s.ready.APNsEndpoints, "', '"), s.ready.CAFile, s.files.ClientCert, s.files.ClientKey, s.ready.APNsTopic)
}

func (s mockEnv) fcmBlock() string {
	return fmt.Sprintf("fcm: {url: '%s', endpoints: ['%s'], ca_file: %q, service_account_file: %q}",
		s.ready.FCM, strings.Join(s.ready.FCMEndpoints, "', '"), s.ready.CAFile, s.ready.ServiceAccountFile)
}

// appBlock returns one app of a configuration.
func (s mockEnv) appBlock(name string, blocks ...string) string {
	return fmt.Sprintf("  %s:\n    %s\n    %s\n", name, s.keysBlock(), strings.Join(blocks, "\n    "))
}

const listenConfig = "listen: 127.0.0.1:0\nadmin: {listen: 127.0.0.1:0}\n"

func parse(t testing.TB, text string) *config.Config {
	t.Helper()
	cfg, err := config.Parse(filepath.Join(t.TempDir(), "gateway.yaml"), []byte(text), nil)
	if err != nil {
		t.Fatalf("%v in\n%s", err, text)
	}
	return withTestKey(cfg)
}

// withTestKey adds a key to a configuration with a queue and without keys, if the tests run with encryption.
func withTestKey(cfg *config.Config) *config.Config {
	if e := &cfg.Queue.Encryption; jetstreamtest.Keys() != nil && len(e.KeyFiles) == 0 && (cfg.Queue.Dir != "" || cfg.Queue.NATS.URL != "") {
		e.KeyFiles = []config.File{testKeyFile()}
	}
	return cfg
}

// testKeyFile returns the key file of tests that run with encryption. TestMain removes it.
var testKeyFile = sync.OnceValue(func() config.File {
	file := filepath.Join(os.TempDir(), fmt.Sprintf("sluice-test-%d.key", os.Getpid()))
	if err := os.WriteFile(file, []byte(jetstreamtest.KeyText), 0o600); err != nil {
		panic(err)
	}
	return config.File(file)
})

// writeKey writes a key file for queue.encryption.
func writeKey(t testing.TB, text string) config.File {
	t.Helper()
	file := filepath.Join(t.TempDir(), "sluice.key")
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return config.File(file)
}

// testGateway is a running gateway.
type testGateway struct {
	t        testing.TB
	key      string
	url      string
	adminURL string
	gw       *gateway.Gateway
	stop     func() error // ends the context of Run and waits for Run
}

// start runs a gateway. In a test it logs at debug level and verifies that the log contains none of
// the mock's secrets.
func (s mockEnv) start(t testing.TB, text string) testGateway {
	t.Helper()
	var log *slog.Logger
	if _, isTest := t.(*testing.T); isTest {
		d := newLeakDetector()
		d.addEnvSecrets(t, s)
		log = d.logger()
		t.Cleanup(func() { d.checkLeaks(t) }) // after the gateway has ended
	}
	return s.startLogging(t, text, log)
}

// startLogging is start with a logger.
func (s mockEnv) startLogging(t testing.TB, text string, log *slog.Logger) testGateway {
	t.Helper()
	return s.startParsed(t, parse(t, text), log)
}

// startParsed is startLogging with a parsed configuration.
func (s mockEnv) startParsed(t testing.TB, cfg *config.Config, log *slog.Logger) testGateway {
	t.Helper()
	h := s.startFailing(t, cfg, log)
	t.Cleanup(func() {
		if err := h.stop(); err != nil {
			t.Errorf("Run: %v", err)
		}
	})
	return h
}

// startFailing is startParsed for a gateway whose Run may return an error, as stop does.
func (s mockEnv) startFailing(t testing.TB, cfg *config.Config, log *slog.Logger) testGateway {
	t.Helper()
	g, err := gateway.New(cfg, log)
	if err != nil {
		t.Fatal(err)
	}
	if err := g.Listen(); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- g.Run(ctx) }()
	stop := sync.OnceValue(func() error {
		cancel()
		http.DefaultClient.CloseIdleConnections()
		return testwait.For(t, ended, "the end")
	})
	t.Cleanup(func() { _ = stop() })
	return testGateway{t: t, key: s.key, url: "http://" + g.Addr().String(), adminURL: "http://" + g.AdminAddr().String(), gw: g, stop: stop}
}

// post sends one notification for an app and returns the status and the decoded response.
func (h testGateway) post(app, body string) (int, map[string]any) {
	h.t.Helper()
	request, err := http.NewRequest(http.MethodPost, h.url+"/v1/apps/"+app+"/notifications", strings.NewReader(body))
	if err != nil {
		h.t.Fatal(err)
	}
	request.Header.Set("Authorization", "Bearer "+h.key)
	response, err := http.DefaultClient.Do(request)
	if err != nil {
		h.t.Error(err)
		return 0, nil
	}
	defer response.Body.Close()
	var receipt map[string]any
	if err := json.NewDecoder(response.Body).Decode(&receipt); err != nil {
		h.t.Error(err)
	}
	return response.StatusCode, receipt
}

func (h testGateway) get(url string) (int, string) {
	h.t.Helper()
	response, err := http.Get(url)
	if err != nil {
		h.t.Fatal(err)
	}
	defer response.Body.Close()
	text, err := io.ReadAll(response.Body)
	if err != nil {
		h.t.Fatal(err)
	}
	return response.StatusCode, string(text)
}

func apnsNotification(token string) string {
	return fmt.Sprintf(`{"platform":"apns","token":%q,"title":"Hi"}`, token)
}

const fcmNotification = `{"platform":"fcm","topic":"news","title":"Hi"}`

func TestSendWithEveryKindOfCredential(t *testing.T) {
	s := newMockEnv(t)
	h := s.start(t, listenConfig+"apps:\n"+s.appBlock("shop", s.apnsBlock(), s.fcmBlock())+s.appBlock("courier", s.apnsCertBlock()))
	for _, c := range []struct{ app, body string }{{"shop", apnsNotification(deviceToken)}, {"shop", fcmNotification}, {"courier", apnsNotification(deviceToken)}} {
		status, receipt := h.post(c.app, c.body)
		if status != 200 || receipt["status"] != "accepted" {
			t.Errorf("%s %s: %d %v", c.app, c.body, status, receipt)
		}
	}
	if status, receipt := h.post("courier", fcmNotification); status != 400 || receipt["field"] != "platform" {
		t.Errorf("a platform without a block: %d %v", status, receipt)
	}
}

func TestAppsWithOneCredentialShareItsPool(t *testing.T) {
	s := newMockEnv(t)
	h := s.start(t, listenConfig+"apps:\n"+s.appBlock("a", s.apnsBlock(), s.fcmBlock())+s.appBlock("b", s.apnsBlock(), s.fcmBlock())+s.appBlock("c", s.apnsCertBlock()))
	var shared []string
	for _, service := range h.gw.Status().Services {
		shared = append(shared, strings.Join(service.Apps, "+"))
	}
	if got := strings.Join(shared, " "); got != "apps.a.apns+apps.b.apns apps.a.fcm+apps.b.fcm apps.c.apns" {
		t.Errorf("services: %s", got)
	}
	for _, app := range []string{"a", "b", "c"} {
		if status, receipt := h.post(app, apnsNotification(deviceToken)); status != 200 || receipt["status"] != "accepted" {
			t.Errorf("%s: %d %v", app, status, receipt)
		}
	}
}

func TestAppsThatShareACredentialNeedEqualPoolSettings(t *testing.T) {
	s := newMockEnv(t)
	other := strings.Replace(s.apnsBlock(), "apns: {", "apns: {pool: {size: 2}, ", 1)
	_, err := gateway.New(parse(t, listenConfig+"apps:\n"+s.appBlock("a", s.apnsBlock())+s.appBlock("b", other)), nil)
	if err == nil || !strings.Contains(err.Error(), "apps.b.apns: shares its credential, and so its pool, with apps.a.apns") {
		t.Errorf("got %v", err)
	}
}

func TestInvalidCredentialIsRejectedAtStart(t *testing.T) {
	s := newMockEnv(t)
	invalid := filepath.Join(t.TempDir(), "junk.pem")
	if err := os.WriteFile(invalid, []byte("canary-secret"), 0o600); err != nil {
		t.Fatal(err)
	}
	for name, c := range map[string]struct{ block, want string }{
		"missing key file": {strings.Replace(s.apnsBlock(), s.ready.APNsKeyFile, "nowhere.p8", 1), `config: apps.shop.apns.key_file: "`},
		"invalid key file": {strings.Replace(s.apnsBlock(), s.ready.APNsKeyFile, invalid, 1), `config: apps.shop.apns.key_file: "` + invalid + `": apns: key: the file must have a PEM block PRIVATE KEY`},
		"invalid CA file":  {strings.Replace(s.apnsBlock(), s.ready.CAFile, invalid, 1), `config: apps.shop.apns.ca_file: "` + invalid + `": the file must have a PEM block CERTIFICATE`},
		"invalid certificate": {
			strings.Replace(s.apnsCertBlock(), s.files.ClientCert, invalid, 1), `config: apps.shop.apns.cert_file: "` + invalid + `": the file must have a PEM block CERTIFICATE`},
		"key of another certificate": {
			strings.Replace(s.apnsCertBlock(), s.files.ClientKey, s.ready.APNsKeyFile, 1), `config: apps.shop.apns.cert_file: "` + s.files.ClientCert + `" and cert_key_file are not a certificate and its key`},
		"certificate as its key": {
			strings.Replace(s.apnsCertBlock(), s.files.ClientKey, s.files.ClientCert, 1), `config: apps.shop.apns.cert_key_file: "` + s.files.ClientCert + `": the file must have a PEM block PRIVATE KEY`},
		"invalid service account": {
			strings.Replace(s.fcmBlock(), s.ready.ServiceAccountFile, invalid, 1), `config: apps.shop.fcm.service_account_file: "` + invalid + `": fcm: account: not the JSON of a service account's key file`},
		"Web Push": {"webpush: {vapid_key_file: vapid.pem, subject: 'mailto:ops@example.com'}",
			`config: apps.shop.webpush.vapid_key_file: "`},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := gateway.New(parse(t, listenConfig+"apps:\n"+s.appBlock("shop", c.block)), nil)
			if err == nil || !strings.Contains(err.Error(), c.want) || strings.Contains(err.Error(), "canary") {
				t.Errorf("want %q in:\n%v", c.want, err)
			}
		})
	}
}

func TestAllInvalidCredentialsAreReported(t *testing.T) {
	s := newMockEnv(t)
	text := listenConfig + "apps:\n" + s.appBlock("shop", strings.Replace(s.apnsBlock(), s.ready.APNsKeyFile, "a.p8", 1), strings.Replace(s.fcmBlock(), s.ready.ServiceAccountFile, "b.json", 1))
	_, err := gateway.New(parse(t, text), nil)
	if err == nil || !strings.Contains(err.Error(), "apps.shop.apns.key_file") || !strings.Contains(err.Error(), "apps.shop.fcm.service_account_file") {
		t.Errorf("got %v", err)
	}
}

func TestConfiguredTokenURLOverridesKeyFile(t *testing.T) {
	s := newMockEnv(t)
	account, err := os.ReadFile(s.ready.ServiceAccountFile)
	if err != nil {
		t.Fatal(err)
	}
	elsewhere := filepath.Join(t.TempDir(), "account.json")
	text := strings.Replace(string(account), s.ready.TokenURL, "https://192.0.2.1/token", 1)
	if err := os.WriteFile(elsewhere, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	block := strings.Replace(s.fcmBlock(), s.ready.ServiceAccountFile, elsewhere, 1)
	h := s.start(t, listenConfig+"apps:\n"+s.appBlock("shop", strings.Replace(block, "fcm: {", "fcm: {token_url: '"+s.ready.TokenURL+"', ", 1)))
	if status, receipt := h.post("shop", fcmNotification); status != 200 || receipt["status"] != "accepted" {
		t.Errorf("%d %v", status, receipt)
	}
}

func TestMetricsAndProfilesAreOnlyOnAdminListener(t *testing.T) {
	s := newMockEnv(t)
	h := s.start(t, listenConfig+"apps:\n"+s.appBlock("shop", s.apnsBlock()))
	h.post("shop", apnsNotification(deviceToken)) // afterwards the pool is ready
	for path, want := range map[string]string{
		"/metrics": fmt.Sprintf("sluice_pool_ready{pool=\"apns %s MOCKKEY001\"} 1", s.ready.APNs), "/debug/pprof/": "goroutine", "/debug/pprof/mutex?debug=1": "sampling period=100",
	} {
		if status, text := h.get(h.adminURL + path); status != 200 || !strings.Contains(text, want) {
			t.Errorf("admin %s: status %d, want %q in the response", path, status, want)
		}
		if status, _ := h.get(h.url + path); status != 404 {
			t.Errorf("api %s: %d", path, status)
		}
	}
}

func TestAddressInUseIsNamed(t *testing.T) {
	s := newMockEnv(t)
	h := s.start(t, listenConfig+"apps:\n"+s.appBlock("shop", s.apnsBlock()))
	taken := strings.TrimPrefix(h.url, "http://")
	g, err := gateway.New(parse(t, strings.Replace(listenConfig, "admin: {listen: 127.0.0.1:0}", "admin: {listen: '"+taken+"'}", 1)+"apps:\n"+s.appBlock("shop", s.apnsBlock())), nil)
	if err != nil {
		t.Fatal(err)
	}
	if err := g.Run(context.Background()); err == nil || !strings.Contains(err.Error(), "admin.listen: listen tcp "+taken) {
		t.Errorf("got %v", err)
	}
}

func TestChecks(t *testing.T) {
	s := newMockEnv(t)
	unreachable := strings.Replace(s.fcmBlock(), strings.Join(s.ready.FCMEndpoints, "', '"), "127.0.0.1:1", 1)
	taken := s.start(t, listenConfig+"apps:\n"+s.appBlock("shop", s.apnsBlock()))
	text := strings.Replace(listenConfig, "listen: 127.0.0.1:0", "listen: '"+strings.TrimPrefix(taken.url, "http://")+"'", 1)
	g, err := gateway.New(parse(t, text+"apps:\n"+s.appBlock("shop", s.apnsBlock(), unreachable)+s.appBlock("courier", s.apnsCertBlock())), nil)
	if err != nil {
		t.Fatal(err)
	}
	var lines []string
	for _, check := range g.Checks() {
		found, err := check.Verify(t.Context())
		if err != nil {
			found = "FAIL " + err.Error()
		}
		lines = append(lines, check.Key+": "+found)
	}
	got := strings.Join(lines, "\n")
	for _, want := range []string{
		"(is a gateway running here already?)",
		"admin.listen: 127.0.0.1:0 is free",
		"apps.courier.apns.cert_file: valid until ",
		"apps.courier.apns: connected to 127.0.0.1:",
		"apps.shop.apns: got a token for MOCKKEY001",
		"apps.shop.apns: connected to " + s.ready.APNs + ", address 1 of 8 of https://" + s.ready.APNs,
		"apps.shop.fcm: got a token for demo-project",
		"apps.shop.fcm: FAIL cannot connect to any address of " + s.ready.FCM + ": 127.0.0.1:1: wire: CONNECT_REFUSED",
	} {
		if !strings.Contains(got, want) {
			t.Errorf("want %q in\n%s", want, got)
		}
	}
}

func TestWarningAboutReadableKeyFile(t *testing.T) {
	s := newMockEnv(t)
	cfg := parse(t, listenConfig+"apps:\n"+s.appBlock("shop", s.apnsBlock(), s.fcmBlock()))
	if found := gateway.Warnings(cfg); found != nil {
		t.Errorf("got %q", found)
	}
	if err := os.Chmod(s.ready.APNsKeyFile, 0o644); err != nil {
		t.Fatal(err)
	}
	found := strings.Join(gateway.Warnings(cfg), "\n")
	for _, want := range []string{"apps.shop.apns.key_file: ", "mode 0644"} {
		if !strings.Contains(found, want) {
			t.Errorf("want %q in %s", want, found)
		}
	}
}

func TestExpiredCertificateIsRejected(t *testing.T) {
	s := newMockEnv(t)
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(1), NotBefore: time.Now().AddDate(-2, 0, 0), NotAfter: time.Now().AddDate(-1, 0, 0)}
	cert, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	private, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	old := filepath.Join(t.TempDir(), "old.pem")
	text := append(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: cert}), pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: private})...)
	if err := os.WriteFile(old, text, 0o600); err != nil {
		t.Fatal(err)
	}
	block := strings.NewReplacer(s.files.ClientCert, old, s.files.ClientKey, old).Replace(s.apnsCertBlock())
	_, err = gateway.New(parse(t, listenConfig+"apps:\n"+s.appBlock("shop", block)), nil)
	if err == nil || !strings.Contains(err.Error(), "apps.shop.apns.cert_file: ") || !strings.Contains(err.Error(), "is valid only from ") {
		t.Errorf("got %v", err)
	}
}

func TestUnreachableProviderDoesNotPreventReadiness(t *testing.T) {
	s := newMockEnv(t)
	closed, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	_ = closed.Close()
	unreachable := strings.Replace(s.fcmBlock(), strings.Join(s.ready.FCMEndpoints, "', '"), closed.Addr().String(), 1)
	h := s.start(t, listenConfig+"apps:\n"+s.appBlock("shop", s.apnsBlock(), unreachable))
	if code, text := h.get(h.url + "/readyz"); code != http.StatusOK {
		t.Errorf("%d %s", code, text)
	}
	if code, receipt := h.post("shop", apnsNotification(deviceToken)); code != http.StatusOK {
		t.Errorf("the other provider: %d %v", code, receipt)
	}
	_, _ = h.post("shop", fcmNotification) // connects, if the pool has not connected yet
	for _, service := range h.gw.Status().Services {
		if service.Pool.Ready != strings.HasPrefix(service.Pool.Name, "apns") || service.Pool.Ready == (service.Pool.Reason != "") {
			t.Errorf("%s: ready %t, reason %q", service.Pool.Name, service.Pool.Ready, service.Pool.Reason)
		}
	}
}
