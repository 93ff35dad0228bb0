// SPDX-License-Identifier: Apache-2.0

package broadcast_test

import (
	"errors"
	"strings"
	"testing"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/sluice-push/sluice/internal/broadcast"
	"github.com/sluice-push/sluice/internal/strictjson"
	"github.com/sluice-push/sluice/internal/testwait"
)

// TestExpiredBroadcastDoesNotStart creates a broadcast that has expired, and starts one that expires meanwhile.
func TestExpiredBroadcastDoesNotStart(t *testing.T) {
	n := newTestNode(t, nodeConfig{})
	expiring := func(at time.Time) string {
		return strings.Replace(simple, "{", `{"schedule": {"expires_at": "`+at.Format(time.RFC3339Nano)+`"}, `, 1)
	}
	_, err := n.Create(t.Context(), app, "creator", definition(t, expiring(time.Now().Add(-time.Second))))
	if e, ok := errors.AsType[*strictjson.Error](err); !ok || e.Field != "schedule.expires_at" {
		t.Errorf("%v", err)
	}
	end := time.Now().Add(500 * time.Millisecond)
	id := n.create(expiring(end), lines(1))
	n.do(id, broadcast.Validate)
	n.waitState(id, broadcast.Ready)
	testwait.Until(t, func() bool { return time.Now().After(end) }, "it has expired")
	_, err = n.Do(t.Context(), app, id, broadcast.CommandRequest{Command: broadcast.Start})
	if conflict, ok := errors.AsType[*broadcast.ConflictError](err); !ok || !strings.Contains(conflict.Detail, "expires_at") || n.sender.attempts() > 0 {
		t.Errorf("%v, want a conflict", err)
	}
	if _, err := n.Replace(t.Context(), app, "creator", id, 0, definition(t, simple)); err != nil {
		t.Fatal(err)
	}
	n.start(id)
	n.waitState(id, broadcast.Completed)
}

// TestStartsAtTheSameTime starts a broadcast several times at once.
func TestStartsAtTheSameTime(t *testing.T) {
	n := newTestNode(t, nodeConfig{})
	id := n.create(simple, lines(100))
	n.do(id, broadcast.Validate)
	n.waitState(id, broadcast.Ready)
	var starts errgroup.Group
	for range 8 {
		starts.Go(func() error {
			_, err := n.Do(t.Context(), app, id, broadcast.CommandRequest{Command: broadcast.Start})
			if errors.Is(err, broadcast.ErrChanged) { // the others were first
				return nil
			}
			return err
		})
	}
	testwait.Call(t, func() {
		if err := starts.Wait(); err != nil {
			t.Error(err)
		}
	}, "all starts have a response")
	n.waitState(id, broadcast.Completed)
	for name, attempts := range n.sender.counted() {
		if attempts != 1 {
			t.Errorf("%s: %d attempts", name, attempts)
		}
	}
}
