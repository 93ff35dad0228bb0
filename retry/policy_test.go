// SPDX-License-Identifier: Apache-2.0

package retry_test

import (
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/sluice-push/sluice/push"
	"github.com/sluice-push/sluice/retry"
)

// maxJitter draws the longest jitter there is, none the shortest.
func maxJitter() float64 { return 1 - 1e-12 }
func minJitter() float64 { return 0 }

var (
	notification = &push.Notification{ID: "a"}
	repeatable   = &push.Notification{ID: "b", OnUnknown: push.RepeatAlways}
	collapsible  = &push.Notification{ID: "c", CollapseKey: "score"}
)

func TestRetryableVerdicts(t *testing.T) {
	for _, c := range []struct {
		name  string
		n     *push.Notification
		o     push.Outcome
		again bool
	}{
		{"accepted", notification, push.Outcome{Verdict: push.Accepted}, false},
		{"unregistered", notification, push.Outcome{Verdict: push.Unregistered}, false},
		{"refused", notification, push.Outcome{Verdict: push.Refused}, false},
		{"abandoned", notification, push.Outcome{Verdict: push.Abandoned}, false},
		{"expired", notification, push.Outcome{Verdict: push.Expired}, false},
		{"unsent", notification, push.Outcome{Verdict: push.Unsent}, true},
		{"unavailable", notification, push.Outcome{Verdict: push.Unavailable}, true},
		{"throttled", notification, push.Outcome{Verdict: push.Throttled}, true},
		{"a bad credential", notification, push.Outcome{Verdict: push.Unauthorized}, false},
		{"a credential renewed since", notification, push.Outcome{Verdict: push.Unauthorized, Renewed: true}, true},
		{"unknown, and a repeat would stand beside it", notification, push.Outcome{Verdict: push.Unknown}, false},
		{"unknown, and a repeat would replace it", collapsible, push.Outcome{Verdict: push.Unknown}, true},
		{"unknown, and the sender wants it anyway", repeatable, push.Outcome{Verdict: push.Unknown}, true},
	} {
		t.Run(c.name, func(t *testing.T) {
			if _, again := (retry.Policy{}).After(c.n, 1, c.o); again != c.again {
				t.Errorf("again = %v, want %v", again, c.again)
			}
		})
	}
}

func TestDefaultIsThreeAttempts(t *testing.T) {
	for attempt, want := range map[int]bool{1: true, 2: true, 3: false, 4: false} {
		if _, again := (retry.Policy{}).After(notification, attempt, push.Outcome{Verdict: push.Unavailable}); again != want {
			t.Errorf("after attempt %d: again = %v, want %v", attempt, again, want)
		}
	}
}

func TestSingleAttemptNeverRetries(t *testing.T) {
	if _, again := (retry.Policy{Attempts: 1}).After(notification, 1, push.Outcome{Verdict: push.Unsent}); again {
		t.Error("a policy of one attempt granted a second")
	}
}

func TestNotificationCanOnlyLowerAttempts(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		operators, senders := rapid.IntRange(1, 10).Draw(t, "operator's"), rapid.IntRange(0, 10).Draw(t, "sender's")
		n := &push.Notification{ID: "a", OnUnknown: push.RepeatAlways, Retry: &push.Retry{Attempts: senders}}
		want := operators
		if senders > 0 {
			want = min(operators, senders)
		}
		o := push.Outcome{Verdict: rapid.SampledFrom([]push.Verdict{push.Unsent, push.Unavailable, push.Unknown}).Draw(t, "verdict")}
		attempts := 1
		for again := true; again; attempts++ {
			_, again = retry.Policy{Attempts: operators}.After(n, attempts, o)
		}
		if attempts-1 != want {
			t.Errorf("%d attempts, want %d", attempts-1, want)
		}
	})
}

func TestUnsentIsRetriedImmediately(t *testing.T) {
	p := retry.Policy{Rand: maxJitter}
	if wait, again := p.After(notification, 1, push.Outcome{Verdict: push.Unsent}); !again || wait != 0 {
		t.Errorf("After = %v, %v; want at once", wait, again)
	}
}

