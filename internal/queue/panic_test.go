// SPDX-License-Identifier: Apache-2.0

package queue_test

import (
	"bytes"
	"context"
	"errors"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/sluice-push/sluice/internal/audit"
	"github.com/sluice-push/sluice/internal/history"
	"github.com/sluice-push/sluice/internal/jetstream"
	"github.com/sluice-push/sluice/internal/jetstream/jetstreamtest"
	"github.com/sluice-push/sluice/internal/queue"
	"github.com/sluice-push/sluice/internal/testwait"
	"github.com/sluice-push/sluice/push"
)

// lockedBuffer is a log that can be read while it is written.
type lockedBuffer struct {
	mu   sync.Mutex
	text bytes.Buffer
}

func (b *lockedBuffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.text.Write(p)
}

func (b *lockedBuffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.text.String()
}

// panickingSender panics for the notifications of shop: before the attempt is recorded if the title is
// "early", and otherwise in the attempt.
type panickingSender struct{ *fakeSender }

func (s panickingSender) Send(ctx context.Context, n *push.Call) *push.Receipt {
	if n.App == "shop" && n.Title == "early" {
		panic("SECRET")
	}
	return s.fakeSender.Send(ctx, n)
}

func (s panickingSender) SendAll(ctx context.Context, calls []*push.Call, ended func([]*push.Call)) {
	push.SendEach(ctx, calls, ended, s.Send)
}

// TestPanicCountsAsUnknownAttempt sends notifications whose attempts panic each time. Each ends as after
// unknown results, the audit is clean, and those of another app are sent.
func TestPanicCountsAsUnknownAttempt(t *testing.T) {
	t.Parallel()
	engineConfig, text := jetstreamtest.Config(t, t.TempDir()), new(lockedBuffer)
	engineConfig.Reserve = -1
	s := newFakeSender()
	s.answer = func(n *push.Notification, _ int) push.Outcome {
		if n.App == "shop" {
			panic("SECRET")
		}
		return push.Outcome{Verdict: push.Accepted}
	}
	var e *jetstream.Engine
	var log *jetstream.Log
	var h *history.History
	var q *queue.Queue
	jetstreamtest.Retry(t, engineConfig, func() (err error) {
		if e, err = jetstream.Open(t.Context(), engineConfig); err != nil {
			return err
		}
		cfg := queue.Config{Engine: e, InFlight: 1, Sender: panickingSender{s}, Logger: slog.New(slog.NewTextHandler(text, nil))} // each is logged
		if log, err = history.OpenLog(t.Context(), e, ""); err != nil {
			return errors.Join(err, e.Close())
		}
		cfg.Log = log
		if h, err = history.Open(t.Context(), history.Config{Engine: e, Log: log}); err != nil {
			return errors.Join(err, e.Close())
		}
		cfg.Journal = historyJournal{h}
		q, err = queue.Open(t.Context(), cfg)
		return err
	})
	ctx, cancel := context.WithCancel(context.Background())
	historyEnded := make(chan error, 1)
	go func() { historyEnded <- h.Run(ctx) }()
	f := runQueue(t, e, log, q, nil, s)
	t.Cleanup(func() { // before the engine is closed
		f.Drain()
		cancel()
		if err := errors.Join(testwait.For(t, historyEnded, "the end of the history"), h.Close()); err != nil {
			t.Error(err)
		}
	})

	early, never, always, other := newNotification("shop"), newNotification("shop"), newNotification("shop"), newNotification("news")
	early.Title, always.OnUnknown, always.Retry = "early", push.RepeatAlways, &push.Retry{Attempts: 2}
	f.accept(t, early, never, always, other)
	for n, want := range map[*push.Notification][]push.Status{
		other:  {push.StatusQueued, push.StatusSending, push.StatusAccepted},
		early:  {push.StatusQueued, push.StatusSending, push.StatusUnknown},
		never:  {push.StatusQueued, push.StatusSending, push.StatusUnknown},
		always: {push.StatusQueued, push.StatusSending, push.StatusQueued, push.StatusSending, push.StatusUnknown},
	} {
		var r push.Receipt
		var events []push.Event
		testwait.Until(t, func() (ended bool) {
			var err error
			r, events, err = h.Find(t.Context(), n.App, n.ID)
			return err == nil && r.IsFinal()
		}, "the end")
		var got []push.Status
		for _, e := range events {
			got = append(got, e.Status)
		}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Error(diff)
		}
		if attempts := len(slices.DeleteFunc(want, func(s push.Status) bool { return s != push.StatusSending })); len(r.Attempts) != attempts {
			t.Errorf("%d attempts in the receipt, want %d", len(r.Attempts), attempts)
		}
		if n.App == "shop" && r.Reason != "QUEUE_PANIC" {
			t.Errorf("%+v", r)
		}
	}
	if text := text.String(); strings.Count(text, "background task panicked") != 4 || !strings.Contains(text, "panic_test.go") || strings.Contains(text, "SECRET") {
		t.Errorf("log: %s", text)
	}
	var report *audit.Report
	testwait.Until(t, func() bool { // the task of the last end is acknowledged after the end
		jetstreamtest.Retry(t, engineConfig, func() (err error) {
			report, err = audit.Run(t.Context(), e, audit.Config{Events: history.Stream, Queues: queue.Streams()})
			return err
		})
		return report.Waiting == 0
	}, "no task waits")
	if !report.Clean() || len(report.Findings) > 0 {
		t.Errorf("%+v", report)
	}
}
