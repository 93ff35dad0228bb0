// SPDX-License-Identifier: Apache-2.0

package webhook_test

import (
	"bytes"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/sluice-push/sluice/internet"
	"github.com/sluice-push/sluice/push"
	"github.com/sluice-push/sluice/webhook"
)

func numbers(from, to int) (out []string) {
	for i := from; i <= to; i++ {
		out = append(out, fmt.Sprint(i))
	}
	return out
}

func TestEventsComeSignedInTheirOrderAndInBatches(t *testing.T) {
	a, r := newArchive(), listen(t, nil)
	a.began("shop/billing")
	for range 250 {
		a.tell(push.Event{Target: &push.Target{Token: "00ff"}, KeyHash: []byte("k")})
	}
	run(t, a.to(r, func(cfg *webhook.Config) { cfg.Most = 100 }))
	if got := r.hear(t, "250"); !slices.Equal(got, numbers(1, 250)) {
		t.Errorf("%v", got)
	}
	ids := map[string]bool{}
	for _, m := range r.messages() {
		if ids[m.id] = true; len(m.events) > 100 || strings.HasPrefix(m.text, "broken") || strings.Contains(m.text, "key_hash") || !strings.Contains(m.text, `"token":"00ff"`) {
			t.Errorf("%s %.300s", m.id, m.text)
		}
	}
	if len(ids) != len(r.messages()) || len(ids) < 3 {
		t.Errorf("%d messages, %d IDs", len(r.messages()), len(ids))
	}
}

func TestAMessageHasABoundInBytes(t *testing.T) {
	a, r := newArchive(), listen(t, nil)
	a.began("shop/billing")
	for range 20 {
		a.tell(push.Event{Target: &push.Target{Token: strings.Repeat("f", 400)}})
	}
	run(t, a.to(r, func(cfg *webhook.Config) { cfg.MostBytes = 2000 }))
	if got := r.hear(t, "20"); !slices.Equal(got, numbers(1, 20)) {
		t.Errorf("%v", got)
	}
	for _, m := range r.messages() {
		if len(m.text) > 2200 {
			t.Errorf("%d bytes", len(m.text))
		}
	}
}

func TestWhatFailsIsPostedAgainUnderTheSameIDUntilItIsTaken(t *testing.T) {
	a := newArchive()
	r := listen(t, func(w http.ResponseWriter, n int) {
		if n <= 5 {
			http.Error(w, "SECRET stack trace", http.StatusInternalServerError)
		}
	})
	a.began("shop/billing")
	a.tell(push.Event{})
	a.tell(push.Event{})
	var log bytes.Buffer
	var mu sync.Mutex
	w, stop := run(t, a.to(r, func(cfg *webhook.Config) {
		cfg.Most, cfg.Linger = 2, time.Hour // two go together, however late the second is
		cfg.Logger = slog.New(slog.NewTextHandler(locked{&mu, &log}, nil))
	}))
	for range 6 {
		<-r.got
	}
	a.tell(push.Event{})
	a.tell(push.Event{})
	r.hear(t, "4")
	stop()
	all := r.messages()
	for _, m := range all[1:6] {
		if m.id != all[0].id || m.text != all[0].text {
			t.Errorf("%+v", m)
		}
	}
	if all[6].id == all[0].id || !slices.Equal(all[6].events, []string{"3", "4"}) {
		t.Errorf("%+v", all[6])
	}
	if s := w.Status(); s.Failures != 0 || s.Reason != "" || s.Position != "2" && s.Position != "4" {
		t.Errorf("%+v", s)
	}
	for _, never := range []string{"SECRET", string(secret), "hooks"} {
		if strings.Contains(log.String(), never) {
			t.Errorf("%q in the log:\n%s", never, &log)
		}
	}
	if !strings.Contains(log.String(), "HTTP status 500") || !strings.Contains(log.String(), "takes its events again") {
		t.Errorf("the log says nothing:\n%s", &log)
	}
}

// locked is a writer for several goroutines.
type locked struct {
	mu *sync.Mutex
	to *bytes.Buffer
}

func (l locked) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.to.Write(p)
}

func TestARedirectIsNotFollowed(t *testing.T) {
	a, elsewhere := newArchive(), listen(t, nil)
	r := listen(t, func(w http.ResponseWriter, n int) {
		if n < 3 {
			w.Header().Set("Location", elsewhere.URL)
			w.WriteHeader(http.StatusTemporaryRedirect)
		}
	})
	a.began("shop/billing")
	a.tell(push.Event{})
	run(t, a.to(r))
	for range 3 {
		<-r.got
	}
	if n := len(elsewhere.messages()); n != 0 {
		t.Errorf("%d messages went where the answer led", n)
	}
}

