// SPDX-License-Identifier: Apache-2.0

package history_test

import (
	"errors"
	"fmt"
	"iter"
	"slices"
	"testing"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/sluice-push/sluice/internal/jetstream"
	"github.com/sluice-push/sluice/internal/jetstream/jetstreamtest"
	"github.com/sluice-push/sluice/internal/testwait"
	"github.com/sluice-push/sluice/push"
)

// newGatewayPair returns the histories of two gateways with the same external server or cluster.
func newGatewayPair(t *testing.T) (one, two *testHistory) {
	t.Helper()
	where := jetstreamtest.Config(t, t.TempDir())
	if !jetstreamtest.OnCluster() {
		where = jetstream.Config{URL: jetstreamtest.StartServer(t)}
	}
	return newFixtureAt(t, where).open(), newFixtureAt(t, where).open()
}

// TestSearchFindsNotificationsOfOtherGateway searches at one gateway for what another one has stored.
func TestSearchFindsNotificationsOfOtherGateway(t *testing.T) {
	one, two := newGatewayPair(t)
	tagged, other := newEvent(newID(), push.StatusAccepted), newEvent(newID(), push.StatusQueued)
	tagged.Tags = []string{"a"}
	one.appendEvents(other)
	one.appendEvents(tagged)
	if err := two.WaitCaughtUp(t.Context()); err != nil {
		t.Fatal(err)
	}
	for tag, want := range map[string][]string{"": {tagged.ID, other.ID}, "a": {tagged.ID}} {
		page, err := two.Search(t.Context(), "shop", push.Query{Tag: tag})
		if err != nil {
			t.Fatal(err)
		}
		var got []string
		for _, n := range page.Notifications {
			got = append(got, n.ID)
		}
		if !slices.Equal(got, want) {
			t.Errorf("tag %q: %q, want %q", tag, got, want)
		}
	}
}

func TestEventsReachOtherGateway(t *testing.T) {
	one, two := newGatewayPair(t)
	for range 20 {
		id := newID()
		if _, err := one.Append(t.Context(), lifecycle(id)...); err != nil {
			t.Fatal(err)
		}
		if err := two.WaitCaughtUp(t.Context()); err != nil {
			t.Fatal(err)
		}
		if receipt, events := two.find("shop", id); receipt.Status() != push.StatusAccepted || len(events) != 3 {
			t.Fatalf("%+v %+v", receipt, events)
		}
	}
}

// TestConcurrentWaitsIncludeEarlierEvents waits with many goroutines, which share requests, each for an
// event that the other gateway appended before.
func TestConcurrentWaitsIncludeEarlierEvents(t *testing.T) {
	one, two := newGatewayPair(t)
	var calls errgroup.Group
	for range 16 {
		calls.Go(func() error {
			for range 20 {
				id := newID()
				if _, err := one.Append(t.Context(), lifecycle(id)...); err != nil {
					return err
				}
				if err := two.WaitCaughtUp(t.Context()); err != nil {
					return err
				}
				if receipt, err := two.Receipt(t.Context(), "shop", id); err != nil || receipt.Status() != push.StatusAccepted {
					return fmt.Errorf("%+v, %w", receipt, err)
				}
			}
			return nil
		})
	}
	if err := calls.Wait(); err != nil { // bounded by the timeout of requests
		t.Error(err)
	}
}

// TestLookupsFailWhileServerIsDown stops the NATS server. Lookups of recent events work, as their messages
// are in memory; those of old ones fail, and work again when the server is back. Feeds continue without a gap.
func TestLookupsFailWhileServerIsDown(t *testing.T) {
	server := jetstreamtest.NewServer(t, t.TempDir())
	h := newFixtureAt(t, jetstream.Config{URL: server.URL}).open()
	old, recent := newID(), newID()
	first := h.appendEvents(lifecycle(old)...)
	var waiting string
	for i := range 100 {
		id := newID()
		h.appendEvents(newEvent(id, push.StatusQueued))
		if i == 50 {
			waiting = id
		}
	}
	h.appendEvents(lifecycle(recent)...)
	cursor := fmt.Sprintf("%d.%d", first.Seq, first.Index)
	next, stop := iter.Pull2(h.Feed(t.Context(), "shop", cursor, nil))
	defer stop()
	if e, err, ok := next(); err != nil || !ok || e.Status != push.StatusQueued {
		t.Errorf("%+v %v", e, err)
	}
	server.Stop()
	if r, events := h.find("shop", recent); r.Status() != push.StatusAccepted || len(events) != 3 {
		t.Errorf("%+v", r)
	}
	failed := make(chan error, 1)
	go func() { _, _, err := h.Find(t.Context(), "shop", waiting); failed <- err }()
	if err := testwait.For(t, failed, "the lookup"); err == nil || errors.Is(err, push.ErrNotFound) {
		t.Errorf("%v, want that the server cannot be reached", err)
	}
	server.Start()
	testwait.Until(t, func() bool {
		r, _, err := h.Find(t.Context(), "shop", waiting)
		return err == nil && r.Status() == push.StatusQueued
	}, "the lookup works again")
	for i := range 99 + 3 {
		if e, err, ok := next(); err != nil || !ok || e.Cursor == "" {
			t.Fatalf("event %d: %+v %v", i, e, err)
		}
	}
}

// TestGatewaysDeleteOldEvents lets one of two gateways delete events. The other one notices it.
func TestGatewaysDeleteOldEvents(t *testing.T) {
	one, two := newGatewayPair(t)
	var ids []string
	for range 40 {
		ids = append(ids, newID())
		one.appendEvents(lifecycle(ids[len(ids)-1])...)
	}
	if err := two.WaitCaughtUp(t.Context()); err != nil {
		t.Fatal(err)
	}
	if _, err := two.firstEvent("1.0"); err != nil {
		t.Error(err)
	}
	for {
		trimmed, err := one.Trim(t.Context(), time.Now())
		if err != nil {
			t.Fatal(err)
		}
		if !trimmed {
			break
		}
	}
	if _, err := two.firstEvent("5.0"); !errors.Is(err, push.ErrCursorExpired) {
		t.Errorf("%v, want that the cursor has expired", err)
	}
	two.waitExpired(ids[0])
}
