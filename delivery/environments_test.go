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

	"github.com/sluice-push/sluice/delivery"
	"github.com/sluice-push/sluice/push"
)

// world is a provider with two environments. A token's first letter says where it is known: p, s, or n for nowhere.
type world struct {
	*delivery.Environments
	took    func() time.Duration // for an answer
	trouble func(in push.Environment, token string) (push.Outcome, bool)

	mu    sync.Mutex
	asked map[string]int // by environment and token
}

func newWorld(t testing.TB) *world {
	w := &world{asked: map[string]int{}}
	w.Environments = &delivery.Environments{Own: push.Production, Whereabouts: &delivery.Whereabouts{}, Routes: map[push.Environment]*delivery.Route{}}
	for _, in := range []push.Environment{push.Production, push.Sandbox} {
		route := house(t, &service{script: func(ctx context.Context, n *push.Notification, _ int, _ string) push.Outcome {
			return w.answer(ctx, in, n.Token)
		}}, 2)
		route.Environment = in
		w.Routes[in] = route
	}
	return w
}

func (w *world) answer(ctx context.Context, in push.Environment, token string) push.Outcome {
	w.mu.Lock()
	w.asked[string(in)+" "+token]++
	w.mu.Unlock()
	if w.took != nil {
		select {
		case <-time.After(w.took()):
		case <-ctx.Done():
			return push.Outcome{Verdict: push.Abandoned, Reason: "CANCELLED"}
		}
	}
	if w.trouble != nil {
		if o, hit := w.trouble(in, token); hit {
			return o
		}
	}
	if token[0] != in[0] {
		return push.Outcome{Verdict: push.Refused, Reason: "BadDeviceToken", HTTP: 400, WrongEnvironment: true}
	}
	return accepted
}

func (w *world) count(in push.Environment, token string) int {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.asked[string(in)+" "+token]
}

func (w *world) to(token string, change ...func(*push.Notification)) string {
	n := note("to " + token)
	n.Token = token
	for _, c := range change {
		c(n)
	}
	return way(w.Send(context.Background(), n))
}

// way spells where a receipt's attempts went and how they and it ended.
func way(r push.Receipt) (s string) {
	for _, a := range r.Attempts {
		s += fmt.Sprintf("%s %v, ", a.Environment, a.Verdict)
	}
	return s + r.Verdict.String()
}

func expect(t *testing.T, what, got, want string) {
	t.Helper()
	if got != want {
		t.Errorf("%s: %s, want %s", what, got, want)
	}
}

func in(e push.Environment) func(*push.Notification) {
	return func(n *push.Notification) { n.APNs = &push.APNsBlock{Environment: e} }
}

func TestANotificationGoesToTheEnvironmentThatItNames(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		expect(t, "none named", w.to("p"), "production accepted, accepted")
		expect(t, "the app's own", w.to("p", in(push.Production)), "production accepted, accepted")
		expect(t, "the other", w.to("s", in(push.Sandbox)), "sandbox accepted, accepted")
		expect(t, "the wrong one, by name", w.to("s2", in(push.Production)), "production refused, refused")
		expect(t, "a third", w.to("p", in("staging")), "refused")
	})
}

func TestATokenIsLookedForOnceAndThenKnown(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		ends := 0
		w.Routes[push.Production].Observer.Ended = func(*push.Notification, push.Receipt, time.Duration) { ends++ }
		expect(t, "the first", w.to("s"), "production refused, sandbox accepted, accepted")
		expect(t, "the second", w.to("s"), "sandbox accepted, accepted")
		expect(t, "known nowhere", w.to("n"), "production refused, sandbox refused, refused")
		expect(t, "known nowhere, again", w.to("n"), "production refused, refused")
		expect(t, "another app's", w.to("s", func(n *push.Notification) { n.App = "bank" }), "production refused, sandbox accepted, accepted")
		if ends != 5 {
			t.Errorf("%d notifications ended, want 5", ends)
		}
		time.Sleep(24 * time.Hour)
		expect(t, "a day later", w.to("s"), "production refused, sandbox accepted, accepted")
	})
}

