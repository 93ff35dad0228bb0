// SPDX-License-Identifier: Apache-2.0

package queue_test

import (
	"context"
	"testing"
	"time"

	"github.com/sluice-push/sluice/internal/jetstream/jetstreamtest"
	"github.com/sluice-push/sluice/internal/queue"
	"github.com/sluice-push/sluice/push"
)

// TestClusterLosesNoTaskWhenServerDies kills one of three while notifications are accepted and sent, and has two
// gateways share the work.
func TestClusterLosesNoTaskWhenServerDies(t *testing.T) {
	servers := jetstreamtest.NewCluster(t)
	j, s := newMemoryJournal(), newFakeSender()
	s.answer = func(*push.Notification, int) push.Outcome {
		time.Sleep(5 * time.Millisecond)
		return push.Outcome{Verdict: push.Accepted}
	}
	where, cfg := servers.Account(t), queue.Config{InFlight: 16}
	a, b := openQueueAt(t, where, j, s, cfg), openQueueAt(t, where, j, s, cfg)
	var kept []*push.Notification
	for i := range 60 {
		if i == 20 {
			servers.Kill(0)
		}
		h := []*fixture{a, b}[i%2]
		ns := newNotifications("shop", 10)
		ctx, stop := context.WithTimeout(t.Context(), 30*time.Second)
		for k, err := range h.Accept(ctx, ns) {
			if err == nil {
				kept = append(kept, ns[k])
			} else {
				t.Log(err)
			}
		}
		stop()
	}
	j.waitEnded(t, kept...)
	for _, n := range kept {
		if r, _ := j.Receipt(t.Context(), "shop", n.ID); s.count(n.ID) > 1 || r.Status() != push.StatusAccepted && r.Reason != "IN_DOUBT" {
			t.Errorf("%s %s, sent %d times: %v", r.Status(), r.Reason, s.count(n.ID), j.statuses(n.ID))
		}
	}
	t.Logf("%d of 600 were accepted", len(kept))
}
