// SPDX-License-Identifier: Apache-2.0

package client_test

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/sluice-push/sluice/client"
	"github.com/sluice-push/sluice/mockprovider"
	"github.com/sluice-push/sluice/pool"
	"github.com/sluice-push/sluice/push"
)

func TestANotificationGoesThroughAGatewayToItsProvider(t *testing.T) {
	tn := newTown(t)
	c := tn.call(client.Config{}, tn.open(anywhere, "").url())
	receipt, err := c.Send(t.Context(), note(1))
	if err != nil || receipt.Verdict != push.Accepted || len(receipt.Attempts) != 1 || receipt.ID == "" {
		t.Fatalf("%+v %v", receipt, err)
	}
	if _, accepted := tn.seen(); accepted[token(1)] != 1 {
		t.Errorf("the provider accepted it %d times", accepted[token(1)])
	}
}

func TestAVerdictIsNoErrorHoweverBadItIs(t *testing.T) {
	tn := newTown(t, script(mockprovider.Fault{Service: mockprovider.APNs, Status: 410, Reason: "Unregistered"}))
	c := tn.call(client.Config{}, tn.open(anywhere, "").url())
	if receipt, err := c.Send(t.Context(), note(1)); err != nil || receipt.Verdict != push.Unregistered {
		t.Errorf("%+v %v", receipt, err)
	}
}

func TestWhatCannotBeSentNamesItsField(t *testing.T) {
	tn := newTown(t)
	c := tn.call(client.Config{}, tn.open(anywhere, "").url())
	_, err := c.Send(t.Context(), &push.Notification{Platform: push.APNs, Target: push.Target{Token: "not hex"}, Title: "x"})
	problem, ok := errors.AsType[*client.Error](err)
	if !ok || problem.Type != "invalid-field" || problem.Field != "token" || problem.Status != 400 || problem.RequestID == "" {
		t.Errorf("%#v", err)
	}
}

func TestAKeyThatIsNotKnownIsNotTriedElsewhere(t *testing.T) {
	tn := newTown(t)
	a, b := tn.open(anywhere, ""), tn.open(anywhere, "")
	tn.key = "slk_wrong"
	c := tn.call(client.Config{}, a.url(), b.url())
	_, err := c.Send(t.Context(), note(1))
	problem, ok := errors.AsType[*client.Error](err)
	if !ok || problem.Type != "unauthenticated" || len(problem.Attempts) != 1 {
		t.Errorf("%#v", err)
	}
	if strings.Contains(err.Error(), string(tn.key)) {
		t.Error("the error holds the key")
	}
}

func script(faults ...mockprovider.Fault) mockprovider.Config {
	return mockprovider.Config{Script: mockprovider.Script{Faults: faults}}
}

// The proof that attempts do not multiply: whatever two layers do, a provider that is down sees no notification more often
// than one gateway's policy allows.
func TestAProviderThatIsDownSeesNoNotificationMoreOftenThanOneGatewayWouldTry(t *testing.T) {
	t.Parallel()
	const attempts = 3 // retry.attempts, in the gateways
	tn := newTown(t, script(mockprovider.Fault{Service: mockprovider.APNs, Status: 503, Reason: "ServiceUnavailable"}))
	retries := "retry: {attempts: 3, budget: 100%, backoff: 1ms}\n"
	c := tn.call(client.Config{}, tn.open(anywhere, retries).url(), tn.open(anywhere, retries).url(), tn.open(anywhere, retries).url())
	all(c, 3)
	var sending sync.WaitGroup
	for i := range 100 {
		sending.Go(func() {
			if receipt, err := c.Send(t.Context(), note(i)); err == nil {
				t.Errorf("%+v %v", receipt, err)
			}
		})
	}
	sending.Wait()
	for receipt, err := range c.SendBatch(t.Context(), notes(100, 200)) {
		if err == nil {
			t.Errorf("%+v", receipt)
		}
	}
	requests, _ := tn.seen()
	for i := range 200 {
		if n := requests[token(i)]; n > attempts {
			t.Errorf("notification %d was tried %d times at the provider, want at most %d", i, n, attempts)
		}
	}
	if len(requests) == 0 {
		t.Error("the provider was never tried")
	}
}

func notes(from, to int) func(func(*push.Notification) bool) {
	return func(yield func(*push.Notification) bool) {
		for i := from; i < to; i++ {
			if !yield(note(i)) {
				return
			}
		}
	}
}

