// SPDX-License-Identifier: Apache-2.0

package gateway_test

import (
	"encoding/pem"
	"fmt"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/sluice-push/sluice/internal/gateway"
	"github.com/sluice-push/sluice/internal/proxy/proxytest"
	"github.com/sluice-push/sluice/internal/testwait"
)

// proxyPassword is the password of the proxies in these tests.
const proxyPassword = "p:ss-4711-wörd"

// proxiedEnv is a mock that is reached under the names of the real services, and only through a proxy.
type proxiedEnv struct {
	mockEnv
	t     *testing.T
	hosts map[string]string // as of proxytest.Config
}

func newProxiedEnv(t *testing.T) proxiedEnv {
	s := newMockEnv(t)
	trim := func(base string) string { return strings.TrimPrefix(base, "https://") }
	token, err := url.Parse(s.ready.TokenURL)
	if err != nil {
		t.Fatal(err)
	}
	return proxiedEnv{s, t, map[string]string{
		"api.push.apple.com:443": s.ready.APNs, "api-manage-broadcast.push.apple.com:2196": s.ready.APNsManage, "fcm.googleapis.com:443": trim(s.ready.FCM),
		"oauth2.googleapis.com:443": token.Host, "updates.push.services.mozilla.com:443": trim(s.ready.WebPush),
	}}
}

// file writes a file.
func (s proxiedEnv) file(name, text string) string {
	s.t.Helper()
	file := filepath.Join(s.t.TempDir(), name)
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		s.t.Fatal(err)
	}
	return file
}

// config returns a configuration for the real services, with a proxy block and more.
func (s proxiedEnv) config(block, more string) string {
	s.t.Helper()
	apns := fmt.Sprintf("apns: {ca_file: %q, key_file: %q, key_id: %s, team_id: %s, topic: %s}", s.ready.CAFile, s.ready.APNsKeyFile, s.ready.APNsKeyID, s.ready.APNsTeamID, s.ready.APNsTopic)
	fcm := fmt.Sprintf("fcm: {ca_file: %q, service_account_file: %q, token_url: 'https://oauth2.googleapis.com/token'}", s.ready.CAFile, s.ready.ServiceAccountFile)
	web := fmt.Sprintf("webpush: {ca_file: %q, vapid_key_file: %q, subject: 'mailto:ops@example.com'}", s.ready.CAFile, vapidKeyFile(s.t))
	return listenConfig + slowTimeouts + "proxy: {" + block + "}\napps:\n" + s.appBlock("shop", apns, fcm, web) + more
}

// credentialsFile returns a configuration key.
func (s proxiedEnv) credentialsFile() string {
	return fmt.Sprintf("credentials_file: %q", s.file("proxy.txt", "gateway:"+proxyPassword+"\n"))
}

// start runs a gateway and verifies at the end that its log contains no secret.
func (s proxiedEnv) start(text string) (testGateway, *leakDetector) {
	d := newLeakDetector()
	d.addEnvSecrets(s.t, s.mockEnv)
	d.secrets["the password of the proxy"] = proxyPassword
	h := s.startLogging(s.t, text, d.logger())
	s.t.Cleanup(func() { d.checkLeaks(s.t) })
	return h, d
}

// block returns the keys of a proxy block.
func (s proxiedEnv) block(p *proxytest.Proxy) string {
	block := fmt.Sprintf("url: '%s', %s", p.URL(), s.credentialsFile())
	if cert := p.Certificate(); cert != nil {
		block += fmt.Sprintf(", ca_file: %q", s.file("proxy.pem", string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: cert.Raw}))))
	}
	return block
}

func (s proxiedEnv) newProxy(scheme string) *proxytest.Proxy {
	return proxytest.Start(s.t, proxytest.Config{Scheme: scheme, User: "gateway", Password: proxyPassword, Hosts: s.hosts})
}

const mozillaSubscription = "https://updates.push.services.mozilla.com/push/abc"

