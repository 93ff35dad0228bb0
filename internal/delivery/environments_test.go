// SPDX-License-Identifier: Apache-2.0

package delivery_test

import (
	"context"
	"fmt"
	"math/rand/v2"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/sluice-push/sluice/internal/delivery"
	"github.com/sluice-push/sluice/push"
)

// twoEnvironments is a provider with two environments. The first letter of a token says which one
// knows it: p, s, or n for none.
type twoEnvironments struct {
	*delivery.Environments
	delay func() time.Duration // of a response
	fault func(env push.Environment, token string) (push.Outcome, bool)

	mu       sync.Mutex
	requests map[string]int // by environment and token
}

func newTwoEnvironments(t testing.TB) *twoEnvironments {
	w := &twoEnvironments{requests: map[string]int{}}
	w.Environments = &delivery.Environments{Default: push.Production, Cache: &delivery.EnvironmentCache{}, Routes: map[push.Environment]*delivery.Route{}}
	for _, env := range []push.Environment{push.Production, push.Sandbox} {
		route := newRoute(t, &service{script: func(ctx context.Context, n *push.Notification, _ int, _ string) push.Outcome {
			return w.answer(ctx, env, n.Token)
		}}, 2)
		route.Environment = env
		w.Routes[env] = route
	}
	return w
}

func (w *twoEnvironments) answer(ctx context.Context, env push.Environment, token string) push.Outcome {
	w.mu.Lock()
	w.requests[string(env)+" "+token]++
	w.mu.Unlock()
	if w.delay != nil {
		select {
		case <-time.After(w.delay()):
		case <-ctx.Done():
			return push.Outcome{Verdict: push.Abandoned, Reason: "CANCELLED"}
		}
	}
	if w.fault != nil {
		if o, hit := w.fault(env, token); hit {
			return o
		}
	}
	if token[0] != env[0] {
		return push.Outcome{Verdict: push.Refused, Reason: "BadDeviceToken", HTTP: 400, WrongEnvironment: true}
	}
	return accepted
}

func (w *twoEnvironments) count(env push.Environment, token string) int {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.requests[string(env)+" "+token]
}

func (w *twoEnvironments) send(token string, change ...func(*push.Notification)) string {
	n := newNotification("to " + token)
	n.Token = token
	for _, c := range change {
		c(n)
	}
	return path(w.Send(context.Background(), &push.Call{Notification: n}))
}

// path formats the environments and verdicts of the attempts and the verdict of the receipt.
func path(r *push.Receipt) (s string) {
	for _, a := range r.Attempts {
		s += fmt.Sprintf("%s %v, ", a.Environment, a.Verdict)
	}
	return s + r.Verdict.String()
}

func expectEqual(t *testing.T, what, got, want string) {
	t.Helper()
	if got != want {
		t.Errorf("%s: %s, want %s", what, got, want)
	}
}

func inEnvironment(e push.Environment) func(*push.Notification) {
	return func(n *push.Notification) { n.APNs = &push.APNsBlock{Environment: e} }
}

func TestSendUsesNamedEnvironment(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newTwoEnvironments(t)
		expectEqual(t, "none named", w.send("p"), "production accepted, accepted")
		expectEqual(t, "default named", w.send("p", inEnvironment(push.Production)), "production accepted, accepted")
		expectEqual(t, "other named", w.send("s", inEnvironment(push.Sandbox)), "sandbox accepted, accepted")
		expectEqual(t, "wrong one named", w.send("s2", inEnvironment(push.Production)), "production refused, refused")
		expectEqual(t, "unknown one named", w.send("p", inEnvironment("staging")), "refused")
	})
}

func TestTokenEnvironmentIsDetectedOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newTwoEnvironments(t)
		ends := 0
		w.Routes[push.Production].Observer.Ended = func(*push.Notification, *push.Receipt, time.Duration) { ends++ }
		expectEqual(t, "first send", w.send("s"), "production refused, sandbox accepted, accepted")
		expectEqual(t, "second send", w.send("s"), "sandbox accepted, accepted")
		expectEqual(t, "unknown token", w.send("n"), "production refused, sandbox refused, refused")
		expectEqual(t, "unknown token again", w.send("n"), "production refused, refused")
		expectEqual(t, "token of another app", w.send("s", func(n *push.Notification) { n.App = "bank" }), "production refused, sandbox accepted, accepted")
		if ends != 5 {
			t.Errorf("%d notifications ended, want 5", ends)
		}
		time.Sleep(24 * time.Hour)
		expectEqual(t, "a day later", w.send("s"), "production refused, sandbox accepted, accepted")
	})
}

func TestNilCacheDisablesDetection(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newTwoEnvironments(t)
		w.Cache = nil
		expectEqual(t, "token of the other environment", w.send("s"), "production refused, refused")
	})
}

func TestMovedTokenIsDetectedAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w, moved := newTwoEnvironments(t), false
		w.fault = func(env push.Environment, token string) (push.Outcome, bool) {
			if !moved {
				return push.Outcome{}, false
			}
			if env == push.Production {
				return accepted, true
			}
			return push.Outcome{Verdict: push.Refused, Reason: "BadDeviceToken", HTTP: 400, WrongEnvironment: true}, true
		}
		w.send("s")
		moved = true
		expectEqual(t, "old environment", w.send("s"), "sandbox refused, refused")
		expectEqual(t, "new environment", w.send("s"), "production accepted, accepted")
	})
}

