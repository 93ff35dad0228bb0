// SPDX-License-Identifier: Apache-2.0

package queue

import (
	"testing"
	"testing/synctest"
	"time"

	"github.com/sluice-push/sluice/push"
)

func TestPauseDoublesUpToLimit(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var p pause
		if p.limit() != maxRun {
			t.Error("a flow pauses without a failure")
		}
		for _, length := range []time.Duration{minPause, 2 * minPause, 4 * minPause, 8 * minPause, 16 * minPause, maxPause, maxPause} {
			p.extend()
			time.Sleep(length - time.Nanosecond)
			if p.limit() != 0 {
				t.Fatalf("the pause is shorter than %s", length)
			}
			time.Sleep(time.Nanosecond)
			if p.limit() != probeSize {
				t.Fatalf("the pause is longer than %s", length)
			}
			if p.probing = true; p.limit() != 0 {
				t.Fatal("a second probe")
			}
		}
	})
}

func TestSignalOfResult(t *testing.T) {
	for _, c := range []struct {
		outcome push.Outcome
		want    signal
	}{
		{push.Outcome{Verdict: push.Accepted, HTTP: 200}, answered},
		{push.Outcome{Verdict: push.Unregistered, HTTP: 410, Scope: push.ScopeDevice}, answered},
		{push.Outcome{Verdict: push.Refused, HTTP: 400}, answered},
		{push.Outcome{Verdict: push.Unauthorized, HTTP: 403, Scope: push.ScopeCredential}, answered},
		{push.Outcome{Verdict: push.Unauthorized, HTTP: 403, Scope: push.ScopeCredential, Renewed: true}, failed},
		{push.Outcome{Verdict: push.Unsent}, failed},
		{push.Outcome{Verdict: push.Unavailable, Scope: push.ScopeEndpoint}, failed},
		{push.Outcome{Verdict: push.Throttled, Scope: push.ScopeProject}, failed},
		{push.Outcome{Verdict: push.Unknown}, failed},
		{push.Outcome{Verdict: push.Throttled, Scope: push.ScopeDevice}, noSignal},
		{push.Outcome{Verdict: push.Throttled, Scope: push.ScopeTopic}, noSignal},
		{push.Outcome{Verdict: push.Expired}, noSignal},
		{push.Outcome{Verdict: push.Abandoned}, noSignal},
	} {
		if got := signalOf(&c.outcome); got != c.want {
			t.Errorf("%+v: %d, want %d", c.outcome, got, c.want)
		}
	}
}
