// SPDX-License-Identifier: Apache-2.0

package queue_test

import (
	"context"
	"errors"
	"fmt"
	"math"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sync/errgroup"

	"github.com/sluice-push/sluice/internal/history"
	"github.com/sluice-push/sluice/internal/jetstream"
	"github.com/sluice-push/sluice/internal/jetstream/jetstreamtest"
	"github.com/sluice-push/sluice/internal/queue"
	"github.com/sluice-push/sluice/internal/record"
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
	a, b := openQueueAt(t, engineConfig, t.TempDir(), j, s, cfg), openQueueAt(t, engineConfig, t.TempDir(), j, s, cfg)
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
				log, err := history.OpenLog(t.Context(), e, "")
				if err != nil {
					return err
				}
				h, err := history.Open(t.Context(), history.Config{Engine: e, Log: log})
				if err != nil {
					return err
				}
				defer func() { _ = h.Close() }()
				_, err = queue.Open(t.Context(), queue.Config{Engine: e, Log: log, Journal: historyJournal{h}, Sender: newFakeSender()})
				return err
			})
		}
		if err := starts.Wait(); err != nil { // bounded by the time for the setup
			t.Error(err)
		}
		servers.Stop()
	}
}

// openPair opens two gateways of a cluster, which share a journal. A gateway with an hour until another one is
// lost never says that it is alive.
func openPair(t *testing.T, j *memoryJournal, a, b queue.Config, sa, sb *fakeSender) (one, two *fixture) {
	t.Helper()
	engineConfig := jetstreamtest.Config(t, t.TempDir())
	if !jetstreamtest.OnCluster() {
		engineConfig = jetstream.Config{URL: jetstreamtest.StartServer(t)}
	}
	return openQueueAt(t, engineConfig, t.TempDir(), j, sa, a), openQueueAt(t, engineConfig, t.TempDir(), j, sb, b)
}

// TestTaskStartedByTwoGatewaysIsSentOnce makes each of two gateways believe that the other one is dead, so
// that both start the same tasks.
func TestTaskStartedByTwoGatewaysIsSentOnce(t *testing.T) {
	j, sa, sb := newMemoryJournal(), newFakeSender(), newFakeSender()
	sb.answer = func(n *push.Notification, attempt int) push.Outcome {
		if n.Title == "retry" && sa.count(n.ID)+attempt == 1 {
			return push.Outcome{Verdict: push.Unavailable}
		}
		return push.Outcome{Verdict: push.Accepted}
	}
	sa.answer = func(n *push.Notification, attempt int) push.Outcome {
		if n.Title == "retry" && sb.count(n.ID)+attempt == 1 {
			return push.Outcome{Verdict: push.Unavailable}
		}
		return push.Outcome{Verdict: push.Accepted}
	}
	a, b := openPair(t, j, queue.Config{InFlight: 64, LostAfter: time.Hour}, queue.Config{InFlight: 64, LostAfter: 30 * time.Millisecond}, sa, sb)
	var all []*push.Notification
	for round := range 20 {
		ns := newNotifications("shop", 100)
		for i, n := range ns {
			switch i % 10 {
			case 0:
				n.SendAt = n.AcceptedAt.Add(time.Duration(round) * 50 * time.Millisecond)
			case 1:
				n.Title = "retry"
			}
		}
		a.accept(t, ns...)
		all = append(all, ns...)
	}
	j.waitEnded(t, all...)
	for _, n := range all {
		want := 1
		if n.Title == "retry" {
			want = 2
		}
		if sent := sa.count(n.ID) + sb.count(n.ID); sent != want {
			t.Errorf("sent %d times, want %d: %v", sent, want, j.statuses(n.ID))
		}
	}
	if sa.sentCount() == 0 || sb.sentCount() == 0 {
		t.Errorf("%d sent by one gateway, %d by the other", sa.sentCount(), sb.sentCount())
	}
	for _, f := range []*fixture{a, b} {
		testwait.Until(t, func() bool {
			s, err := f.Status(t.Context())
			return err == nil && s.Bytes == 0 && s.LaterBytes == 0 && len(s.Waiting) == 0
		}, "no task waits")
	}
	t.Logf("%d sent by one gateway, %d by the other", sa.sentCount(), sb.sentCount())
}

// TestTasksOfDeadGatewayAreTakenOver lets a gateway die amid an attempt. Another one sends the other tasks,
// also those that are scheduled. The attempt is in doubt.
func TestTasksOfDeadGatewayAreTakenOver(t *testing.T) {
	for onUnknown, want := range map[push.OnUnknown][]push.Status{
		push.RepeatNever:  {push.StatusQueued, push.StatusSending, push.StatusUnknown},
		push.RepeatAlways: {push.StatusQueued, push.StatusSending, push.StatusSending, push.StatusAccepted},
	} {
		t.Run(string(onUnknown), func(t *testing.T) {
			t.Parallel()
			j, sa, sb := newMemoryJournal(), newFakeSender(), newFakeSender()
			release := sa.block()
			defer release()
			a, _ := openPair(t, j, queue.Config{InFlight: 1, LostAfter: time.Hour}, queue.Config{LostAfter: 300 * time.Millisecond, SettleTime: 900 * time.Millisecond}, sa, sb)
			sending := newNotification("shop")
			sending.OnUnknown = onUnknown
			a.accept(t, sending)
			sa.waitSent(t, sending)
			ns := newNotifications("shop", 200)
			for i, n := range ns[:50] {
				n.SendAt = n.AcceptedAt.Add(time.Duration(i) * 20 * time.Millisecond)
			}
			a.accept(t, ns...)
			j.waitEnded(t, append(ns, sending)...)
			for _, n := range ns {
				if at := sb.times[n.ID]; len(at) != 1 || at[0].Before(n.SendAt) {
					t.Errorf("due at %s, sent at %s", n.SendAt, at)
				}
			}
			if diff := cmp.Diff(want, j.statuses(sending.ID)); diff != "" {
				t.Error(diff)
			}
		})
	}
}