func TestAGatewayThatDrainsGetsNothingNewAndNobodySeesAnError(t *testing.T) {
	t.Parallel()
	tn := newTown(t, script(mockprovider.Fault{Service: mockprovider.APNs, Delay: 5 * time.Millisecond}))
	settings := "drain: {delay: 500ms}\n"
	// The system gives this port to nobody who lets it choose, and no other process that runs these tests takes it.
	own := fmt.Sprint("127.0.0.1:", 20_000+os.Getpid()%10_000)
	leaving, staying := tn.open(own, settings), tn.open(anywhere, settings)
	c := tn.call(client.Config{}, leaving.url(), staying.url())
	all(c, 2)
	ctx, stop := context.WithCancel(t.Context())
	var sent atomic.Int64
	var sending sync.WaitGroup
	for worker := range 8 {
		sending.Go(func() {
			for i := worker; ctx.Err() == nil; i += 8 {
				if receipt, err := c.Send(t.Context(), note(i)); err != nil && !busy(receipt) {
					t.Errorf("notification %d: %+v %v", i, receipt, err)
				}
				sent.Add(1)
			}
		})
	}
	more := func() {
		from := sent.Load()
		until(func() bool { return sent.Load() > from+100 })
	}
	more()
	leaving.stop()
	more()
	tn.open(own, settings)
	all(c, 2)
	more()
	stop()
	sending.Wait()
	_, accepted := tn.seen()
	for i, n := range accepted {
		if n != 1 {
			t.Errorf("%s was accepted %d times", i, n)
		}
	}
}

// busy reports whether it is a gateway that has failed at its own provider, or holds back what it takes to be too much for
// that: on a busy machine, the mock can be slow or silent.
func busy(r push.Receipt) bool {
	return len(r.Attempts) > 0 || r.Reason == "PROVIDER_DOWN" || r.Reason == "OVERLOADED"
}

func TestAnIdleClientIsNotSurprisedByAGatewayThatEnds(t *testing.T) {
	tn := newTown(t)
	leaving, staying := tn.open(anywhere, ""), tn.open(anywhere, "")
	c := tn.call(client.Config{}, leaving.url(), staying.url())
	all(c, 2)
	leaving.stop()
	for i := range 20 {
		if receipt, err := c.Send(t.Context(), note(i)); err != nil {
			t.Errorf("%+v %v", receipt, err)
		}
	}
}

func TestGatewaysOfTheOwnZoneArePreferredAsTheyTellTheirs(t *testing.T) {
	tn := newTown(t)
	near, far := tn.open(anywhere, "zone: tokyo-a\n"), tn.open(anywhere, "zone: tokyo-b\n")
	c := tn.call(client.Config{Zone: "tokyo-a"}, far.url(), near.url())
	all(c, 2)
	for i := range 200 {
		if _, err := c.Send(t.Context(), note(i)); err != nil {
			t.Fatal(err)
		}
	}
	if n := sends(far); n > 2 {
		t.Errorf("%d of 200 went to the other zone", n)
	}
	near.stop()
	if _, err := c.Send(t.Context(), note(200)); err != nil {
		t.Errorf("with home gone: %v", err)
	}
}

// sends is how many notifications a gateway got to its providers.
func sends(h *house) (n int) {
	for _, s := range h.Status().Services {
		for _, e := range s.Pool.Endpoints {
			n += e.Successes
		}
	}
	return n
}

func TestAZoneAtTheEndOfABadLineIsKept(t *testing.T) {
	t.Parallel()
	const n, workers = 80, 8
	tn := newTown(t)
	near, far := tn.open(anywhere, "zone: a\n"), tn.open(anywhere, "zone: b\n")
	var lost atomic.Int32
	c := tn.call(client.Config{Zone: "a", Timeout: 10 * time.Minute, Observe: func(e pool.Event) {
		if e.Kind == pool.EventConnLost || e.Kind == pool.EventEjected {
			lost.Add(1)
		}
	}}, badCable(t, near.address).url(), far.url())
	all(c, 2)
	var sending sync.WaitGroup
	for worker := range workers {
		sending.Go(func() {
			for i := worker; i < n; i += workers {
				if receipt, err := c.Send(t.Context(), note(i)); err != nil && !busy(receipt) {
					t.Errorf("notification %d: %+v %v", i, receipt, err)
				}
			}
		})
	}
	sending.Wait()
	if lost.Load() != 0 {
		t.Errorf("%d times a gateway was given up", lost.Load())
	}
	requests, _ := tn.seen()
	for i := range n {
		if got := requests[token(i)]; got > 1 {
			t.Errorf("notification %d: the service got %d requests", i, got)
		}
	}
}

func TestALostZoneIsLeftAndWhatWasOnItsWayThereArrivesWhereItMayBeRepeated(t *testing.T) {
	t.Parallel()
	tn := newTown(t)
	near, far := tn.open(anywhere, "zone: a\n"), tn.open(anywhere, "zone: b\n")
	cable := newCable(t, near.address)
	c := tn.call(client.Config{Zone: "a", Silence: 5 * time.Second}, cable.url(), far.url())
	all(c, 2)
	ctx, stop := context.WithCancel(t.Context())
	var sent atomic.Int64
	var sending sync.WaitGroup
	for worker := range 8 {
		sending.Go(func() {
			for i := worker; ctx.Err() == nil; i += 8 {
				n := note(i)
				n.CollapseKey = "k"
				if receipt, err := c.Send(t.Context(), n); err != nil && !busy(receipt) {
					t.Errorf("notification %d: %+v %v", i, receipt, err)
				}
				sent.Add(1)
			}
		})
	}
	until(func() bool { return sent.Load() > 100 })
	cable.freeze()
	from := sent.Load()
	until(func() bool { return sent.Load() > from+100 })
	stop()
	sending.Wait()
}

