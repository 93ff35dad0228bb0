// SPDX-License-Identifier: Apache-2.0

package api_test

import (
	"context"
	"fmt"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/sluice-push/sluice/internal/idempotency"
	"github.com/sluice-push/sluice/push"
)

const keyHeader = "Idempotency-Key: order-81273"

func TestSameKeyAndBodyIsSentOnce(t *testing.T) {
	ts := newTestAPI(t)
	first, second := ts.request("POST", singlePath, validBody, keyHeader), ts.request("POST", singlePath, validBody, keyHeader)
	if ts.count() != 1 || second.Code != 200 || first.Body.String() != second.Body.String() {
		t.Fatalf("sent %d: %s, %s", ts.count(), first.Body, second.Body)
	}
	if first.Header().Get("Idempotency-Replayed") != "" || second.Header().Get("Idempotency-Replayed") != "true" {
		t.Errorf("%v, %v", first.Header(), second.Header())
	}
}

func TestSameKeyWithOtherBodyIsRejected(t *testing.T) {
	ts := newTestAPI(t)
	ts.request("POST", singlePath, validBody, keyHeader)
	p := ts.wantProblem(ts.request("POST", singlePath, validBody+" ", keyHeader), 422, "idempotency-key-reused")
	if p.Field != "Idempotency-Key" || ts.count() != 1 {
		t.Errorf("%+v", p)
	}
}

func TestKeysArePerApp(t *testing.T) {
	ts := newTestAPI(t)
	ts.request("POST", singlePath, validBody, keyHeader)
	ts.request("POST", "/v1/apps/bank/notifications", validBody, keyHeader, "Authorization: Bearer "+otherKey)
	if ts.count() != 2 {
		t.Error(ts.count())
	}
}

func TestInvalidKeyIsRejected(t *testing.T) {
	ts := newTestAPI(t)
	for _, key := range []string{strings.Repeat("k", 256), "a b", "é", "a\tb"} {
		ts.wantProblem(ts.request("POST", singlePath, validBody, "Idempotency-Key: "+key), 400, "invalid-header")
	}
	if w := ts.request("POST", singlePath, validBody, "Idempotency-Key: "+strings.Repeat("k", 255)); w.Code != 200 || ts.count() != 1 {
		t.Error(w.Body)
	}
}

func TestRejectedBodyDoesNotConsumeKey(t *testing.T) {
	ts := newTestAPI(t)
	ts.wantProblem(ts.request("POST", singlePath, `{}`, keyHeader), 400, "invalid-field")
	if w := ts.request("POST", singlePath, validBody, keyHeader); w.Code != 200 {
		t.Error(w.Body)
	}
}

func TestKeyIsReleasedOnlyIfNotificationDidNotArrive(t *testing.T) {
	unknownFirst := []push.Attempt{{Outcome: push.Outcome{Verdict: push.Unknown}}, {Outcome: push.Outcome{Verdict: push.Unavailable}}}
	for name, c := range map[string]struct {
		verdict  push.Verdict
		attempts []push.Attempt
		sent     int
	}{
		"throttled":                 {verdict: push.Throttled, sent: 2},
		"unavailable":               {verdict: push.Unavailable, sent: 2},
		"unauthorized":              {verdict: push.Unauthorized, sent: 2},
		"expired unsent":            {verdict: push.Expired, sent: 2},
		"refused by the gateway":    {verdict: push.Refused, sent: 2},
		"unknown":                   {verdict: push.Unknown, sent: 1},
		"unknown, then unavailable": {verdict: push.Unavailable, attempts: unknownFirst, sent: 1},
		"unregistered":              {verdict: push.Unregistered, attempts: []push.Attempt{{Outcome: push.Outcome{Verdict: push.Unregistered}}}, sent: 1},
	} {
		ts := newTestAPI(t)
		ts.respond = func(_ context.Context, n *push.Notification) push.Receipt {
			return push.Receipt{ID: n.ID, Outcome: push.Outcome{Verdict: c.verdict}, Attempts: c.attempts}
		}
		ts.request("POST", singlePath, validBody, keyHeader)
		ts.request("POST", singlePath, validBody, keyHeader)
		if ts.count() != c.sent {
			t.Errorf("%s: sent %d times, want %d", name, ts.count(), c.sent)
		}
	}
}

func TestConcurrentCallsWithOneKeySendOnce(t *testing.T) {
	for _, verdict := range []push.Verdict{push.Accepted, push.Throttled} {
		synctest.Test(t, func(t *testing.T) {
			ts := newTestAPI(t)
			ts.respond = func(_ context.Context, n *push.Notification) push.Receipt {
				time.Sleep(time.Second)
				return ended(n, push.Outcome{Verdict: verdict})
			}
			var callers sync.WaitGroup
			var mu sync.Mutex
			responses := map[string]int{}
			for range 20 {
				callers.Go(func() {
					w := ts.request("POST", singlePath, validBody, keyHeader, "X-Request-ID: r")
					mu.Lock()
					defer mu.Unlock()
					responses[fmt.Sprint(w.Code, w.Body)]++
				})
			}
			callers.Wait()
			if ts.count() != 1 || len(responses) != 1 {
				t.Errorf("%s: sent %d, responses %v", verdict, ts.count(), responses)
			}
		})
	}
}