// TestSendsOfDeadGatewayAreEnded appends the attempts of synchronous sends with keys of a gateway that dies.
func TestSendsOfDeadGatewayAreEnded(t *testing.T) {
	j, s := newMemoryJournal(), newFakeSender()
	a, _ := openPair(t, j, queue.Config{LostAfter: time.Hour}, queue.Config{LostAfter: 100 * time.Millisecond, SettleTime: 300 * time.Millisecond}, s, s)
	for range 3 {
		dead, alive := newNotification("shop"), newNotification("shop")
		var records []jetstream.Record
		add := func(n *push.Notification, status push.Status, receipt *push.Receipt) {
			t.Helper()
			e := acceptedEvent(n)
			e.Status, e.Receipt = status, receipt
			if receipt == nil {
				e.Attempt = 1
			}
			r, err := record.FromEvent(&e)
			if err != nil {
				t.Fatal(err)
			}
			data, err := r.Append(nil)
			if err != nil {
				t.Fatal(err)
			}
			records = append(records, jetstream.Record{Data: data})
		}
		add(alive, push.StatusSending, nil)
		add(alive, push.StatusAccepted, &push.Receipt{ID: alive.ID, Outcome: push.Outcome{Verdict: push.Accepted}})
		add(dead, push.StatusSending, nil)
		if _, err := a.log.Append(t.Context(), records...); err != nil {
			t.Fatal(err)
		}
		j.waitEnded(t, dead)
		for n, want := range map[*push.Notification][]push.Status{dead: {push.StatusSending, push.StatusUnknown}, alive: {push.StatusSending, push.StatusAccepted}} {
			if diff := cmp.Diff(want, j.statuses(n.ID)); diff != "" {
				t.Error(diff)
			}
		}
	}
}

// TestRestartedGatewayKnowsItsAttempts starts a gateway again that died amid an attempt. It does not wait
// until the attempt is settled.
func TestRestartedGatewayKnowsItsAttempts(t *testing.T) {
	engineConfig, dir, j, s := jetstream.Config{URL: jetstreamtest.StartServer(t)}, t.TempDir(), newMemoryJournal(), newFakeSender()
	release := s.block()
	defer release()
	a := openQueueAt(t, engineConfig, dir, j, s, queue.Config{InFlight: 2, LostAfter: time.Hour, SettleTime: time.Hour})
	never, always, waiting := newNotification("shop"), newNotification("shop"), newNotification("shop")
	always.OnUnknown = push.RepeatAlways
	a.accept(t, never, always, waiting)
	s.waitSent(t, never, always)
	if err := a.log.Close(); err != nil { // as the system does when a process is killed
		t.Fatal(err)
	}
	restarted := newFakeSender()
	openQueueAt(t, engineConfig, dir, j, restarted, queue.Config{LostAfter: time.Hour, SettleTime: time.Hour})
	j.waitEnded(t, never, always, waiting)
	if r, err := j.Receipt(t.Context(), "shop", never.ID); err != nil || r.Reason != "IN_DOUBT" || restarted.count(never.ID) != 0 {
		t.Errorf("%+v %v", r, err)
	}
	if restarted.count(always.ID) != 1 || restarted.count(waiting.ID) != 1 {
		t.Error("not sent again")
	}
}

// TestDirectoryHasOneGateway opens the directory of a gateway that is running.
func TestDirectoryHasOneGateway(t *testing.T) {
	engineConfig, dir := jetstream.Config{URL: jetstreamtest.StartServer(t)}, t.TempDir()
	f := openQueueAt(t, engineConfig, dir, newMemoryJournal(), newFakeSender(), queue.Config{})
	if _, err := history.OpenLog(t.Context(), f.engine, dir); !errors.Is(err, jetstream.ErrLocked) {
		t.Error(err)
	}
}

