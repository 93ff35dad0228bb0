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

// twoEnvironments is a provider with two environments. A token's first letter says where it is known: p, s, or n for nowhere.
type twoEnvironments struct {
	*delivery.Environments
	delay func() time.Duration // for an answer
	fault func(in push.Environment, token string) (push.Outcome, bool)

	mu       sync.Mutex
	requests map[string]int // by environment and token
}

func newTwoEnvironments(t testing.TB) *twoEnvironments {
	w := &twoEnvironments{requests: map[string]int{}}
	w.Environments = &delivery.Environments{Default: push.Production, Cache: &delivery.EnvironmentCache{}, Routes: map[push.Environment]*delivery.Route{}}
	for _, in := range []push.Environment{push.Production, push.Sandbox} {
		route := newRoute(t, &service{script: func(ctx context.Context, n *push.Notification, _ int, _ string) push.Outcome {
			return w.answer(ctx, in, n.Token)
		}}, 2)
		route.Environment = in
		w.Routes[in] = route
	}
	return w
}

func (w *twoEnvironments) answer(ctx context.Context, in push.Environment, token string) push.Outcome {
	w.mu.Lock()
	w.requests[string(in)+" "+token]++
	w.mu.Unlock()
	if w.delay != nil {
		select {
		case <-time.After(w.delay()):
		case <-ctx.Done():
			return push.Outcome{Verdict: push.Abandoned, Reason: "CANCELLED"}
		}
	}
	if w.fault != nil {
		if o, hit := w.fault(in, token); hit {
			return o
		}
	}
	if token[0] != in[0] {
		return push.Outcome{Verdict: push.Refused, Reason: "BadDeviceToken", HTTP: 400, WrongEnvironment: true}
	}
	return accepted
}

func (w *twoEnvironments) count(in push.Environment, token string) int {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.requests[string(in)+" "+token]
}

func (w *twoEnvironments) send(token string, change ...func(*push.Notification)) string {
	n := newNotification("to " + token)
	n.Token = token
	for _, c := range change {
		c(n)
	}
	return path(w.Send(context.Background(), n))
}

// path spells where a receipt's attempts went and how they and it ended.
func path(r push.Receipt) (s string) {
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
		expectEqual(t, "the app's own", w.send("p", inEnvironment(push.Production)), "production accepted, accepted")
		expectEqual(t, "the other", w.send("s", inEnvironment(push.Sandbox)), "sandbox accepted, accepted")
		expectEqual(t, "the wrong one, by name", w.send("s2", inEnvironment(push.Production)), "production refused, refused")
		expectEqual(t, "a third", w.send("p", inEnvironment("staging")), "refused")
	})
}

func TestTokenEnvironmentIsDetectedOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newTwoEnvironments(t)
		ends := 0
		w.Routes[push.Production].Observer.Ended = func(*push.Notification, push.Receipt, time.Duration) { ends++ }
		expectEqual(t, "the first", w.send("s"), "production refused, sandbox accepted, accepted")
		expectEqual(t, "the second", w.send("s"), "sandbox accepted, accepted")
		expectEqual(t, "known nowhere", w.send("n"), "production refused, sandbox refused, refused")
		expectEqual(t, "known nowhere, again", w.send("n"), "production refused, refused")
		expectEqual(t, "another app's", w.send("s", func(n *push.Notification) { n.App = "bank" }), "production refused, sandbox accepted, accepted")
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
		expectEqual(t, "the wrong environment", w.send("s"), "production refused, refused")
	})
}

func TestMovedTokenIsDetectedAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w, moved := newTwoEnvironments(t), false
		w.fault = func(in push.Environment, token string) (push.Outcome, bool) {
			if !moved {
				return push.Outcome{}, false
			}
			if in == push.Production {
				return accepted, true
			}
			return push.Outcome{Verdict: push.Refused, Reason: "BadDeviceToken", HTTP: 400, WrongEnvironment: true}, true
		}
		w.send("s")
		moved = true
		expectEqual(t, "where it was", w.send("s"), "sandbox refused, refused")
		expectEqual(t, "where it is", w.send("s"), "production accepted, accepted")
	})
}

