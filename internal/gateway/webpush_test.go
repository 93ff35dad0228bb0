// SPDX-License-Identifier: Apache-2.0

package gateway_test

import (
	"crypto/ecdh"
	"crypto/rand"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/miekg/dns"

	"github.com/sluice-push/sluice/internal/gateway"
	"github.com/sluice-push/sluice/internal/identity"
	"github.com/sluice-push/sluice/internal/testwait"
	"github.com/sluice-push/sluice/mockprovider"
	"github.com/sluice-push/sluice/providers/webpush"
	"github.com/sluice-push/sluice/push"
)

// vapidKeyFile writes a new VAPID key and returns the file.
func vapidKeyFile(t testing.TB) string {
	t.Helper()
	key, err := webpush.NewKey()
	if err != nil {
		t.Fatal(err)
	}
	text, err := key.PEM()
	if err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(t.TempDir(), "vapid.pem")
	if err := os.WriteFile(file, text, 0o600); err != nil {
		t.Fatal(err)
	}
	return file
}

func (s mockEnv) webPushBlock(t testing.TB) string {
	return fmt.Sprintf("webpush: {url: '%s', ca_file: %q, vapid_key_file: %q, subject: 'mailto:ops@example.com'}", s.ready.WebPush, s.ready.CAFile, vapidKeyFile(t))
}

// webPushNotification returns a notification with a new subscription for an endpoint, in the form
// that a browser uses.
func webPushNotification(t testing.TB, endpointURL string) string {
	t.Helper()
	key, err := ecdh.P256().GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	secret := make([]byte, 16)
	_, _ = rand.Read(secret)
	endpoint, _ := json.Marshal(endpointURL)
	return fmt.Sprintf(`{"platform":"webpush","title":"Hi","subscription":{"endpoint":%s,"expirationTime":null,"keys":{"p256dh":%q,"auth":%q}}}`,
		endpoint, base64.RawURLEncoding.EncodeToString(key.PublicKey().Bytes()), base64.RawURLEncoding.EncodeToString(secret))
}

func TestWebPushGoesToServiceOfSubscription(t *testing.T) {
	s := newMockEnv(t)
	h := s.start(t, listenConfig+"apps:\n"+s.appBlock("web", s.webPushBlock(t)))
	if code, body := h.get(h.url + "/readyz"); code != http.StatusOK {
		t.Errorf("not ready before the first subscription: %d %s", code, body)
	}
	var all sync.WaitGroup
	for range 20 { // concurrently, so that several may be the first to use the service
		all.Go(func() {
			if status, receipt := h.post("web", webPushNotification(t, s.ready.WebPush+"/push/abc")); status != 200 || receipt["status"] != "accepted" {
				t.Errorf("%d %v", status, receipt)
			}
		})
	}
	testwait.Call(t, all.Wait, "the end of all sends")
	if got := s.mock.Ledger().Count(mockprovider.Query{Service: mockprovider.WebPush}); got != 20 {
		t.Errorf("the service got %d requests", got)
	}
	status := h.gw.Status()
	if len(status.Services) != 1 || !status.Services[0].Pool.Ready {
		t.Errorf("%+v", status)
	}
}

func TestGoneSubscriptionIsUnregistered(t *testing.T) {
	s := newMockEnv(t, mockprovider.Config{Script: mockprovider.Script{Faults: []mockprovider.Fault{{Service: mockprovider.WebPush, Status: 410}}}})
	h := s.start(t, listenConfig+"apps:\n"+s.appBlock("web", s.webPushBlock(t)))
	if _, receipt := h.post("web", webPushNotification(t, s.ready.WebPush+"/push/abc")); receipt["status"] != "unregistered" || receipt["forget_token"] != true {
		t.Errorf("%v", receipt)
	}
}

func TestRemovedSubscriptionIsUnregisteredWithoutARequest(t *testing.T) {
	s := newMockEnv(t)
	h := s.start(t, listenConfig+"apps:\n"+s.appBlock("web", s.webPushBlock(t)))
	status, receipt := h.post("web", webPushNotification(t, "https://permanently-removed.invalid/fcm/send/x"))
	if status != http.StatusOK || receipt["status"] != "unregistered" || receipt["forget_token"] != true || receipt["reason"] != "SubscriptionRemoved" {
		t.Errorf("%d %v", status, receipt)
	}
	if got := s.mock.Ledger().Count(mockprovider.Query{}); got != 0 {
		t.Errorf("%d requests", got)
	}
}

