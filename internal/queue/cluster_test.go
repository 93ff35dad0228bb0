// SPDX-License-Identifier: Apache-2.0

package queue_test

import (
	"context"
	"testing"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/sluice-push/sluice/internal/history"
	"github.com/sluice-push/sluice/internal/jetstream"
	"github.com/sluice-push/sluice/internal/jetstream/jetstreamtest"
	"github.com/sluice-push/sluice/internal/queue"
	"github.com/sluice-push/sluice/push"
)

// TestClusterLosesNoTaskWhenServerDies kills one of three servers while two gateways accept and
// send notifications.
func TestClusterLosesNoTaskWhenServerDies(t *testing.T) {
	servers := jetstreamtest.NewCluster(t)
	j, s := newMemoryJournal(), newFakeSender()
	s.answer = func(*push.Notification, int) push.Outcome {
		time.Sleep(5 * time.Millisecond)
		return push.Outcome{Verdict: push.Accepted}
	}
	engineConfig, cfg := servers.Account(t), queue.Config{InFlight: 16}
	a, b := openQueueAt(t, engineConfig, j, s, cfg), openQueueAt(t, engineConfig, j, s, cfg)
	var accepted []*push.Notification
	for i := range 60 {
		if i == 20 {
			servers.Kill(0)
		}
		f := []*fixture{a, b}[i%2]
		ns := newNotifications("shop", 10)
		ctx, stop := context.WithTimeout(t.Context(), 30*time.Second)
		for k, err := range f.Accept(ctx, ns) {
			if err == nil {
				accepted = append(accepted, ns[k])
			} else {
				t.Log(err)
			}
		}
		stop()
	}
	j.waitEnded(t, accepted...)
	for _, n := range accepted {
		if r, _ := j.Receipt(t.Context(), "shop", n.ID); s.count(n.ID) > 1 || r.Status() != push.StatusAccepted && r.Reason != "IN_DOUBT" {
			t.Errorf("%s %s, sent %d times: %v", r.Status(), r.Reason, s.count(n.ID), j.statuses(n.ID))
		}
	}
	t.Logf("%d of 600 accepted", len(accepted))
}

// TestGatewaysStartOnEmptyCluster starts two gateways at the same time on a cluster whose servers
// have just been started, several times.
func TestGatewaysStartOnEmptyCluster(t *testing.T) {
	for range 4 {
		servers := jetstreamtest.NewStartingCluster(t)
		engineConfig := servers.Account(t)
		var starts errgroup.Group
		for range 2 {
			starts.Go(func() error {
				e, err := jetstream.Open(t.Context(), engineConfig)
				if err != nil {
					return err
				}
				defer func() { _ = e.Close() }()
				h, err := history.Open(t.Context(), history.Config{Engine: e})
				if err != nil {
					return err
				}
				defer func() { _ = h.Close() }()
				_, err = queue.Open(t.Context(), queue.Config{Engine: e, Journal: historyJournal{h}, Sender: newFakeSender()})
				return err
			})
		}
		if err := starts.Wait(); err != nil { // bounded by the time for the setup
			t.Error(err)
		}
		servers.Stop()
	}
}