func TestInconclusiveDetectionIsNotCached(t *testing.T) {
	for _, c := range []struct {
		name         string
		outcome      push.Outcome
		first, later string
	}{
		{"it is down", unavailable, "production refused, sandbox unavailable, sandbox unavailable, sandbox unavailable, unavailable", "production refused, sandbox accepted, accepted"},
		{"it does not answer", unknown, "production refused, sandbox unknown, unknown", "production refused, sandbox accepted, accepted"},
		{"the notification is refused there", refused, "production refused, sandbox refused, refused", "production refused, sandbox accepted, accepted"},
		{"the key is for one alone", push.Outcome{Verdict: push.Unauthorized, Reason: "BadEnvironmentKeyInToken", HTTP: 403, Scope: push.ScopeCredential},
			"production refused, sandbox unauthorized, refused", "production refused, refused"},
		{"it is dead there", unregistered, "production refused, sandbox unregistered, unregistered", "sandbox accepted, accepted"},
	} {
		t.Run(c.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w, over := newTwoEnvironments(t), false
				w.fault = func(in push.Environment, _ string) (push.Outcome, bool) {
					return c.outcome, in == push.Sandbox && !over
				}
				expectEqual(t, "then", w.send("s"), c.first)
				over = true
				time.Sleep(time.Minute)
				expectEqual(t, "later", w.send("s"), c.later)
			})
		})
	}
}

func TestConcurrentSendsShareOneDetection(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newTwoEnvironments(t)
		w.delay = func() time.Duration { return 50 * time.Millisecond }
		var all sync.WaitGroup
		for range 100 {
			all.Go(func() {
				if got := w.send("s"); !strings.HasSuffix(got, "sandbox accepted, accepted") {
					t.Error(got)
				}
			})
		}
		all.Wait()
		if p, s := w.count(push.Production, "s"), w.count(push.Sandbox, "s"); p != 1 || s != 100 {
			t.Errorf("production was asked %d times and sandbox %d times, want 1 and 100", p, s)
		}
	})
}

func TestCancelledDetectionReleasesWaiters(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newTwoEnvironments(t)
		w.delay = func() time.Duration { return time.Second }
		ctx, leave := context.WithCancel(t.Context())
		var all sync.WaitGroup
		all.Go(func() {
			n := newNotification("first")
			n.Token = "s"
			expectEqual(t, "who left", path(w.Send(ctx, n)), "production abandoned, abandoned")
		})
		synctest.Wait()
		all.Go(func() { expectEqual(t, "who stayed", w.send("s"), "production refused, sandbox accepted, accepted") })
		synctest.Wait()
		leave()
		all.Wait()
	})
}

// TestConcurrentSendsAgreeOnEnvironment plays many bursts, each with its own order of events: tokens of both
// environments and of none, answers that take their time, callers who leave.
func TestConcurrentSendsAgreeOnEnvironment(t *testing.T) {
	for seed := range uint64(100) {
		synctest.Test(t, func(t *testing.T) { checkConcurrentSends(t, rand.New(rand.NewPCG(seed, 1))) })
	}
}

func checkConcurrentSends(t *testing.T, dice *rand.Rand) {
	w := newTwoEnvironments(t)
	var mu sync.Mutex
	roll := func(most int) int { mu.Lock(); defer mu.Unlock(); return dice.IntN(most) }
	w.delay = func() time.Duration { return time.Duration(roll(40)) * time.Millisecond }
	tokens := []string{"p1", "s1", "s2", "n1"}
	ends := map[string]string{"p": "production accepted, accepted", "s": "sandbox accepted, accepted", "n": "refused, refused"}
	left := map[string]bool{}
	var all sync.WaitGroup
	for i := range 60 {
		token, start, stays := tokens[roll(len(tokens))], time.Duration(roll(80))*time.Millisecond, roll(8) > 0
		ctx, cancel := context.WithCancel(t.Context())
		if !stays {
			left[token] = true
			time.AfterFunc(start+time.Duration(roll(40))*time.Millisecond, cancel)
		}
		all.Go(func() {
			defer cancel()
			time.Sleep(start)
			n := newNotification(fmt.Sprint(i))
			n.Token = token
			r := w.Send(ctx, n)
			if got := path(r); stays && !strings.HasSuffix(got, ends[token[:1]]) || len(r.Attempts) > 2 {
				t.Errorf("%s: %s", token, got)
			}
		})
	}
	all.Wait()
	for _, token := range tokens {
		if refused := w.count(push.Production, token); token[0] == 's' && !left[token] && refused > 1 {
			t.Errorf("%s cost %d refusals", token, refused)
		}
		if w.count(push.Sandbox, token) > 0 && token[0] == 'p' {
			t.Errorf("%s was looked for in vain", token)
		}
		if token[0] == 's' && !left[token] && w.count(push.Sandbox, token) > 0 {
			expectEqual(t, "afterwards", w.send(token), ends["s"])
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