// TestDrainingGatewayGivesItsTasksAway drains a gateway with waiting tasks. Another one sends them, although
// the first one is alive.
func TestDrainingGatewayGivesItsTasksAway(t *testing.T) {
	j, sa, sb := newMemoryJournal(), newFakeSender(), newFakeSender()
	release := sa.block()
	defer release()
	a, _ := openPair(t, j, queue.Config{InFlight: 1, LostAfter: time.Minute}, queue.Config{LostAfter: time.Minute}, sa, sb)
	sending, ns := newNotification("shop"), newNotifications("shop", 100)
	a.accept(t, sending)
	sa.waitSent(t, sending)
	a.accept(t, ns...)
	a.Drain()
	j.waitEnded(t, ns...)
	release()
	j.waitEnded(t, sending)
	if sa.sentCount() != 1 || sb.sentCount() != 100 {
		t.Errorf("%d sent by the gateway that drains, %d by the other", sa.sentCount(), sb.sentCount())
	}
}

// TestIdleGatewayHelps gives a gateway more tasks than it can send. An idle one sends those at the end.
func TestIdleGatewayHelps(t *testing.T) {
	j, sa, sb := newMemoryJournal(), newFakeSender(), newFakeSender()
	release := sa.block()
	defer release()
	cfg := queue.Config{InFlight: 8, LostAfter: 600 * time.Millisecond, SettleTime: time.Hour}
	a, _ := openPair(t, j, cfg, cfg, sa, sb)
	ns := newNotifications("shop", 500)
	for group := range slices.Chunk(ns, 50) {
		a.accept(t, group...)
	}
	sb.waitSentCount(t, 500-8-8-50) // what is too few to need help may be in one message
	release()
	j.waitEnded(t, ns...)
	for _, n := range ns {
		if sent := sa.count(n.ID) + sb.count(n.ID); sent != 1 {
			t.Errorf("sent %d times", sent)
		}
	}
	t.Logf("%d sent by the other gateway", sb.sentCount())
}

// TestCancelAtOtherGateway cancels notifications at one gateway that another one sends. Each is either
// cancelled or sent, as the receipt says.
func TestCancelAtOtherGateway(t *testing.T) {
	j, s := newMemoryJournal(), newFakeSender()
	a, b := openPair(t, j, queue.Config{InFlight: 8}, queue.Config{InFlight: 8}, s, s)
	ns := newNotifications("shop", 1000)
	receipts := make([]push.Receipt, len(ns))
	a.accept(t, ns...)
	var cancels sync.WaitGroup
	for caller := range 4 {
		cancels.Go(func() {
			for i := len(ns) - 1 - caller; i >= 0; i -= 4 {
				var err error
				if receipts[i], err = b.Cancel(t.Context(), "shop", ns[i].ID); err != nil {
					t.Error(err)
				}
			}
		})
	}
	testwait.Call(t, cancels.Wait, "the end of all cancellations")
	j.waitEnded(t, ns...)
	cancelled := 0
	for i, n := range ns {
		sent, is := s.count(n.ID), receipts[i].Status() == push.StatusCancelled
		if is {
			cancelled++
		}
		if is == (sent == 1) || sent > 1 {
			t.Errorf("Cancel returned %s, and the notification was sent %d times: %v", receipts[i].Status(), sent, j.statuses(n.ID))
		}
	}
	t.Logf("%d cancelled", cancelled)
}

// TestRetentionKeepsTasksOfOtherGateways deletes what a gateway does not need. The task of another one stays,
// until it can be written again, because that one drains.
func TestRetentionKeepsTasksOfOtherGateways(t *testing.T) {
	j, s := newMemoryJournal(), newFakeSender()
	a, b := openPair(t, j, queue.Config{LostAfter: time.Minute}, queue.Config{LostAfter: time.Minute}, s, s)
	ended, scheduled, after := newNotification("shop"), newNotification("shop"), newNotification("shop")
	scheduled.SendAt = scheduled.AcceptedAt.Add(3 * time.Second)
	a.accept(t, ended)
	j.waitEnded(t, ended)
	a.accept(t, scheduled)
	a.accept(t, after)
	j.waitEnded(t, after)
	if err := b.log.CatchUp(t.Context()); err != nil {
		t.Fatal(err)
	}
	var task uint64
	if _, err := fmt.Sscanf(j.eventsOf(scheduled.ID)[0].Cursor, "%d.", &task); err != nil {
		t.Fatal(err)
	}
	if err := b.log.Rewrite(t.Context(), math.MaxUint64, 1<<20); err != nil {
		t.Fatal(err)
	}
	if got := b.log.Deletable(math.MaxUint64); got != task {
		t.Errorf("messages before %d can be deleted, want %d", got, task)
	}
	if err := b.log.Delete(t.Context(), b.log.LastSeq()+1); err != nil {
		t.Fatal(err)
	}
	if _, err := b.log.Read(t.Context(), task); err != nil {
		t.Error(err)
	}
	a.Drain()
	testwait.Until(t, func() bool {
		if err := b.log.Rewrite(t.Context(), math.MaxUint64, 1<<20); err != nil {
			t.Fatal(err)
		}
		return b.log.Deletable(math.MaxUint64) > task
	}, "the task is written again")
	if err := b.log.Delete(t.Context(), b.log.LastSeq()); err != nil {
		t.Fatal(err)
	}
	j.waitEnded(t, scheduled)
	if at := s.times[scheduled.ID]; len(at) != 1 || at[0].Before(scheduled.SendAt) {
		t.Errorf("due at %s, sent at %s", scheduled.SendAt, at)
	}
}
