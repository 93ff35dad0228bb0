// SPDX-License-Identifier: Apache-2.0

package queue_test

import (
	"context"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sync/errgroup"

	"github.com/sluice-push/sluice/internal/history"
	"github.com/sluice-push/sluice/internal/jetstream"
	"github.com/sluice-push/sluice/internal/jetstream/jetstreamtest"
	"github.com/sluice-push/sluice/internal/queue"
	"github.com/sluice-push/sluice/internal/testwait"
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
		if r, _ := j.Receipt(t.Context(), "shop", n.ID); s.count(n.ID) > 1 || r.Status() != push.StatusAccepted {
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

// signallingJournal sends a value when States was called.
type signallingJournal struct {
	*memoryJournal
	read chan struct{}
}

func (j signallingJournal) States(ctx context.Context, ids []string) (map[string]queue.State, error) {
	defer func() {
		select {
		case j.read <- struct{}{}:
		default:
		}
	}()
	return j.memoryJournal.States(ctx, ids)
}

// othersAttempt accepts a notification whose first attempt another gateway has recorded, and opens a
// gateway that finds its task.
func othersAttempt(t *testing.T, onUnknown push.OnUnknown, settleTime time.Duration) (f *fixture, n *push.Notification, read <-chan struct{}) {
	engineConfig, j := jetstream.Config{URL: jetstreamtest.StartServer(t)}, signallingJournal{newMemoryJournal(), make(chan struct{}, 1)}
	n = newNotification("shop")
	n.OnUnknown = onUnknown
	other := openQueueAt(t, engineConfig, j.memoryJournal, newFakeSender(), queue.Config{})
	other.Drain()
	other.accept(t, n)
	sending := acceptedEvent(n)
	sending.Status, sending.Attempt = push.StatusSending, 1
	if _, err := j.Append(t.Context(), sending); err != nil {
		t.Fatal(err)
	}
	return openQueueOn(t, engineConfig, false, j, j.memoryJournal, newFakeSender(), queue.Config{SettleTime: settleTime}), n, j.read
}

// TestGatewayWaitsForEndOfOthersAttempt delivers a task to a gateway while another one sends it. The
// message was redelivered although both are alive, for instance because NATS elected a leader.
func TestGatewayWaitsForEndOfOthersAttempt(t *testing.T) {
	for _, onUnknown := range []push.OnUnknown{push.RepeatNever, push.RepeatAlways} {
		t.Run(string(onUnknown), func(t *testing.T) {
			t.Parallel()
			f, n, read := othersAttempt(t, onUnknown, time.Hour)
			testwait.For(t, read, "the state of the task is read")
			end := acceptedEvent(n)
			end.Status, end.Receipt = push.StatusAccepted, &push.Receipt{ID: n.ID, Outcome: push.Outcome{Verdict: push.Accepted}}
			if _, err := f.journal.Append(t.Context(), end); err != nil {
				t.Fatal(err)
			}
			testwait.Until(t, func() bool {
				s, err := f.Status(t.Context())
				return err == nil && len(s.Waiting) == 0
			}, "the acknowledgement")
			want := []push.Status{push.StatusQueued, push.StatusSending, push.StatusAccepted}
			if diff := cmp.Diff(want, f.journal.statuses(n.ID)); diff != "" || f.sender.sentCount() != 0 {
				t.Errorf("sent %d times: %s", f.sender.sentCount(), diff)
			}
		})
	}
}

// TestAttemptOfDeadGatewayIsInDoubt delivers a task whose gateway died during an attempt.
func TestAttemptOfDeadGatewayIsInDoubt(t *testing.T) {
	for onUnknown, want := range map[push.OnUnknown][]push.Status{
		push.RepeatNever:  {push.StatusQueued, push.StatusSending, push.StatusUnknown},
		push.RepeatAlways: {push.StatusQueued, push.StatusSending, push.StatusSending, push.StatusAccepted},
	} {
		t.Run(string(onUnknown), func(t *testing.T) {
			t.Parallel()
			f, n, _ := othersAttempt(t, onUnknown, 10*time.Millisecond)
			f.journal.waitEnded(t, n)
			if diff := cmp.Diff(want, f.journal.statuses(n.ID)); diff != "" {
				t.Error(diff)
			}
		})
	}
}