func TestQueuedNotificationToRemovedSubscriptionIsUnregistered(t *testing.T) {
	s := newMockEnv(t)
	h := s.start(t, listenConfig+slowTimeouts+fmt.Sprintf("queue: {dir: %q}\n", t.TempDir())+"apps:\n"+s.appBlock("shop", s.webPushBlock(t)))
	status, got := h.request("POST", "", webPushNotification(t, "https://permanently-removed.invalid/fcm/send/x"), "Prefer", "respond-async")
	if status != http.StatusAccepted {
		t.Fatal(status, got)
	}
	if receipt := h.waitStatus(got["id"], "unregistered"); receipt["forget_token"] != true {
		t.Error(receipt)
	}
}

func TestEachServiceAcceptsTTLZeroAndShortCollapseKeys(t *testing.T) {
	s := newMockEnv(t)
	h := s.start(t, listenConfig+"apps:\n"+s.appBlock("web", s.webPushBlock(t)))
	for _, flavour := range []mockprovider.Flavour{mockprovider.Google, mockprovider.Mozilla, mockprovider.Apple, mockprovider.Windows} {
		to, err := s.mock.Subscribe(flavour, "")
		if err != nil {
			t.Fatal(err)
		}
		subscription, _ := json.Marshal(to)
		for _, fields := range []string{`"ttl":"0s"`, `"ttl":"1h"`, `"collapse_key":"c"`, `"collapse_key":"goals"`, `"webpush":{"headers":{"TTL":"0"}}`} {
			body := fmt.Sprintf(`{"platform":"webpush","title":"Hi","subscription":%s,%s}`, subscription, fields)
			if status, receipt := h.post("web", body); receipt["status"] != "accepted" {
				t.Errorf("%s, %s: %d %v", flavour, fields, status, receipt)
			}
		}
	}
}

// TestServiceThatLimitsSenderIsNotFlooded sends a campaign to a service that limits the sender as
// Chrome's does, and answers 429 to each subscription.
func TestServiceThatLimitsSenderIsNotFlooded(t *testing.T) {
	const campaign, limit = 600, 100
	s := newMockEnv(t, mockprovider.Config{Script: mockprovider.Script{Faults: []mockprovider.Fault{
		{Service: mockprovider.WebPush, Quota: &mockprovider.Quota{Scope: "sender", Limit: limit, Per: time.Hour}},
	}}})
	h := s.start(t, listenConfig+"apps:\n"+s.appBlock("web", s.webPushBlock(t)))
	var accepted, throttled atomic.Int32
	var all sync.WaitGroup
	for worker := range 10 {
		all.Go(func() {
			for i := range campaign / 10 {
				_, receipt := h.post("web", webPushNotification(t, fmt.Sprintf("%s/push/%d-%d", s.ready.WebPush, worker, i)))
				switch {
				case receipt["status"] == "accepted":
					accepted.Add(1)
				case strings.Contains(fmt.Sprint(receipt), "throttled"):
					throttled.Add(1)
				}
			}
		})
	}
	testwait.Call(t, all.Wait, "the end of all sends")
	refused := s.mock.Ledger().Count(mockprovider.Query{Status: 429})
	if accepted.Load() != limit || throttled.Load() != campaign-limit || refused < 20 || refused > 40 {
		t.Errorf("%d accepted, %d throttled, %d refused by the service", accepted.Load(), throttled.Load(), refused)
	}
	scopes := h.gw.Status().Services[0].Quota.Scopes
	if len(scopes) != 1 || scopes[0].Name != "service" || scopes[0].ClosedFor == 0 || scopes[0].Rate > 1000./60 {
		t.Errorf("%+v", scopes)
	}
}