// TestEverythingThroughProxy sends to all providers through one proxy, which alone knows their names.
func TestEverythingThroughProxy(t *testing.T) {
	for _, scheme := range []string{"http", "https", "socks5"} {
		t.Run(scheme, func(t *testing.T) {
			s, receiver := newProxiedEnv(t), newWebhookReceiver(t)
			p := s.newProxy(scheme)
			hook := fmt.Sprintf("    webhooks: [{name: hook, url: 'https://example.com/hooks', secret: %s, ca_file: %q}]\n", webhookSecret, receiver.caFile(t))
			s.hosts["example.com:443"] = receiver.Listener.Addr().String() // the certificate of httptest is for example.com
			h, _ := s.start(s.config(s.block(p), hook+fmt.Sprintf("queue: {dir: %q}\n", t.TempDir())))
			for name, body := range map[string]string{"apns": apnsNotification(deviceToken), "fcm": fcmNotification, "web push": webPushNotification(t, mozillaSubscription)} {
				status, got := h.post("shop", body)
				if status != http.StatusOK || got["status"] != "accepted" {
					t.Errorf("%s: %d %v", name, status, got)
					continue
				}
				attempt := got["attempts"].([]any)[0].(map[string]any)
				if endpoint := attempt["endpoint"].(string); !strings.Contains(endpoint, ":443#") {
					t.Errorf("%s: the endpoint is %q", name, endpoint)
				}
				testwait.Until(t, func() bool { return receiver.received(got["id"]) }, "the webhook reports "+name)
			}
			seen := p.Seen()
			for _, name := range []string{"api.push.apple.com:443", "fcm.googleapis.com:443", "oauth2.googleapis.com:443", "updates.push.services.mozilla.com:443", "example.com:443"} {
				if !slices.Contains(seen, name) {
					t.Errorf("the proxy did not connect to %s", name)
				}
			}
		})
	}
}

// TestRefusalOfProxy verifies what callers and operators learn, and that delivery goes on afterwards.
func TestRefusalOfProxy(t *testing.T) {
	s := newProxiedEnv(t)
	p := s.newProxy("http")
	p.Refuse(http.StatusForbidden)
	h, d := s.start(s.config(s.block(p), ""))
	for _, body := range []string{apnsNotification(deviceToken), fcmNotification, webPushNotification(t, mozillaSubscription)} {
		status, problem := h.post("shop", body)
		if status != http.StatusServiceUnavailable {
			t.Fatalf("%d %v", status, problem)
		}
		got, _ := problem["receipt"].(map[string]any)
		detail := fmt.Sprint(got["detail"])
		if got["reason"] != "PROXY_FAILED" && got["reason"] != "OAUTH_UNAVAILABLE" || got["status"] == "unregistered" || got["forget_token"] == true ||
			!strings.Contains(detail, p.Address()) || !strings.Contains(detail, "CONNECT is answered with 403 Forbidden") {
			t.Errorf("%v", got)
		}
	}
	if log := d.text(); !strings.Contains(log, "no endpoint can be reached") || !strings.Contains(log, "403 Forbidden") {
		t.Errorf("the log does not say why:\n%s", log)
	}
	p.Refuse(0)
	testwait.Until(t, func() bool {
		_, got := h.post("shop", apnsNotification(deviceToken))
		return got["status"] == "accepted"
	}, "delivery after the proxy works again")
}

// TestCredentialsOfProxyAreReloaded replaces a wrong password in the file.
func TestCredentialsOfProxyAreReloaded(t *testing.T) {
	s := newProxiedEnv(t)
	p := s.newProxy("http")
	file := s.file("credentials", "gateway:wrong-"+proxyPassword)
	text := s.config(fmt.Sprintf("url: '%s', credentials_file: %q", p.URL(), file), "")
	h, _ := s.start(text)
	status, problem := h.post("shop", apnsNotification(deviceToken))
	if detail := fmt.Sprint(problem); status != http.StatusServiceUnavailable || !strings.Contains(detail, "407 Proxy Authentication Required (set credentials_file, or correct its contents)") {
		t.Errorf("%d %s", status, detail)
	}
	if err := os.WriteFile(file, []byte("gateway:"+proxyPassword), 0o600); err != nil {
		t.Fatal(err)
	}
	changes, err := h.reload(text)
	if err != nil || !slices.Contains(changes, "apps.shop.apns: reconnecting") || !slices.Contains(changes, "apps.shop.webpush: reconnecting") {
		t.Errorf("%q, %v", changes, err)
	}
	if status, got := h.post("shop", apnsNotification(deviceToken)); status != http.StatusOK {
		t.Errorf("%d %v", status, got)
	}
	if changes, err := h.reload(text); err != nil || len(changes) != 0 {
		t.Errorf("an unchanged proxy: %q, %v", changes, err)
	}
}

