// SPDX-License-Identifier: Apache-2.0

package retry_test

import (
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/sluice-push/sluice/push"
	"github.com/sluice-push/sluice/retry"
)

// maxJitter and minJitter return the largest and the smallest random number.
func maxJitter() float64 { return 1 - 1e-12 }
func minJitter() float64 { return 0 }

var (
	notification = &push.Notification{ID: "a"}
	repeatable   = &push.Notification{ID: "b", OnUnknown: push.RepeatAlways}
	collapsible  = &push.Notification{ID: "c", Platform: push.APNs, Title: "2:1", CollapseKey: "score"}
)

func TestRetryableVerdicts(t *testing.T) {
	for _, c := range []struct {
		name  string
		n     *push.Notification
		o     push.Outcome
		retry bool
	}{
		{"accepted", notification, push.Outcome{Verdict: push.Accepted}, false},
		{"unregistered", notification, push.Outcome{Verdict: push.Unregistered}, false},
		{"refused", notification, push.Outcome{Verdict: push.Refused}, false},
		{"abandoned", notification, push.Outcome{Verdict: push.Abandoned}, false},
		{"expired", notification, push.Outcome{Verdict: push.Expired}, false},
		{"unsent", notification, push.Outcome{Verdict: push.Unsent}, true},
		{"unavailable", notification, push.Outcome{Verdict: push.Unavailable}, true},
		{"throttled", notification, push.Outcome{Verdict: push.Throttled}, true},
		{"unauthorized", notification, push.Outcome{Verdict: push.Unauthorized}, false},
		{"unauthorized, credential renewed", notification, push.Outcome{Verdict: push.Unauthorized, Renewed: true}, true},
		{"unknown, not collapsible", notification, push.Outcome{Verdict: push.Unknown}, false},
		{"unknown, collapsible", collapsible, push.Outcome{Verdict: push.Unknown}, true},
		{"unknown, repeat always", repeatable, push.Outcome{Verdict: push.Unknown}, true},
	} {
		t.Run(c.name, func(t *testing.T) {
			if _, ok := (retry.Policy{}).After(c.n, 1, c.o); ok != c.retry {
				t.Errorf("retry = %v, want %v", ok, c.retry)
			}
		})
	}
}

func TestDefaultIsSixAttempts(t *testing.T) {
	for attempt, want := range map[int]bool{1: true, 2: true, 5: true, 6: false, 7: false} {
		if _, ok := (retry.Policy{}).After(notification, attempt, push.Outcome{Verdict: push.Unavailable}); ok != want {
			t.Errorf("after attempt %d: retry = %v, want %v", attempt, ok, want)
		}
	}
}

func TestSingleAttemptNeverRetries(t *testing.T) {
	if _, ok := (retry.Policy{Attempts: 1}).After(notification, 1, push.Outcome{Verdict: push.Unsent}); ok {
		t.Error("a policy of one attempt allowed a second")
	}
}

func TestNotificationCanOnlyLowerAttempts(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		policy, notification := rapid.IntRange(1, 10).Draw(t, "policy attempts"), rapid.IntRange(0, 10).Draw(t, "notification attempts")
		n := &push.Notification{ID: "a", OnUnknown: push.RepeatAlways, Retry: &push.Retry{Attempts: notification}}
		want := policy
		if notification > 0 {
			want = min(policy, notification)
		}
		o := push.Outcome{Verdict: rapid.SampledFrom([]push.Verdict{push.Unsent, push.Unavailable, push.Unknown}).Draw(t, "verdict")}
		attempts := 1
		for ok := true; ok; attempts++ {
			_, ok = retry.Policy{Attempts: policy}.After(n, attempts, o)
		}
		if attempts-1 != want {
			t.Errorf("%d attempts, want %d", attempts-1, want)
		}
	})
}

func TestUnsentIsRetriedImmediately(t *testing.T) {
	p := retry.Policy{Rand: maxJitter}
	if wait, ok := p.After(notification, 1, push.Outcome{Verdict: push.Unsent}); !ok || wait != 0 {
		t.Errorf("After = %v, %v; want no wait", wait, ok)
	}
}

func TestBackoffDoublesUpToCap(t *testing.T) {
	const slack = time.Microsecond
	for _, c := range []struct {
		verdict push.Verdict
		attempt int
		maxWait time.Duration
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
		if shortest != 0 || longest > c.maxWait || longest < c.maxWait-slack {
			t.Errorf("%v after attempt %d: waits %v to %v, want 0 to %v", c.verdict, c.attempt, shortest, longest, c.maxWait)
		}
	}
}