func TestCheckWarnsAboutSubjectThatAppleRefuses(t *testing.T) {
	s := newMockEnv(t)
	for subject, want := range map[string]int{
		"mailto:ops@localhost": 1, "https://localhost:8080": 1, "https://app.local/contact": 1, "mailto:ops@example.invalid": 1, "mailto:mailto:ops@example.com": 1,
		"mailto:ops@example.com": 0, "https://push.example.com/contact": 0, "mailto:ops@example.com?subject=push": 0, "https://LOCALHOST": 1, "mailto:ops@server": 1,
	} {
		block := strings.Replace(s.webPushBlock(t), "mailto:ops@example.com", subject, 1)
		found := gateway.Warnings(parse(t, listenConfig+"apps:\n"+s.appBlock("web", block)))
		if len(found) != want || want == 1 && !strings.HasPrefix(found[0], "apps.web.webpush.subject: ") {
			t.Errorf("%s: %q", subject, found)
		}
	}
}

func TestSubscriptionCannotTargetInternalHosts(t *testing.T) {
	calls := &atomic.Int32{}
	internal := httptest.NewTLSServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { calls.Add(1) }))
	defer internal.Close()
	s := newMockEnv(t)
	block := fmt.Sprintf("webpush: {vapid_key_file: %q, subject: 'mailto:ops@example.com'}", vapidKeyFile(t))
	h := s.start(t, listenConfig+"apps:\n"+s.appBlock("web", block))
	for _, at := range []string{
		internal.URL + "/push", strings.Replace(internal.URL, "127.0.0.1", "localhost", 1), "https://169.254.169.254/latest/meta-data/",
		"http://fcm.googleapis.com/x", "https://[::ffff:127.0.0.1]/x", "https://2130706433/x", "https://fcm.googleapis.com@127.0.0.1/x",
	} {
		if status, problem := h.post("web", webPushNotification(t, at)); status != http.StatusBadRequest || problem["field"] != "subscription.endpoint" {
			t.Errorf("%s: %d %v", at, status, problem)
		}
	}
	if calls.Load() != 0 || len(h.gw.Status().Services) != 0 {
		t.Errorf("%d calls, %+v", calls.Load(), h.gw.Status())
	}
}

// newDNSServer starts a name server that returns address for every name, and returns the server's
// own address.
func newDNSServer(t testing.TB, address string) string {
	t.Helper()
	conn, err := net.ListenPacket("udp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	started := make(chan struct{})
	server := &dns.Server{PacketConn: conn, NotifyStartedFunc: func() { close(started) }, Handler: dns.HandlerFunc(
		func(w dns.ResponseWriter, question *dns.Msg) {
			response := new(dns.Msg).SetReply(question)
			if question.Question[0].Qtype == dns.TypeA {
				record, err := dns.NewRR(question.Question[0].Name + " 60 IN A " + address)
				if err != nil {
					t.Error(err)
				}
				response.Answer = append(response.Answer, record)
			}
			_ = w.WriteMsg(response)
		})}
	ended := make(chan error, 1)
	go func() { ended <- server.ActivateAndServe() }()
	testwait.For(t, started, "the start")
	t.Cleanup(func() {
		_ = server.Shutdown()
		if err := testwait.For(t, ended, "the end"); err != nil {
			t.Error(err)
		}
	})
	return conn.LocalAddr().String()
}

func TestAllowedNameWithPrivateAddressIsNotCalled(t *testing.T) {
	for _, address := range []string{"127.0.0.1", "10.1.2.3", "169.254.169.254", "100.64.0.1", "0.0.0.0"} {
		s := newMockEnv(t)
		block := fmt.Sprintf("webpush: {vapid_key_file: %q, subject: 'mailto:ops@example.com', services: ['*']}", vapidKeyFile(t))
		h := s.start(t, listenConfig+fmt.Sprintf("dns: {servers: ['%s']}\napps:\n", newDNSServer(t, address))+s.appBlock("web", block))
		began := time.Now()
		status, problem := h.post("web", webPushNotification(t, "https://rebind.example/push"))
		if status != http.StatusServiceUnavailable || !strings.Contains(fmt.Sprint(problem["receipt"]), "DNS_FAILURE") {
			t.Errorf("%s: %d %v after %s", address, status, problem, time.Since(began))
		}
		if len(h.gw.Status().Services) != 0 {
			t.Errorf("%s: a pool was created: %+v", address, h.gw.Status())
		}
	}
}

// newHTTP1Service starts a push service without HTTP/2.
func newHTTP1Service(t testing.TB, handler http.HandlerFunc) (base, caFile string) {
	t.Helper()
	server := httptest.NewTLSServer(handler)
	t.Cleanup(server.Close)
	caFile = filepath.Join(t.TempDir(), "ca.pem")
	text := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: server.Certificate().Raw})
	if err := os.WriteFile(caFile, text, 0o600); err != nil {
		t.Fatal(err)
	}
	return server.URL, caFile
}