func TestSendWithKeySurvivesClientDisconnect(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ts := newTestAPI(t)
		ts.respond = func(ctx context.Context, n *push.Notification) push.Receipt {
			select {
			case <-time.After(2 * time.Second):
				return accepted(n)
			case <-ctx.Done():
				return push.Receipt{ID: n.ID, Outcome: push.Outcome{Verdict: push.Abandoned}}
			}
		}
		clientCtx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		if w := ts.requestWith(clientCtx, "POST", singlePath, strings.NewReader(validBody), keyHeader); w.Body.Len() != 0 {
			t.Errorf("a response was written: %s", w.Body)
		}
		if w := ts.request("POST", singlePath, validBody, keyHeader); w.Code != 200 || ts.count() != 1 {
			t.Errorf("%d, sent %d: %s", w.Code, ts.count(), w.Body)
		}
	})
}

func TestSendWithKeyEndsAtSendTimeout(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ts := newTestAPI(t)
		ts.respond = func(ctx context.Context, n *push.Notification) push.Receipt {
			<-ctx.Done()
			return push.Receipt{ID: n.ID, Outcome: push.NoResponse(ctx.Err())}
		}
		start := time.Now()
		ts.wantProblem(ts.request("POST", singlePath, validBody, keyHeader), 504, "unknown")
		if took := time.Since(start); took != 25*time.Second {
			t.Error(took)
		}
	})
}

func TestIdempotencyMemoryEvictsExpiredAndOldestEntries(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ts := newTestAPI(t, func(cfg *testConfig) { cfg.Idempotency = &idempotency.Memory{MaxEntries: 2} })
		request := func(key string) { ts.request("POST", singlePath, validBody, "Idempotency-Key: "+key) }
		request("a")
		time.Sleep(24 * time.Hour)
		if request("a"); ts.count() != 1 {
			t.Error("the result expired too early")
		}
		time.Sleep(time.Second)
		if request("a"); ts.count() != 2 {
			t.Error("the result did not expire")
		}
		request("b")
		request("c")
		if request("b"); ts.count() != 4 {
			t.Error("the newer result was evicted")
		}
		if request("a"); ts.count() != 5 {
			t.Error("the oldest result was not evicted")
		}
	})
}

func TestAppsDoNotEvictEachOthersResults(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ts := newTestAPI(t, func(cfg *testConfig) { cfg.Idempotency = &idempotency.Memory{MaxEntries: 2} })
		ts.request("POST", singlePath, validBody, keyHeader)
		for range 2 {
			for i := range 10 {
				ts.request("POST", "/v1/apps/bank/notifications", validBody, "Authorization: Bearer "+otherKey, fmt.Sprint("Idempotency-Key: ", i))
			}
			time.Sleep(2 * time.Minute) // until the cache is swept
		}
		if ts.count() != 21 {
			t.Errorf("%d sent, want 1 and twice 10: an app keeps only its newest results", ts.count())
		}
		if w := ts.request("POST", singlePath, validBody, keyHeader); w.Header().Get("Idempotency-Replayed") != "true" {
			t.Error("another app evicted the result")
		}
	})
}

// TestResultInProgressSurvivesSweep sweeps the cache while its only entry has no result.
func TestResultInProgressSurvivesSweep(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ts := newTestAPI(t, func(cfg *testConfig) { cfg.Limits.SendTimeout = 10 * time.Minute })
		ts.respond = respondAfter(5 * time.Minute)
		var callers sync.WaitGroup
		for range 3 {
			callers.Go(func() {
				if w := ts.request("POST", singlePath, validBody, keyHeader); w.Code != 200 {
					t.Error(w.Body)
				}
			})
			time.Sleep(2 * time.Minute)
		}
		callers.Wait()
		if ts.count() != 1 {
			t.Errorf("sent %d times", ts.count())
		}
	})
}

func TestPanicReleasesWaitingCalls(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ts := newTestAPI(t)
		ts.respond = func(context.Context, *push.Notification) push.Receipt {
			time.Sleep(time.Second)
			panic("boom")
		}
		var callers sync.WaitGroup
		for range 3 {
			callers.Go(func() {
				if w := ts.request("POST", singlePath, validBody, keyHeader); w.Code != 500 {
					t.Errorf("%d %s", w.Code, w.Body)
				}
			})
		}
		callers.Wait()
		if ts.count() != 1 {
			t.Error(ts.count())
		}
	})
}

func TestPanicKeepsTheKey(t *testing.T) {
	ts := newTestAPI(t)
	ts.respond = func(context.Context, *push.Notification) push.Receipt { panic("boom") }
	for _, replayed := range []string{"", "true"} {
		w := ts.request("POST", singlePath, validBody, keyHeader)
		if ts.wantProblem(w, 500, "internal"); w.Header().Get("Idempotency-Replayed") != replayed {
			t.Error(w.Header())
		}
	}
	if ts.count() != 1 {
		t.Errorf("sent %d times", ts.count())
	}
}

// TestWaitingCallGetsResultAfterSendTimeout makes two calls at the same time to a provider that does
// not respond: the second one must not end before the first one has its result.
func TestWaitingCallGetsResultAfterSendTimeout(t *testing.T) {
	for _, newAPI := range []func(*testing.T) *testAPI{
		func(t *testing.T) *testAPI { return newTestAPI(t) },
		func(t *testing.T) *testAPI { ts, _ := newTestAPIWithStorage(t); return ts },
	} {
		synctest.Test(t, func(t *testing.T) {
			ts := newAPI(t)
			ts.respond = func(ctx context.Context, n *push.Notification) push.Receipt {
				<-ctx.Done()
				time.Sleep(10 * time.Millisecond)
				return ended(n, push.Outcome{Verdict: push.Unknown})
			}
			var callers sync.WaitGroup
			for range 2 {
				callers.Go(func() { ts.wantProblem(ts.request("POST", singlePath, validBody, keyHeader), 504, "unknown") })
			}
			callers.Wait()
			if ts.count() != 1 {
				t.Errorf("sent %d times", ts.count())
			}
		})
	}
}
