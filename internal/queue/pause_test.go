// SPDX-License-Identifier: Apache-2.0

package queue_test

import (
	"slices"
	"sync/atomic"
	"testing"
	"time"

	"github.com/sluice-push/sluice/internal/queue"
	"github.com/sluice-push/sluice/push"
)

// TestFlowPausesDuringOutage has an outage of one platform that lasts until three probes have failed.
func TestFlowPausesDuringOutage(t *testing.T) {
	const first, probe, count = 40, 8, 400
	s := newFakeSender()
	var attempts atomic.Int32
	s.answer = func(n *push.Notification, _ int) push.Outcome {
		if n.Platform == push.APNs && attempts.Add(1) <= first+3*probe {
			return push.Outcome{Verdict: push.Unavailable, HTTP: 503}
		}
		return push.Outcome{Verdict: push.Accepted, HTTP: 200}
	}
	f := openQueue(t, t.TempDir(), newMemoryJournal(), s, queue.Config{InFlight: first})
	failing, others := newNotifications("shop", count), newNotifications("shop", count)
	for _, n := range others {
		n.Platform = push.FCM
	}
	f.accept(t, append(slices.Clone(failing), others...)...)
	f.journal.waitEnded(t, others...) // they do not wait for the first probe to succeed
	f.journal.waitEnded(t, failing...)
	var times []time.Time
	for _, n := range failing {
		times = append(times, s.times[n.ID]...)
	}
	slices.SortFunc(times, time.Time.Compare)
	if len(times) != count+first+3*probe {
		t.Fatalf("%d attempts", len(times))
	}
	for i, pause := range []time.Duration{250 * time.Millisecond, 500 * time.Millisecond, time.Second} {
		start, before := first+i*probe, first+i*probe-1
		if i == 0 {
			before = 0 // the first failure starts the pause
		}
		if waited := times[start].Sub(times[before]); waited < pause {
			t.Errorf("attempt %d started %s after attempt %d, want at least %s", start, waited, before, pause)
		}
	}
}
