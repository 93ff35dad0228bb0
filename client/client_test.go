// SPDX-License-Identifier: Apache-2.0

package client_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/sluice-push/sluice/client"
	"github.com/sluice-push/sluice/internal/testwait"
	"github.com/sluice-push/sluice/mockprovider"
	"github.com/sluice-push/sluice/pool"
	"github.com/sluice-push/sluice/push"
)

func TestSend(t *testing.T) {
	env := newTestEnv(t)
	c := env.newClient(client.Config{}, env.startGateway(anyPort, "").url())
	receipt, err := c.Send(t.Context(), testNotification(1))
	if err != nil || receipt.Verdict != push.Accepted || len(receipt.Attempts) != 1 || receipt.ID == "" {
		t.Fatalf("%+v %v", receipt, err)
	}
	if _, accepted := env.counts(); accepted[token(1)] != 1 {
		t.Errorf("the provider accepted it %d times", accepted[token(1)])
	}
}

func TestNegativeVerdictIsNotAnError(t *testing.T) {
	env := newTestEnv(t, withFaults(mockprovider.Fault{Service: mockprovider.APNs, Status: 410, Reason: "Unregistered"}))
	c := env.newClient(client.Config{}, env.startGateway(anyPort, "").url())
	if receipt, err := c.Send(t.Context(), testNotification(1)); err != nil || receipt.Verdict != push.Unregistered {
		t.Errorf("%+v %v", receipt, err)
	}
}

func TestInvalidNotificationNamesField(t *testing.T) {
	env := newTestEnv(t)
	c := env.newClient(client.Config{}, env.startGateway(anyPort, "").url())
	_, err := c.Send(t.Context(), &push.Notification{Platform: push.APNs, Target: push.Target{Token: "not hex"}, Title: "x"})
	problem, ok := errors.AsType[*client.Error](err)
	if !ok || problem.Type != "invalid-field" || problem.Field != "token" || problem.Status != 400 || problem.RequestID == "" {
		t.Errorf("%#v", err)
	}
}

func TestUnknownKeyIsNotRetried(t *testing.T) {
	env := newTestEnv(t)
	a, b := env.startGateway(anyPort, ""), env.startGateway(anyPort, "")
	env.key = "slk_wrong"
	c := env.newClient(client.Config{}, a.url(), b.url())
	_, err := c.Send(t.Context(), testNotification(1))
	problem, ok := errors.AsType[*client.Error](err)
	if !ok || problem.Type != "unauthenticated" || len(problem.Attempts) != 1 {
		t.Errorf("%#v", err)
	}
	if strings.Contains(err.Error(), string(env.key)) {
		t.Error("the error contains the key")
	}
}

func withFaults(faults ...mockprovider.Fault) mockprovider.Config {
	return mockprovider.Config{Script: mockprovider.Script{Faults: faults}}
}

// Retries at two layers must not multiply: the provider gets each notification at most as often as
// the retry policy of one gateway allows.
func TestRetriesOfClientAndGatewayDoNotMultiply(t *testing.T) {
	t.Parallel()
	const attempts = 3 // retry.attempts of the gateways
	env := newTestEnv(t, withFaults(mockprovider.Fault{Service: mockprovider.APNs, Status: 503, Reason: "ServiceUnavailable"}))
	retries := "retry: {attempts: 3, budget: 100%, backoff: 1ms}\n"
	c := env.newClient(client.Config{}, env.startGateway(anyPort, retries).url(), env.startGateway(anyPort, retries).url(), env.startGateway(anyPort, retries).url())
	waitConnected(c, 3)
	var sending sync.WaitGroup
	for i := range 100 {
		sending.Go(func() {
			if receipt, err := c.Send(t.Context(), testNotification(i)); err == nil {
				t.Errorf("%+v %v", receipt, err)
			}
		})
	}
	testwait.Call(t, sending.Wait, "the end of all sends")
	for receipt, err := range c.SendBatch(t.Context(), testNotifications(100, 200)) {
		if err == nil {
			t.Errorf("%+v", receipt)
		}
	}
	requests, _ := env.counts()
	for i := range 200 {
		if n := requests[token(i)]; n > attempts {
			t.Errorf("notification %d had %d attempts at the provider, want at most %d", i, n, attempts)
		}
	}
	if len(requests) == 0 {
		t.Error("there was no attempt at the provider")
	}
}