// TestProxyRestart verifies that lost connections are opened again.
func TestProxyRestart(t *testing.T) {
	s := newProxiedEnv(t)
	p := s.newProxy("http")
	h, _ := s.start(s.config(s.block(p), ""))
	send := func() {
		t.Helper()
		if status, got := h.post("shop", apnsNotification(deviceToken)); status != http.StatusOK {
			t.Errorf("%d %v", status, got)
		}
	}
	send()
	connects := len(p.Seen())
	p.CloseConns()
	testwait.Until(t, func() bool { return len(p.Seen()) > connects }, "a new connection")
	send()
}

// TestProxyOfProvider overrides the proxy of the file for one provider and bypasses it for another.
func TestProxyOfProvider(t *testing.T) {
	s := newProxiedEnv(t)
	own, file := s.newProxy("http"), s.newProxy("socks5")
	text := s.config(s.block(file), "")
	text = strings.Replace(text, "apns: {", "apns: {proxy: {"+s.block(own)+"}, ", 1)
	text = strings.Replace(text, "fcm: {", fmt.Sprintf("fcm: {proxy: {url: none}, url: '%s', endpoints: ['%s'], token_url: '%s', ", s.ready.FCM, s.ready.FCMEndpoints[0], s.ready.TokenURL), 1)
	text = strings.Replace(text, ", token_url: 'https://oauth2.googleapis.com/token'", "", 1)
	h, _ := s.start(text)
	for _, body := range []string{apnsNotification(deviceToken), fcmNotification, webPushNotification(t, mozillaSubscription)} {
		if status, got := h.post("shop", body); status != http.StatusOK {
			t.Errorf("%d %v", status, got)
		}
	}
	for p, want := range map[*proxytest.Proxy]string{own: "api.push.apple.com:443", file: "updates.push.services.mozilla.com:443"} {
		if seen := slices.Compact(slices.Sorted(slices.Values(p.Seen()))); len(seen) != 1 || seen[0] != want {
			t.Errorf("a proxy was asked for %q, want %s", seen, want)
		}
	}
}

// TestProxyOfEnvironment verifies that HTTPS_PROXY is used where no proxy is configured, that the
// check and the log say so, and that none overrides it.
func TestProxyOfEnvironment(t *testing.T) {
	s := newProxiedEnv(t)
	p := s.newProxy("http")
	for _, name := range []string{"https_proxy", "no_proxy"} {
		t.Setenv(name, "")
	}
	t.Setenv("HTTPS_PROXY", "http://"+url.UserPassword("gateway", proxyPassword).String()+"@"+p.Address())
	t.Setenv("NO_PROXY", "internal.example")
	text := strings.Replace(s.config("", ""), "proxy: {}\n", "", 1)
	h, d := s.start(text)
	for _, body := range []string{apnsNotification(deviceToken), fcmNotification, webPushNotification(t, mozillaSubscription)} {
		if status, got := h.post("shop", body); status != http.StatusOK {
			t.Errorf("%d %v", status, got)
		}
	}
	if log := d.text(); !strings.Contains(log, `"msg":"proxy for outbound connections","proxy":"`+p.URL()+`","from":"HTTPS_PROXY","no_proxy":"internal.example"`) {
		t.Errorf("the log does not name the proxy:\n%s", log)
	}
	g, err := gateway.New(parse(t, text), nil)
	if err != nil {
		t.Fatal(err)
	}
	got := runChecks(t, g)
	for _, want := range []string{
		"proxy " + p.URL() + " accepts connections, from the environment variable HTTPS_PROXY; not used for internal.example <nil>",
		"apps.shop.apns connected to https://api.push.apple.com through the proxy " + p.URL() + " <nil>",
	} {
		if !strings.Contains(got, want) {
			t.Errorf("want %q in\n%s", want, got)
		}
	}
	if g, err = gateway.New(parse(t, strings.Replace(text, "apps:", "proxy: {url: none}\napps:", 1)), nil); err != nil {
		t.Fatal(err)
	}
	if got := runChecks(t, g); strings.Contains(got, "HTTPS_PROXY") {
		t.Error(got)
	}
	t.Setenv("HTTPS_PROXY", "ftp://gateway:"+proxyPassword+"@proxy.internal")
	if _, err := gateway.New(parse(t, text), nil); err == nil || !strings.Contains(err.Error(), "HTTPS_PROXY: must be http://host:port") || strings.Contains(err.Error(), "4711") {
		t.Error(err)
	}
}