func TestNothingGoesToAnAddressThatIsNotPublicNorToAProxy(t *testing.T) {
	a, touched := newArchive(), make(chan struct{}, 100)
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	var listening sync.WaitGroup
	listening.Go(func() {
		for {
			conn, err := listener.Accept()
			if err != nil {
				return
			}
			touched <- struct{}{}
			_ = conn.Close()
		}
	})
	t.Cleanup(func() { _ = listener.Close(); listening.Wait() })
	t.Setenv("HTTPS_PROXY", "http://"+listener.Addr().String())
	_, port, _ := net.SplitHostPort(listener.Addr().String())
	r := listen(t, nil)
	for i, host := range []string{"127.0.0.1", "localhost", "[::ffff:127.0.0.1]", "169.254.169.254", "10.0.0.1"} {
		name := fmt.Sprint("private", i)
		a.began("shop/" + name)
		w, stop := run(t, a.to(r, func(cfg *webhook.Config) {
			cfg.Name, cfg.URL, cfg.Networks = name, "https://"+host+":"+port+"/PATH-SECRET", nil
		}))
		a.tell(push.Event{})
		for w.Status().Failures < 3 {
			time.Sleep(time.Millisecond)
		}
		stop()
		if s := w.Status(); !strings.Contains(s.Reason, internet.ErrNotPublic.Error()) || strings.Contains(s.Reason, "PATH-SECRET") {
			t.Errorf("%s: %q", host, s.Reason)
		}
	}
	select {
	case <-touched:
		t.Error("somebody connected")
	default:
	}
}

func TestAReceiverWithoutAGoodCertificateGetsNothing(t *testing.T) {
	a, r := newArchive(), listen(t, nil)
	a.began("shop/billing")
	a.tell(push.Event{})
	w, stop := run(t, a.to(r, func(cfg *webhook.Config) { cfg.Authorities = nil }))
	for w.Status().Failures < 2 {
		time.Sleep(time.Millisecond)
	}
	stop()
	if len(r.messages()) != 0 || !strings.Contains(w.Status().Reason, "certificate") {
		t.Errorf("%+v", w.Status())
	}
}

func TestARestartGoesOnWhereTheReceiverWas(t *testing.T) {
	a, r := newArchive(), listen(t, nil)
	_, stop := run(t, a.to(r))
	a.tell(push.Event{})
	r.hear(t, "1") // and not what was before
	stop()
	for range 10 {
		a.tell(push.Event{})
	}
	run(t, a.to(r))
	// What was posted when it stopped, and not yet known to be taken, comes once more.
	if got := r.hear(t, "11"); !slices.Equal(got, numbers(2, 11)) && !slices.Equal(got, numbers(1, 11)) {
		t.Errorf("%v", got)
	}
}

func TestAPositionThatCannotBeSavedRepeatsAndLosesNothing(t *testing.T) {
	a, r := newArchive(), listen(t, nil)
	a.began("shop/billing")
	a.mu.Lock()
	a.trouble = errors.New("disk full")
	a.mu.Unlock()
	a.tell(push.Event{})
	run(t, a.to(r))
	for range 3 {
		if m := <-r.got; !slices.Equal(m.events, []string{"1"}) {
			t.Errorf("%+v", m)
		}
	}
	a.mu.Lock()
	a.trouble = nil
	a.mu.Unlock()
	a.tell(push.Event{})
	r.hear(t, "2")
}

func TestOnlyTheEventsThatAreWantedAreTold(t *testing.T) {
	a, r := newArchive(), listen(t, nil)
	a.began("shop/billing")
	for _, status := range []push.Status{push.StatusQueued, push.StatusSending, push.StatusUnregistered, push.StatusQueued, push.StatusCancelled} {
		a.tell(push.Event{Status: status})
	}
	_, stop := run(t, a.to(r))
	if got := r.hear(t, "5"); !slices.Equal(got, []string{"3", "5"}) {
		t.Errorf("every end: %v", got)
	}
	stop()
	a.began("shop/dead")
	a.tell(push.Event{Status: push.StatusUnregistered})
	run(t, a.to(r, func(cfg *webhook.Config) { cfg.Name, cfg.Events = "dead", []push.Status{push.StatusUnregistered} }))
	if got := r.hear(t, "6"); !slices.Equal(got, []string{"3", "6"}) {
		t.Errorf("the dead: %v", got)
	}
}