func TestHTTP1FallbackFollowsNoRedirect(t *testing.T) {
	var redirected, proxied atomic.Int32
	other := httptest.NewTLSServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { redirected.Add(1) }))
	defer other.Close()
	proxy := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { proxied.Add(1) }))
	defer proxy.Close()
	t.Setenv("HTTPS_PROXY", proxy.URL)
	base, ca := newHTTP1Service(t, func(w http.ResponseWriter, r *http.Request) {
		_, _ = io.Copy(io.Discard, r.Body)
		switch {
		case r.ProtoMajor != 1 || r.Header.Get("Content-Encoding") != "aes128gcm" || !strings.HasPrefix(r.Header.Get("Authorization"), "vapid t="):
			w.WriteHeader(http.StatusTeapot)
		case r.URL.Path == "/moved":
			http.Redirect(w, r, other.URL, http.StatusTemporaryRedirect)
		case r.URL.Path == "/flood":
			_, _ = w.Write(make([]byte, 1<<20))
		case strings.HasPrefix(r.URL.Path, "/blocked/"):
			w.Header().Set("Content-Type", "text/html")
			status, _ := strconv.Atoi(path.Base(r.URL.Path))
			w.WriteHeader(status)
			_, _ = io.WriteString(w, "<html>blocked")
		default:
			w.WriteHeader(http.StatusCreated)
		}
	})
	key, hash := identity.NewKey()
	s := mockEnv{key: key, hash: hash}
	h := s.start(t, listenConfig+"apps:\n"+s.appBlock("web",
		fmt.Sprintf("webpush: {url: '%s', ca_file: %q, vapid_key_file: %q, subject: 'mailto:ops@example.com'}", base, ca, vapidKeyFile(t))))
	for _, target := range []string{"/w/?token=a%2b", "/moved", "/flood", "/blocked/200", "/blocked/403", "/blocked/404", "/blocked/407", "/blocked/410"} {
		want := "accepted"
		if target != "/w/?token=a%2b" {
			want = "unavailable"
		}
		_, receipt := h.post("web", webPushNotification(t, base+target))
		if inner, ok := receipt["receipt"].(map[string]any); ok {
			receipt = inner
		}
		if receipt["status"] != want || want == "unavailable" && receipt["reason"] != push.IntermediaryResponse && receipt["reason"] != "PROVIDER_DOWN" {
			t.Errorf("%s: %v", target, receipt)
		}
	}
	if redirected.Load() != 0 || proxied.Load() != 0 {
		t.Errorf("the redirect was followed %d times, the proxy was used %d times", redirected.Load(), proxied.Load())
	}
}

func TestInvalidWebPushBlockNamesTheKey(t *testing.T) {
	s := newMockEnv(t)
	nowhere := fmt.Sprintf("webpush: {vapid_key_file: %q, subject: 'mailto:a@b.c'}", s.ready.APNsKeyFile+".gone")
	for block, want := range map[string]string{
		nowhere: "apps.web.webpush.vapid_key_file",
		fmt.Sprintf("webpush: {vapid_key_file: %q, subject: 'mailto:a@b.c'}", s.ready.ServiceAccountFile):                  "but it is JSON",
		fmt.Sprintf("webpush: {vapid_key_file: %q, subject: 'mailto:a@b.c', endpoints: ['127.0.0.1:1']}", vapidKeyFile(t)): "apps.web.webpush.endpoints: needs url",
	} {
		if _, err := gateway.New(parse(t, listenConfig+"apps:\n"+s.appBlock("web", block)), nil); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v", want, err)
		}
	}
}