func TestLoopbackIsNeverProxied(t *testing.T) {
	s := newMockEnv(t)
	h := s.start(t, listenConfig+"proxy: {url: 'http://127.0.0.1:1'}\napps:\n"+s.appBlock("shop", s.apnsBlock(), s.fcmBlock()))
	for _, body := range []string{apnsNotification(deviceToken), fcmNotification} {
		if status, got := h.post("shop", body); status != http.StatusOK {
			t.Errorf("%d %v", status, got)
		}
	}
}

func TestCheckReportsProxy(t *testing.T) {
	s := newProxiedEnv(t)
	g, err := gateway.New(parse(t, s.config("url: 'http://127.0.0.1:1'", "")), nil)
	if err != nil {
		t.Fatal(err)
	}
	got := runChecks(t, g)
	for _, want := range []string{
		"cannot connect to the proxy 127.0.0.1:1: dial tcp 127.0.0.1:1: connect: connection refused",
		"cannot connect to https://api.push.apple.com: wire: PROXY_FAILED",
		"the token endpoint cannot be reached: cannot connect to the proxy 127.0.0.1:1",
	} {
		if !strings.Contains(got, want) {
			t.Errorf("want %q in\n%s", want, got)
		}
	}
}

func TestInvalidProxyFiles(t *testing.T) {
	s := newProxiedEnv(t)
	for text, want := range map[string]string{
		"secret-4711":            "must contain user:password in one line",
		":secret-4711":           "must contain user:password in one line",
		"a:secret-4711\nb:other": "must contain user:password in one line",
		"":                       "must contain user:password in one line",
	} {
		_, err := gateway.New(parse(t, s.config(fmt.Sprintf("url: 'http://p:1', credentials_file: %q", s.file("c", text)), "")), nil)
		if err == nil || !strings.Contains(err.Error(), "config: proxy.credentials_file: ") || !strings.Contains(err.Error(), want) || strings.Contains(err.Error(), "4711") {
			t.Errorf("%q: %v", text, err)
		}
	}
	cfg := parse(t, s.config("url: 'http://p:1', credentials_file: missing.txt", ""))
	if _, err := gateway.New(cfg, nil); err == nil || !strings.Contains(err.Error(), "proxy.credentials_file: ") || !strings.Contains(err.Error(), "no such file") {
		t.Error(err)
	}
	file := s.file("c", "a:b")
	if err := os.Chmod(file, 0o644); err != nil {
		t.Fatal(err)
	}
	cfg = parse(t, s.config(fmt.Sprintf("url: 'http://p:1', credentials_file: %q", file), ""))
	if found := gateway.Warnings(cfg); len(found) != 1 || !strings.Contains(found[0], "proxy.credentials_file: ") || !slices.Contains(gateway.ReferencedFiles(cfg), file) {
		t.Errorf("%q", found)
	}
}

// TestAppsWithOneCredentialNeedOneProxy verifies that the pool that they share is not ambiguous.
func TestAppsWithOneCredentialNeedOneProxy(t *testing.T) {
	s := newMockEnv(t)
	other := strings.Replace(s.apnsBlock(), "apns: {", "apns: {proxy: {url: none}, ", 1)
	_, err := gateway.New(parse(t, listenConfig+"proxy: {url: 'http://p:1'}\napps:\n"+s.appBlock("a", s.apnsBlock())+s.appBlock("b", other)), nil)
	if err == nil || !strings.Contains(err.Error(), "endpoints, ca_file and proxy must be the same in both") {
		t.Error(err)
	}
}