func TestBackoffDoublesUpToCap(t *testing.T) {
	const slack = time.Microsecond
	for _, c := range []struct {
		verdict push.Verdict
		attempt int
		ceiling time.Duration
	}{
		{push.Unavailable, 1, 50 * time.Millisecond},
		{push.Unavailable, 2, 100 * time.Millisecond},
		{push.Unavailable, 5, 800 * time.Millisecond},
		{push.Unavailable, 99, 20 * time.Second},
		{push.Throttled, 1, time.Second},
		{push.Throttled, 3, 4 * time.Second},
		{push.Throttled, 6, 20 * time.Second},
	} {
		o := push.Outcome{Verdict: c.verdict}
		longest, _ := retry.Policy{Attempts: 100, Rand: maxJitter}.After(notification, c.attempt, o)
		shortest, _ := retry.Policy{Attempts: 100, Rand: minJitter}.After(notification, c.attempt, o)
		if shortest != 0 || longest > c.ceiling || longest < c.ceiling-slack {
			t.Errorf("%v after attempt %d: waits %v to %v, want 0 to %v", c.verdict, c.attempt, shortest, longest, c.ceiling)
		}
	}
}

func TestRetryAfterStrategies(t *testing.T) {
	asked := push.Outcome{Verdict: push.Throttled, RetryAfter: 3 * time.Second}
	for _, c := range []struct {
		strategy retry.Strategy
		wait     time.Duration
		again    bool
	}{
		{"", 3 * time.Second, true},
		{retry.Comply, 3 * time.Second, true},
		{retry.Ignore, 0, true},
		{retry.Stop, 0, false},
	} {
		wait, again := retry.Policy{RetryAfter: c.strategy, Rand: minJitter}.After(notification, 1, asked)
		if wait != c.wait || again != c.again {
			t.Errorf("%q: After = %v, %v; want %v, %v", c.strategy, wait, again, c.wait, c.again)
		}
	}
	if _, again := (retry.Policy{RetryAfter: retry.Stop}).After(notification, 1, push.Outcome{Verdict: push.Throttled}); !again {
		t.Error("Stop ended a send although the provider named no wait")
	}
}

func TestJitterIsAddedToRetryAfter(t *testing.T) {
	asked := push.Outcome{Verdict: push.Throttled, RetryAfter: 3 * time.Second}
	early, _ := retry.Policy{Rand: minJitter}.After(notification, 1, asked)
	late, _ := retry.Policy{Rand: maxJitter}.After(notification, 1, asked)
	if early < asked.RetryAfter || late-early < 900*time.Millisecond {
		t.Errorf("they come back between %v and %v", early, late)
	}
}

func TestRetryAfterBeyondMaximumEndsSend(t *testing.T) {
	for asked, want := range map[time.Duration]bool{20 * time.Second: true, 20*time.Second + 1: false, time.Hour: false} {
		o := push.Outcome{Verdict: push.Unavailable, RetryAfter: asked}
		if _, again := (retry.Policy{}).After(notification, 1, o); again != want {
			t.Errorf("asked to wait %v: again = %v, want %v", asked, again, want)
		}
	}
	if _, again := (retry.Policy{MaxRetryAfter: time.Hour}).After(notification, 1, push.Outcome{Verdict: push.Throttled, RetryAfter: time.Hour}); !again {
		t.Error("a wait within MaxRetryAfter ended the send")
	}
}

func TestFirstMatchingRuleApplies(t *testing.T) {
	p := retry.Policy{Rand: minJitter, Rules: []retry.Rule{
		{Verdict: push.Unavailable, Reason: "Shutdown", MinWait: 2 * time.Second},
		{Verdict: push.Unavailable, Stop: true},
		{Reason: "Shutdown", Stop: true},
	}}
	for _, c := range []struct {
		o     push.Outcome
		wait  time.Duration
		again bool
	}{
		{push.Outcome{Verdict: push.Unavailable, Reason: "Shutdown"}, 2 * time.Second, true},
		{push.Outcome{Verdict: push.Unavailable, Reason: "InternalServerError"}, 0, false},
		{push.Outcome{Verdict: push.Throttled, Reason: "Shutdown"}, 0, false},
		{push.Outcome{Verdict: push.Throttled, Reason: "TooManyRequests"}, 0, true},
	} {
		if wait, again := p.After(notification, 1, c.o); wait != c.wait || again != c.again {
			t.Errorf("%v %s: After = %v, %v; want %v, %v", c.o.Verdict, c.o.Reason, wait, again, c.wait, c.again)
		}
	}
}

