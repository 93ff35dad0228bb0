// SPDX-License-Identifier: Apache-2.0

package broadcast_test

import (
	"context"
	"errors"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/sluice-push/sluice/internal/broadcast"
	"github.com/sluice-push/sluice/internal/testwait"
	"github.com/sluice-push/sluice/push"
)

// limitedQueue accepts a number of notifications, and no more until it is unlimited.
type limitedQueue struct {
	broadcast.Queue
	left      atomic.Int64
	unlimited atomic.Bool
}

func (q *limitedQueue) Accept(ctx context.Context, ns []*push.Notification) []error {
	if q.left.Add(-int64(len(ns))) >= 0 || q.unlimited.Load() {
		return q.Queue.Accept(ctx, ns)
	}
	errs := make([]error, len(ns))
	for i := range errs {
		errs[i] = errors.New("the disk is full")
	}
	return errs
}

func TestStatusOfBroadcasts(t *testing.T) {
	q := &limitedQueue{}
	q.left.Store(1000)
	n := newTestNode(t, nodeConfig{change: func(c *broadcast.Config) {
		q.Queue = c.Queue
		c.Queue = q
	}})
	if all := n.Status(); len(all) != 0 {
		t.Errorf("without broadcasts: %+v", all)
	}
	await := func(what string, reached func(broadcast.Status) bool) {
		t.Helper()
		testwait.Until(t, func() bool {
			all := n.Status()
			return len(all) == 1 && all[0].App == app && reached(all[0])
		}, what)
	}
	n.create(simple, "")
	id := n.create(simple, lines(1600))
	await("drafts", func(s broadcast.Status) bool { return s.States[broadcast.Draft] == 2 && s.Pending+s.Due == 0 })
	n.start(id)
	await("delayed", func(s broadcast.Status) bool {
		return s.States[broadcast.Running] == 1 && s.Delayed == 1 && s.Pending == 600 && s.Due > 0 && s.Enqueued == 1000
	})
	n.do(id, broadcast.Pause)
	await("paused", func(s broadcast.Status) bool {
		return s.States[broadcast.Paused] == 1 && s.Pending == 600 && s.Due+s.Delayed == 0 && len(s.AutoPaused) == 0
	})
	q.unlimited.Store(true)
	n.do(id, broadcast.Resume)
	n.waitState(id, broadcast.Completed)
	await("completed", func(s broadcast.Status) bool {
		return s.States[broadcast.Completed] == 1 && s.Pending+s.Due+s.Delayed == 0 && s.Enqueued == 1600
	})
	if err := n.Delete(t.Context(), app, id, 0); err != nil {
		t.Fatal(err)
	}
	await("deleted", func(s broadcast.Status) bool {
		return s.States[broadcast.Completed] == 0 && s.States[broadcast.Draft] == 1
	})
}

// TestLinesThatAreNotDueAreNotReported has a broadcast that starts later: it waits, and is not stalled.
func TestLinesThatAreNotDueAreNotReported(t *testing.T) {
	n := newTestNode(t, nodeConfig{})
	n.start(n.create(strings.Replace(simple, "{", `{"schedule": {"start_at": "+2h"}, `, 1), lines(10)))
	testwait.Until(t, func() bool {
		all := n.Status()
		return len(all) == 1 && all[0].States[broadcast.Running] == 1 && all[0].Pending == 10
	}, "the broadcast waits")
	if s := n.Status()[0]; s.Due+s.Delayed+s.Enqueued != 0 {
		t.Errorf("%+v", s)
	}
}