func testNotifications(from, to int) func(func(*push.Notification) bool) {
	return func(yield func(*push.Notification) bool) {
		for i := from; i < to; i++ {
			if !yield(testNotification(i)) {
				return
			}
		}
	}
}

func TestDrainingGatewayCausesNoErrors(t *testing.T) {
	t.Parallel()
	env := newTestEnv(t, withFaults(mockprovider.Fault{Service: mockprovider.APNs, Delay: 5 * time.Millisecond}))
	settings := "drain: {delay: 500ms}\n"
	// The port is outside of the system's range of ephemeral ports, and depends on the process so
	// that test processes do not share it.
	address := fmt.Sprint("127.0.0.1:", 20_000+os.Getpid()%10_000)
	draining, other := env.startGateway(address, settings), env.startGateway(anyPort, settings)
	c := env.newClient(client.Config{}, draining.url(), other.url())
	waitConnected(c, 2)
	ctx, stop := context.WithCancel(t.Context())
	var sent atomic.Int64
	var sending sync.WaitGroup
	for worker := range 8 {
		sending.Go(func() {
			for i := worker; ctx.Err() == nil; i += 8 {
				if receipt, err := c.Send(t.Context(), testNotification(i)); err != nil && !providerFailed(receipt) {
					t.Errorf("notification %d: %+v %v", i, receipt, err)
				}
				sent.Add(1)
			}
		})
	}
	more := func() {
		from := sent.Load()
		waitUntil(func() bool { return sent.Load() > from+100 })
	}
	more()
	draining.stop()
	more()
	env.startGateway(address, settings)
	waitConnected(c, 2)
	more()
	stop()
	testwait.Call(t, sending.Wait, "the end of all sends")
	_, accepted := env.counts()
	for i, n := range accepted {
		if n != 1 {
			t.Errorf("%s was accepted %d times", i, n)
		}
	}
}

// providerFailed reports whether a gateway failed at its provider, or throttled because of it. On a
// busy machine the mock can be slow or unresponsive.
func providerFailed(r push.Receipt) bool {
	return len(r.Attempts) > 0 || r.Reason == "PROVIDER_DOWN" || r.Reason == "OVERLOADED"
}

func TestIdleClientSurvivesGatewayStop(t *testing.T) {
	env := newTestEnv(t)
	draining, other := env.startGateway(anyPort, ""), env.startGateway(anyPort, "")
	c := env.newClient(client.Config{}, draining.url(), other.url())
	waitConnected(c, 2)
	draining.stop()
	for i := range 20 {
		if receipt, err := c.Send(t.Context(), testNotification(i)); err != nil {
			t.Errorf("%+v %v", receipt, err)
		}
	}
}

func TestGatewaysOfSameZoneArePreferred(t *testing.T) {
	env := newTestEnv(t)
	near, far := env.startGateway(anyPort, "zone: tokyo-a\n"), env.startGateway(anyPort, "zone: tokyo-b\n")
	c := env.newClient(client.Config{Zone: "tokyo-a"}, far.url(), near.url())
	waitConnected(c, 2)
	for i := range 200 {
		if _, err := c.Send(t.Context(), testNotification(i)); err != nil {
			t.Fatal(err)
		}
	}
	if n := sentCount(far); n > 2 {
		t.Errorf("%d of 200 went to the other zone", n)
	}
	near.stop()
	if _, err := c.Send(t.Context(), testNotification(200)); err != nil {
		t.Errorf("without a gateway in the own zone: %v", err)
	}
}

// sentCount returns how many notifications a gateway sent successfully.
func sentCount(h *testGateway) (n int) {
	for _, s := range h.Status().Services {
		for _, e := range s.Pool.Endpoints {
			n += e.Successes
		}
	}
	return n
}