func TestInconclusiveDetectionIsNotCached(t *testing.T) {
	for _, c := range []struct {
		name         string
		outcome      push.Outcome
		first, later string
	}{
		{"unavailable", unavailable, "production refused, sandbox unavailable, sandbox unavailable, sandbox unavailable, unavailable", "production refused, sandbox accepted, accepted"},
		{"no response", unknown, "production refused, sandbox unknown, unknown", "production refused, sandbox accepted, accepted"},
		{"notification refused", refused, "production refused, sandbox refused, refused", "production refused, sandbox accepted, accepted"},
		{"key valid for one environment", push.Outcome{Verdict: push.Unauthorized, Reason: "BadEnvironmentKeyInToken", HTTP: 403, Scope: push.ScopeCredential},
			"production refused, sandbox unauthorized, refused", "production refused, refused"},
		{"unregistered", unregistered, "production refused, sandbox unregistered, unregistered", "sandbox accepted, accepted"},
	} {
		t.Run(c.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w, healthy := newTwoEnvironments(t), false
				w.fault = func(env push.Environment, _ string) (push.Outcome, bool) {
					return c.outcome, env == push.Sandbox && !healthy
				}
				expectEqual(t, "during the fault", w.send("s"), c.first)
				healthy = true
				time.Sleep(time.Minute)
				expectEqual(t, "after the fault", w.send("s"), c.later)
			})
		})
	}
}

func TestConcurrentSendsShareOneDetection(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newTwoEnvironments(t)
		w.delay = func() time.Duration { return 50 * time.Millisecond }
		var wg sync.WaitGroup
		for range 100 {
			wg.Go(func() {
				if got := w.send("s"); !strings.HasSuffix(got, "sandbox accepted, accepted") {
					t.Error(got)
				}
			})
		}
		wg.Wait()
		if p, s := w.count(push.Production, "s"), w.count(push.Sandbox, "s"); p != 1 || s != 100 {
			t.Errorf("production got %d requests and sandbox %d, want 1 and 100", p, s)
		}
	})
}

func TestCancelledDetectionReleasesWaiters(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newTwoEnvironments(t)
		w.delay = func() time.Duration { return time.Second }
		ctx, cancel := context.WithCancel(t.Context())
		var wg sync.WaitGroup
		wg.Go(func() {
			n := newNotification("first")
			n.Token = "s"
			expectEqual(t, "cancelled send", path(w.Send(ctx, &push.Call{Notification: n})), "production abandoned, abandoned")
		})
		synctest.Wait()
		wg.Go(func() { expectEqual(t, "waiting send", w.send("s"), "production refused, sandbox accepted, accepted") })
		synctest.Wait()
		cancel()
		wg.Wait()
	})
}

// TestConcurrentSendsAgreeOnEnvironment sends random bursts to tokens of both environments and of
// none, with random delays and cancellations.
func TestConcurrentSendsAgreeOnEnvironment(t *testing.T) {
	for seed := range uint64(100) {
		synctest.Test(t, func(t *testing.T) { checkConcurrentSends(t, rand.New(rand.NewPCG(seed, 1))) })
	}
}

func checkConcurrentSends(t *testing.T, rng *rand.Rand) {
	w := newTwoEnvironments(t)
	var mu sync.Mutex
	random := func(n int) int { mu.Lock(); defer mu.Unlock(); return rng.IntN(n) }
	w.delay = func() time.Duration { return time.Duration(random(40)) * time.Millisecond }
	tokens := []string{"p1", "s1", "s2", "n1"}
	ends := map[string]string{"p": "production accepted, accepted", "s": "sandbox accepted, accepted", "n": "refused, refused"}
	cancelled := map[string]bool{}
	var wg sync.WaitGroup
	for i := range 60 {
		token, start, keep := tokens[random(len(tokens))], time.Duration(random(80))*time.Millisecond, random(8) > 0
		ctx, cancel := context.WithCancel(t.Context())
		if !keep {
			cancelled[token] = true
			time.AfterFunc(start+time.Duration(random(40))*time.Millisecond, cancel)
		}
		wg.Go(func() {
			defer cancel()
			time.Sleep(start)
			n := newNotification(fmt.Sprint(i))
			n.Token = token
			r := w.Send(ctx, &push.Call{Notification: n})
			if got := path(r); keep && !strings.HasSuffix(got, ends[token[:1]]) || len(r.Attempts) > 2 {
				t.Errorf("%s: %s", token, got)
			}
		})
	}
	wg.Wait() // bounded by the bubble
	for _, token := range tokens {
		if refused := w.count(push.Production, token); token[0] == 's' && !cancelled[token] && refused > 1 {
			t.Errorf("detection of %s took %d rejections", token, refused)
		}
		if w.count(push.Sandbox, token) > 0 && token[0] == 'p' {
			t.Errorf("%s was sent to the sandbox", token)
		}
		if token[0] == 's' && !cancelled[token] && w.count(push.Sandbox, token) > 0 {
			expectEqual(t, "after detection", w.send(token), ends["s"])
		}
	}
}

func TestEnvironmentCacheEvictsOldestFirst(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newTwoEnvironments(t)
		w.Cache.MaxEntries = 2
		for _, token := range []string{"s1", "s2", "s3"} {
			w.send(token)
		}
		got := map[string]string{"s3": w.send("s3"), "s2": w.send("s2"), "s1": w.send("s1")}
		want := map[string]string{
			"s3": "sandbox accepted, accepted", "s2": "sandbox accepted, accepted", "s1": "production refused, sandbox accepted, accepted",
		}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Error(diff)
		}
	})
}