func TestWithoutWhereaboutsNothingIsLookedFor(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		w.Whereabouts = nil
		expect(t, "the wrong environment", w.to("s"), "production refused, refused")
	})
}

func TestATokenThatMovedIsLookedForAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w, moved := newWorld(t), false
		w.trouble = func(in push.Environment, token string) (push.Outcome, bool) {
			if !moved {
				return push.Outcome{}, false
			}
			if in == push.Production {
				return accepted, true
			}
			return push.Outcome{Verdict: push.Refused, Reason: "BadDeviceToken", HTTP: 400, WrongEnvironment: true}, true
		}
		w.to("s")
		moved = true
		expect(t, "where it was", w.to("s"), "sandbox refused, refused")
		expect(t, "where it is", w.to("s"), "production accepted, accepted")
	})
}

func TestWhatTheOtherEnvironmentCannotTellIsNotRemembered(t *testing.T) {
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
		{"it is dead there", dead, "production refused, sandbox unregistered, unregistered", "sandbox accepted, accepted"},
	} {
		t.Run(c.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w, over := newWorld(t), false
				w.trouble = func(in push.Environment, _ string) (push.Outcome, bool) {
					return c.outcome, in == push.Sandbox && !over
				}
				expect(t, "then", w.to("s"), c.first)
				over = true
				time.Sleep(time.Minute)
				expect(t, "later", w.to("s"), c.later)
			})
		})
	}
}

func TestABurstToATokenCostsOneRefusal(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		w.took = func() time.Duration { return 50 * time.Millisecond }
		var all sync.WaitGroup
		for range 100 {
			all.Go(func() {
				if got := w.to("s"); !strings.HasSuffix(got, "sandbox accepted, accepted") {
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

func TestWhoeverLeavesDoesNotKeepTheOthersWaiting(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		w.took = func() time.Duration { return time.Second }
		ctx, leave := context.WithCancel(t.Context())
		var all sync.WaitGroup
		all.Go(func() {
			n := note("first")
			n.Token = "s"
			expect(t, "who left", way(w.Send(ctx, n)), "production abandoned, abandoned")
		})
		synctest.Wait()
		all.Go(func() { expect(t, "who stayed", w.to("s"), "production refused, sandbox accepted, accepted") })
		synctest.Wait()
		leave()
		all.Wait()
	})
}

// TestConcurrentSendsToATokenNeverDisagree plays many bursts, each with its own order of events: tokens of both
// environments and of none, answers that take their time, callers who leave.
func TestConcurrentSendsToATokenNeverDisagree(t *testing.T) {
	for seed := range uint64(100) {
		synctest.Test(t, func(t *testing.T) { disagree(t, rand.New(rand.NewPCG(seed, 1))) })
	}
}

func disagree(t *testing.T, dice *rand.Rand) {
	w := newWorld(t)
	var mu sync.Mutex
	roll := func(most int) int { mu.Lock(); defer mu.Unlock(); return dice.IntN(most) }
	w.took = func() time.Duration { return time.Duration(roll(40)) * time.Millisecond }
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
			n := note(fmt.Sprint(i))
			n.Token = token
			r := w.Send(ctx, n)
			if got := way(r); stays && !strings.HasSuffix(got, ends[token[:1]]) || len(r.Attempts) > 2 {
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
			expect(t, "afterwards", w.to(token), ends["s"])
		}
	}
}

func TestTheOldestWhereaboutsAreForgottenFirst(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		w.Whereabouts.Most = 2
		for _, token := range []string{"s1", "s2", "s3"} {
			w.to(token)
		}
		got := map[string]string{"s3": w.to("s3"), "s2": w.to("s2"), "s1": w.to("s1")}
		want := map[string]string{
			"s3": "sandbox accepted, accepted", "s2": "sandbox accepted, accepted", "s1": "production refused, sandbox accepted, accepted",
		}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Error(diff)
		}
	})
}