func TestLossyConnectionIsKept(t *testing.T) {
	t.Parallel()
	const n, workers = 80, 8
	env := newTestEnv(t)
	near, far := env.startGateway(anyPort, "zone: a\n"), env.startGateway(anyPort, "zone: b\n")
	var lost atomic.Int32
	c := env.newClient(client.Config{Zone: "a", Timeout: 10 * time.Minute, Observe: func(e pool.Event) {
		if e.Kind == pool.EventConnLost || e.Kind == pool.EventEjected {
			lost.Add(1)
		}
	}}, newLossyProxy(t, near.address).url(), far.url())
	waitConnected(c, 2)
	var sending sync.WaitGroup
	for worker := range workers {
		sending.Go(func() {
			for i := worker; i < n; i += workers {
				if receipt, err := c.Send(t.Context(), testNotification(i)); err != nil && !providerFailed(receipt) {
					t.Errorf("notification %d: %+v %v", i, receipt, err)
				}
			}
		})
	}
	testwait.Call(t, sending.Wait, "the end of all sends")
	if lost.Load() != 0 {
		t.Errorf("%d connections were lost or ejected", lost.Load())
	}
	requests, _ := env.counts()
	for i := range n {
		if got := requests[token(i)]; got > 1 {
			t.Errorf("notification %d: the provider got %d requests", i, got)
		}
	}
}

func TestLostZoneFailsOver(t *testing.T) {
	t.Parallel()
	env := newTestEnv(t)
	near, far := env.startGateway(anyPort, "zone: a\n"), env.startGateway(anyPort, "zone: b\n")
	proxy := newTestProxy(t, near.address)
	c := env.newClient(client.Config{Zone: "a", KeepaliveTimeout: 5 * time.Second}, proxy.url(), far.url())
	waitConnected(c, 2)
	ctx, stop := context.WithCancel(t.Context())
	var sent atomic.Int64
	var sending sync.WaitGroup
	for worker := range 8 {
		sending.Go(func() {
			for i := worker; ctx.Err() == nil; i += 8 {
				n := testNotification(i)
				n.CollapseKey = "k"
				if receipt, err := c.Send(t.Context(), n); err != nil && !providerFailed(receipt) {
					t.Errorf("notification %d: %+v %v", i, receipt, err)
				}
				sent.Add(1)
			}
		})
	}
	waitUntil(func() bool { return sent.Load() > 100 })
	proxy.freeze()
	from := sent.Load()
	waitUntil(func() bool { return sent.Load() > from+100 })
	stop()
	testwait.Call(t, sending.Wait, "the end of all sends")
}

func TestAllCallsOfLostGatewayAreRepeatedOnce(t *testing.T) {
	t.Parallel()
	env := newTestEnv(t)
	near, far := env.startGateway(anyPort, "zone: a\n"), env.startGateway(anyPort, "zone: b\n")
	proxy := newTestProxy(t, near.address)
	c := env.newClient(client.Config{Zone: "a", KeepaliveTimeout: 5 * time.Second}, proxy.url(), far.url())
	waitConnected(c, 2)
	proxy.freeze()
	var sending sync.WaitGroup
	for i := range 150 { // more than the retry budget of 10% and 3/s allows
		sending.Go(func() {
			n := testNotification(i)
			n.CollapseKey = "k"
			if receipt, err := c.Send(t.Context(), n); err != nil && !providerFailed(receipt) {
				t.Errorf("notification %d: %+v %v", i, receipt, err)
			}
		})
	}
	testwait.Call(t, sending.Wait, "the end of all sends")
}

func TestGatewayFileIsReloaded(t *testing.T) {
	t.Parallel()
	env := newTestEnv(t)
	first, second := env.startGateway(anyPort, ""), env.startGateway(anyPort, "")
	file := filepath.Join(t.TempDir(), "gateways")
	write := func(text string) {
		if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	write("\ufeff" + first.url() + " tokyo-a\n# gateways\n")
	c := env.newClient(client.Config{File: file})
	if _, err := c.Send(t.Context(), testNotification(1)); err != nil {
		t.Fatal(err)
	}
	at := func(address string) {
		waitUntil(func() bool {
			status := c.Status()
			return len(status.Endpoints) == 1 && status.Endpoints[0].Address == address && status.Endpoints[0].Connections == 1
		})
	}
	at(first.address)
	write(second.url() + "\n")
	at(second.address)
	write("nonsense\n")
	if _, err := c.Send(t.Context(), testNotification(2)); err != nil {
		t.Errorf("an invalid file removes the gateways: %v", err)
	}
}

func TestKeyIsNotPrinted(t *testing.T) {
	cfg := client.Config{App: "shop", Key: "slk_secret_secret"}
	var log strings.Builder
	slog.New(slog.NewTextHandler(&log, nil)).Info("config", "key", cfg.Key, "all", cfg)
	for _, text := range []string{fmt.Sprint(cfg), fmt.Sprintf("%+v %#v %s %q", cfg, cfg, cfg.Key, cfg.Key), log.String()} {
		if strings.Contains(text, "secret") {
			t.Error(text)
		}
	}
}

func TestInvalidConfig(t *testing.T) {
	for want, cfg := range map[string]client.Config{
		"Config.App":         {Key: "k", Gateways: []string{"http://127.0.0.1:1"}},
		"Config.Key":         {App: "a", Gateways: []string{"http://127.0.0.1:1"}},
		"Config.Gateways":    {App: "a", Key: "k"},
		"Config.Gateways[0]": {App: "a", Key: "k", Gateways: []string{"127.0.0.1:1"}},
		"negative":           {App: "a", Key: "k", Gateways: []string{"http://127.0.0.1:1"}, Attempts: -1},
	} {
		if _, err := client.New(cfg); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("error %v does not contain %s", err, want)
		}
	}
}