func TestEventsThatWereForgottenAreListedAsMissed(t *testing.T) {
	a, r := newArchive(), listen(t, nil)
	for range 5 {
		a.tell(push.Event{})
	}
	a.oldest = 3
	a.positions["shop/billing"] = webhook.Position{Since: time.Now().Add(-time.Hour), After: "1"}
	w, _ := run(t, a.to(r))
	if got := r.hear(t, "5"); !slices.Equal(got, []string{"4", "5"}) {
		t.Errorf("%v", got)
	}
	if s := w.Status(); len(s.Parked) != 1 || s.Parked[0].After != "1" || !strings.Contains(s.Parked[0].Reason, "forgotten") {
		t.Errorf("%+v", s)
	}
}

func TestEverySecretSigns(t *testing.T) {
	a, r := newArchive(), listen(t, nil)
	next := webhook.Secret(strings.Repeat("n", 32))
	a.began("shop/billing")
	a.tell(push.Event{})
	run(t, a.to(r, func(cfg *webhook.Config) { cfg.Secrets = []webhook.Secret{next, secret} }))
	m := <-r.got
	if strings.HasPrefix(m.text, "broken") || webhook.Verify(m.header, []byte(m.text), next) != nil {
		t.Errorf("%v", m.header)
	}
	if webhook.Verify(m.header, []byte(m.text+" "), secret) == nil || webhook.Verify(m.header, []byte(m.text), webhook.Secret("x")) == nil {
		t.Error("what was changed, or signed by somebody else, is taken for ours")
	}
	m.header.Set("Webhook-Timestamp", "1")
	if !errors.Is(webhook.Verify(m.header, []byte(m.text), secret), webhook.ErrSignature) {
		t.Error("what is old is taken for new")
	}
}

func TestABadConfigurationIsRefusedWithoutItsSecrets(t *testing.T) {
	a := newArchive()
	good := webhook.Config{App: "shop", Name: "b", URL: "https://example.com/PATH-SECRET", Secrets: []webhook.Secret{secret}, Feed: a, Positions: a}
	if _, err := webhook.New(good); err != nil {
		t.Fatal(err)
	}
	for field, change := range map[string]func(*webhook.Config){
		"Name": func(c *webhook.Config) { c.Name = "" }, "URL": func(c *webhook.Config) { c.URL = "http://example.com/PATH-SECRET" },
		"Secrets": func(c *webhook.Config) { c.Secrets = nil }, "Feed": func(c *webhook.Config) { c.Feed = nil },
		"a user": func(c *webhook.Config) { c.URL = "https://SECRET@example.com" },
	} {
		cfg := good
		change(&cfg)
		if _, err := webhook.New(cfg); err == nil || !strings.Contains(err.Error(), field) || strings.Contains(err.Error(), "SECRET") {
			t.Errorf("%s: %v", field, err)
		}
	}
	for _, text := range []string{"", "whsec_", "whsec_c2hvcnQ=", "MDEyMzQ1Njc4OWFiY2RlZjAxMjM0NTY3", "whsec_***"} {
		if _, err := webhook.ParseSecret(text); err == nil || len(text) > 6 && strings.Contains(err.Error(), text[6:]) {
			t.Errorf("%q: %v", text, err)
		}
	}
	if got := fmt.Sprintf("%v %+v %#v %s", secret, secret, secret, secret); strings.Contains(got, "0123") {
		t.Error(got)
	}
}

// The test vector of the Standard Webhooks specification's own libraries.
func TestASignatureIsTheOneThatEveryLibraryMakes(t *testing.T) {
	s, err := webhook.ParseSecret("whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw")
	if err != nil {
		t.Fatal(err)
	}
	if got := webhook.Signature(s, "msg_p5jXN8AQM9LWM0D4loKWxJek", "1614265330", `{"test": 2432232314}`); got != "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE=" {
		t.Error(got)
	}
}

func ExampleVerify() {
	secret, _ := webhook.ParseSecret("whsec_MDEyMzQ1Njc4OWFiY2RlZjAxMjM0NTY3")
	receive := func(w http.ResponseWriter, r *http.Request) {
		body := new(bytes.Buffer)
		_, _ = body.ReadFrom(http.MaxBytesReader(w, r.Body, 1<<20))
		if webhook.Verify(r.Header, body.Bytes(), secret) != nil {
			w.WriteHeader(http.StatusUnauthorized)
			return
		}
		w.WriteHeader(http.StatusNoContent) // once the events are safe
	}
	w := httptest.NewRecorder()
	receive(w, httptest.NewRequest("POST", "/", strings.NewReader("{}")))
	fmt.Println(w.Code)
	// Output: 401
}