func TestRulesCannotAllowForbiddenRetries(t *testing.T) {
	p := retry.Policy{Rules: []retry.Rule{{Base: time.Second}}}
	for _, v := range []push.Verdict{push.Accepted, push.Refused, push.Unregistered, push.Unknown, push.Unauthorized} {
		if _, again := p.After(notification, 1, push.Outcome{Verdict: v}); again {
			t.Errorf("%v is tried again", v)
		}
	}
}

func TestFCMBulkWaitsTenSeconds(t *testing.T) {
	down := push.Outcome{Verdict: push.Unavailable, Reason: "UNAVAILABLE"}
	early, _ := retry.Policy{Rules: retry.FCMBulk(), Rand: minJitter, Attempts: 9}.After(notification, 1, down)
	late, _ := retry.Policy{Rules: retry.FCMBulk(), Rand: maxJitter, Attempts: 9}.After(notification, 8, down)
	if early != 10*time.Second || late > 70*time.Second || late < 69*time.Second {
		t.Errorf("waits %v to %v, want 10 s to 70 s", early, late)
	}
	if _, again := (retry.Policy{Rules: retry.FCMBulk()}).After(notification, 1, push.Outcome{Verdict: push.Throttled, RetryAfter: time.Minute}); again {
		t.Error("a minute's Retry-After was waited for inside a send")
	}
}

func drawOutcome(t *rapid.T) push.Outcome {
	return push.Outcome{
		Verdict:    push.Verdict(rapid.IntRange(int(push.Unsent), int(push.Expired)).Draw(t, "verdict")),
		RetryAfter: time.Duration(rapid.Int64Range(0, int64(time.Hour)).Draw(t, "retry after")),
		Renewed:    rapid.Bool().Draw(t, "renewed"),
	}
}

func TestAttemptsAndWaitsAreBounded(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		p := retry.Policy{
			Attempts:      rapid.IntRange(1, 12).Draw(t, "attempts"),
			Transient:     time.Duration(rapid.Int64Range(1, int64(time.Minute)).Draw(t, "transient")),
			Throttled:     time.Duration(rapid.Int64Range(1, int64(time.Minute)).Draw(t, "throttled")),
			Cap:           time.Duration(rapid.Int64Range(1, int64(time.Minute)).Draw(t, "cap")),
			MaxRetryAfter: time.Duration(rapid.Int64Range(1, int64(time.Hour)).Draw(t, "max retry after")),
			RetryAfter:    rapid.SampledFrom([]retry.Strategy{"", retry.Comply, retry.Ignore, retry.Stop}).Draw(t, "strategy"),
			Rand:          func() float64 { return rapid.Float64Range(0, 1).Draw(t, "jitter") },
		}
		attempts, total := 0, time.Duration(0)
		for again := true; again; {
			attempts++
			var wait time.Duration
			o := drawOutcome(t)
			wait, again = p.After(rapid.SampledFrom([]*push.Notification{notification, repeatable}).Draw(t, "n"), attempts, o)
			if again && p.RetryAfter != retry.Ignore && o.Verdict == push.Throttled && wait < o.RetryAfter {
				t.Fatalf("waits %v where the provider asked for %v", wait, o.RetryAfter)
			}
			total += wait
		}
		if attempts > p.Attempts {
			t.Fatalf("%d attempts, allowed are %d", attempts, p.Attempts)
		}
		if bound := time.Duration(p.Attempts-1) * (p.MaxRetryAfter + p.Cap); total > bound {
			t.Fatalf("waited %v in all, bound is %v", total, bound)
		}
	})
}