func TestHoweverManyCallsAGatewayTakesWithItAllAreMadeOnceMore(t *testing.T) {
	t.Parallel()
	tn := newTown(t)
	near, far := tn.open(anywhere, "zone: a\n"), tn.open(anywhere, "zone: b\n")
	cable := newCable(t, near.address)
	c := tn.call(client.Config{Zone: "a", Silence: 5 * time.Second}, cable.url(), far.url())
	all(c, 2)
	cable.freeze()
	var sending sync.WaitGroup
	for i := range 150 { // more than a budget of a tenth and 3/s grants
		sending.Go(func() {
			n := note(i)
			n.CollapseKey = "k"
			if receipt, err := c.Send(t.Context(), n); err != nil && !busy(receipt) {
				t.Errorf("notification %d: %+v %v", i, receipt, err)
			}
		})
	}
	sending.Wait()
}

func TestGatewaysAreReadFromAFileThatChanges(t *testing.T) {
	t.Parallel()
	tn := newTown(t)
	first, second := tn.open(anywhere, ""), tn.open(anywhere, "")
	file := filepath.Join(t.TempDir(), "gateways")
	write := func(text string) {
		if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	write("# ours\n" + first.url() + " tokyo-a\n")
	c := tn.call(client.Config{File: file})
	if _, err := c.Send(t.Context(), note(1)); err != nil {
		t.Fatal(err)
	}
	at := func(address string) {
		until(func() bool {
			status := c.Status()
			return len(status.Endpoints) == 1 && status.Endpoints[0].Address == address && status.Endpoints[0].Connections == 1
		})
	}
	at(first.address)
	write(second.url() + "\n")
	at(second.address)
	write("nonsense\n")
	if _, err := c.Send(t.Context(), note(2)); err != nil {
		t.Errorf("a bad file takes the gateways away: %v", err)
	}
}

func TestTheKeyIsNeverPrinted(t *testing.T) {
	cfg := client.Config{App: "shop", Key: "slk_secret_secret"}
	var log strings.Builder
	slog.New(slog.NewTextHandler(&log, nil)).Info("config", "key", cfg.Key, "all", cfg)
	for _, text := range []string{fmt.Sprint(cfg), fmt.Sprintf("%+v %#v %s %q", cfg, cfg, cfg.Key, cfg.Key), log.String()} {
		if strings.Contains(text, "secret") {
			t.Error(text)
		}
	}
}

func TestWhatIsMissingIsSaid(t *testing.T) {
	for want, cfg := range map[string]client.Config{
		"Config.App":         {Key: "k", Gateways: []string{"http://127.0.0.1:1"}},
		"Config.Key":         {App: "a", Gateways: []string{"http://127.0.0.1:1"}},
		"Config.Gateways":    {App: "a", Key: "k"},
		"Config.Gateways[0]": {App: "a", Key: "k", Gateways: []string{"127.0.0.1:1"}},
		"negative":           {App: "a", Key: "k", Gateways: []string{"http://127.0.0.1:1"}, Attempts: -1},
	} {
		if _, err := client.New(cfg); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%v, want %s in it", err, want)
		}
	}
}

func TestWithoutAGatewayACallEndsWithItsDeadlineAndSaysThatNothingWasSent(t *testing.T) {
	tn := newTown(t)
	c := tn.call(client.Config{}, "http://127.0.0.1:1")
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	receipt, err := c.Send(ctx, note(1))
	if problem, ok := errors.AsType[*client.Error](err); !ok || problem.Type != "unavailable" || receipt.Verdict != push.Unsent {
		t.Errorf("%+v %v", receipt, err)
	}
}

func TestWhatIsEnqueuedIsSentLaterAndTheFeedTells(t *testing.T) {
	tn := newTown(t)
	c := tn.call(client.Config{}, tn.open(anywhere, fmt.Sprintf("queue: {dir: %q}\n", t.TempDir())).url())
	receipt, err := c.Enqueue(t.Context(), note(1))
	if err != nil || receipt.ID == "" || receipt.IsFinal() {
		t.Fatalf("%+v %v", receipt, err)
	}
	tn.mock.Ledger().Expect(t, mockprovider.Query{Token: token(1)}, 1)
	ctx, cancel := context.WithCancel(t.Context())
	var enqueuing sync.WaitGroup
	enqueuing.Go(func() { // until the feed, which begins some time now, has told of one
		for i := 2; ctx.Err() == nil; i++ {
			if _, err := c.Enqueue(ctx, note(i)); err != nil && ctx.Err() == nil {
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
	enqueuing.Wait()
}

func TestAGatewayWithoutAQueueSaysThatItHasNone(t *testing.T) {
	tn := newTown(t)
	c := tn.call(client.Config{}, tn.open(anywhere, "").url())
	_, err := c.Enqueue(t.Context(), note(1))
	if problem, ok := errors.AsType[*client.Error](err); !ok || problem.Type != "needs-queue" {
		t.Errorf("%v", err)
	}
}