func TestNoGatewayIsUnavailableAtDeadline(t *testing.T) {
	env := newTestEnv(t)
	c := env.newClient(client.Config{}, "http://127.0.0.1:1")
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	receipt, err := c.Send(ctx, testNotification(1))
	if problem, ok := errors.AsType[*client.Error](err); !ok || problem.Type != "unavailable" || receipt.Verdict != push.Unsent {
		t.Errorf("%+v %v", receipt, err)
	}
}

func TestUnreachableGatewayIsNamedAtDeadline(t *testing.T) {
	env := newTestEnv(t)
	c := env.newClient(client.Config{}, "http://127.0.0.1:1")
	testwait.Until(t, func() bool { return strings.Contains(c.Status().Reason, "connection refused") }, "the cause in the status")
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	if _, err := c.Send(ctx, testNotification(1)); err == nil || !strings.Contains(err.Error(), "connection refused") {
		t.Errorf("Send = %v; want the cause", err)
	}
}

func TestUntrustedGatewayFailsImmediately(t *testing.T) {
	env := newTestEnv(t)
	server := httptest.NewUnstartedServer(http.NotFoundHandler())
	server.Config.ErrorLog = log.New(io.Discard, "", 0)
	server.StartTLS()
	defer server.Close()
	c := env.newClient(client.Config{Timeout: 10 * time.Minute}, server.URL)
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	_, err := c.Send(ctx, testNotification(1))
	if ctx.Err() != nil || err == nil || !strings.Contains(err.Error(), "certificate signed by unknown authority") {
		t.Errorf("Send = %v; want the cause immediately", err)
	}
}

func TestEnqueueAndEvents(t *testing.T) {
	env := newTestEnv(t)
	c := env.newClient(client.Config{}, env.startGateway(anyPort, fmt.Sprintf("queue: {dir: %q}\n", t.TempDir())).url())
	receipt, err := c.Enqueue(t.Context(), testNotification(1))
	if err != nil || receipt.ID == "" || receipt.IsFinal() {
		t.Fatalf("%+v %v", receipt, err)
	}
	env.mock.Ledger().Expect(t, mockprovider.Query{Token: token(1)}, 1)
	ctx, cancel := context.WithCancel(t.Context())
	var enqueuing sync.WaitGroup
	enqueuing.Go(func() { // until the feed, which starts at an unknown time, yields an event
		for i := 2; ctx.Err() == nil; i++ {
			if _, err := c.Enqueue(ctx, testNotification(i)); err != nil && ctx.Err() == nil {
				t.Error(err)
			}
			time.Sleep(10 * time.Millisecond)
		}
	})
	for event, err := range c.Events(ctx, "", push.StatusAccepted) {
		if err != nil || event.Status != push.StatusAccepted || event.Cursor == "" || event.Receipt == nil {
			t.Errorf("%+v %v", event, err)
		}
		break
	}
	cancel()
	testwait.Call(t, enqueuing.Wait, "the end of Enqueue")
}

func TestEnqueueWithoutQueue(t *testing.T) {
	env := newTestEnv(t)
	c := env.newClient(client.Config{}, env.startGateway(anyPort, "").url())
	_, err := c.Enqueue(t.Context(), testNotification(1))
	if problem, ok := errors.AsType[*client.Error](err); !ok || problem.Type != "needs-queue" {
		t.Errorf("%v", err)
	}
}