func TestRetryAfterStrategies(t *testing.T) {
	throttled := push.Outcome{Verdict: push.Throttled, RetryAfter: 3 * time.Second}
	for _, c := range []struct {
		strategy retry.Strategy
		wait     time.Duration
		retry    bool
	}{
		{"", 3 * time.Second, true},
		{retry.Comply, 3 * time.Second, true},
		{retry.Ignore, 0, true},
		{retry.Stop, 0, false},
	} {
		wait, ok := retry.Policy{RetryAfter: c.strategy, Rand: minJitter}.After(notification, 1, throttled)
		if wait != c.wait || ok != c.retry {
			t.Errorf("%q: After = %v, %v; want %v, %v", c.strategy, wait, ok, c.wait, c.retry)
		}
	}
	if _, ok := (retry.Policy{RetryAfter: retry.Stop}).After(notification, 1, push.Outcome{Verdict: push.Throttled}); !ok {
		t.Error("Stop ended a send although the provider set no Retry-After")
	}
}

func TestJitterIsAddedToRetryAfter(t *testing.T) {
	throttled := push.Outcome{Verdict: push.Throttled, RetryAfter: 3 * time.Second}
	early, _ := retry.Policy{Rand: minJitter}.After(notification, 1, throttled)
	late, _ := retry.Policy{Rand: maxJitter}.After(notification, 1, throttled)
	if early < throttled.RetryAfter || late-early < 900*time.Millisecond {
		t.Errorf("waits %v to %v, want at least 900 ms of jitter", early, late)
	}
}

func TestRetryAfterBeyondMaximumEndsSend(t *testing.T) {
	for retryAfter, want := range map[time.Duration]bool{20 * time.Second: true, 20*time.Second + 1: false, time.Hour: false} {
		o := push.Outcome{Verdict: push.Unavailable, RetryAfter: retryAfter}
		if _, ok := (retry.Policy{}).After(notification, 1, o); ok != want {
			t.Errorf("Retry-After %v: retry = %v, want %v", retryAfter, ok, want)
		}
	}
	if _, ok := (retry.Policy{MaxRetryAfter: time.Hour}).After(notification, 1, push.Outcome{Verdict: push.Throttled, RetryAfter: time.Hour}); !ok {
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
		retry bool
	}{
		{push.Outcome{Verdict: push.Unavailable, Reason: "Shutdown"}, 2 * time.Second, true},
		{push.Outcome{Verdict: push.Unavailable, Reason: "InternalServerError"}, 0, false},
		{push.Outcome{Verdict: push.Throttled, Reason: "Shutdown"}, 0, false},
		{push.Outcome{Verdict: push.Throttled, Reason: "TooManyRequests"}, 0, true},
	} {
		if wait, ok := p.After(notification, 1, c.o); wait != c.wait || ok != c.retry {
			t.Errorf("%v %s: After = %v, %v; want %v, %v", c.o.Verdict, c.o.Reason, wait, ok, c.wait, c.retry)
		}
	}
}

func TestRulesCannotAllowForbiddenRetries(t *testing.T) {
	p := retry.Policy{Rules: []retry.Rule{{Base: time.Second}}}
	for _, v := range []push.Verdict{push.Accepted, push.Refused, push.Unregistered, push.Unknown, push.Unauthorized} {
		if _, ok := p.After(notification, 1, push.Outcome{Verdict: v}); ok {
			t.Errorf("%v is retried", v)
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
	if _, ok := (retry.Policy{Rules: retry.FCMBulk()}).After(notification, 1, push.Outcome{Verdict: push.Throttled, RetryAfter: time.Minute}); ok {
		t.Error("a Retry-After of a minute did not end the send")
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
		for ok := true; ok; {
			attempts++
			var wait time.Duration
			o := drawOutcome(t)
			wait, ok = p.After(rapid.SampledFrom([]*push.Notification{notification, repeatable}).Draw(t, "n"), attempts, o)
			if ok && p.RetryAfter != retry.Ignore && o.Verdict == push.Throttled && wait < o.RetryAfter {
				t.Fatalf("waits %v, less than the Retry-After %v", wait, o.RetryAfter)
			}
			total += wait
		}
		if attempts > p.Attempts {
			t.Fatalf("%d attempts, want at most %d", attempts, p.Attempts)
		}
		if limit := time.Duration(p.Attempts-1) * (p.MaxRetryAfter + p.Cap); total > limit {
			t.Fatalf("waited %v in total, want at most %v", total, limit)
		}
	})
}
