// SPDX-License-Identifier: Apache-2.0

package history_test

import (
	"context"
	"errors"
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

func TestClaimIsSharedAmongGateways(t *testing.T) {
	first, second := newGatewayPair(t)
	n := newKeyed("key", "body")
	done, _ := first.claim(n, nil)
	if _, _, err := second.Claim(t.Context(), newKeyed("key", "other"), nil); !errors.Is(err, push.ErrKeyReused) {
		t.Error(err)
	}
	receipts := make(chan push.Receipt, 1)
	go func() {
		_, earlier, err := second.Claim(t.Context(), newKeyed("key", "body"), nil)
		if err != nil {
			t.Error(err)
		}
		receipts <- earlier
	}()
	if err := first.AppendAsync(t.Context(), keyedEvent(n, push.StatusQueued), keyedEvent(n, push.StatusSending), keyedEvent(n, push.StatusAccepted)); err != nil {
		t.Fatal(err)
	}
	done()
	if earlier := testwait.For(t, receipts, "receipts"); earlier.ID != n.ID || earlier.Status() != push.StatusAccepted {
		t.Errorf("%+v", earlier)
	}
}

func TestClaimReturnsEndBeforeRelease(t *testing.T) {
	one, two := newGatewayPair(t)
	n := newKeyed("key", "body")
	done, _ := one.claim(n, nil)
	one.appendEvents(keyedEvent(n, push.StatusSending), keyedEvent(n, push.StatusAccepted))
	if done, earlier := two.claim(newKeyed("key", "body"), nil); done != nil || earlier.ID != n.ID || earlier.Status() != push.StatusAccepted {
		t.Errorf("%+v while the other gateway holds the key", earlier)
	}
	done()
}

func TestClaimHeldByOtherGatewayIsBusy(t *testing.T) {
	one, two := newGatewayPair(t)
	done, _ := one.claim(newKeyed("key", "body"), nil)
	claim := func(timeout time.Duration) error {
		ctx, cancel := context.WithTimeout(t.Context(), timeout)
		defer cancel()
		_, _, err := two.Claim(ctx, newKeyed("key", "body"), nil)
		return err
	}
	err := claim(150 * time.Millisecond)
	for timeout := time.Second; errors.Is(err, context.DeadlineExceeded) && !errors.Is(err, push.ErrKeyInUse); timeout *= 2 {
		err = claim(timeout) // the machine was too slow to try even once
	}
	if !errors.Is(err, push.ErrKeyInUse) {
		t.Error(err)
	}
	done() // without an event
	if done, _ := two.claim(newKeyed("key", "body"), nil); done == nil {
		t.Error("a released key is not free")
	}
}

// TestClaimsAreReleasedWhenServerDies ends calls without an event right before each server is
// killed, and starts others after that. The other gateway must be able to claim every key.
func TestClaimsAreReleasedWhenServerDies(t *testing.T) {
	servers := jetstreamtest.NewCluster(t)
	where := servers.Account(t)
	one, two := newFixtureAt(t, where).open(), newFixtureAt(t, where).open()
	var keys []string
	claim := func() (done func()) {
		keys = append(keys, newID())
		done, _, err := one.Claim(t.Context(), newKeyed(keys[len(keys)-1], "body"), nil)
		if err != nil {
			t.Error(err)
			return func() {}
		}
		return done
	}
	for server := range 3 {
		var ends []func()
		for range 200 {
			ends = append(ends, claim())
		}
		for _, end := range ends {
			end()
		}
		servers.Kill(server)
		claim()()
		if err := servers.Start(server); err != nil {
			t.Fatal(err)
		}
	}
	ctx, stop := context.WithTimeout(t.Context(), time.Minute)
	defer stop()
	for _, key := range keys {
		done, _, err := two.Claim(ctx, newKeyed(key, "body"), nil)
		if err != nil {
			t.Fatal(err)
		}
		done()
	}
}

// TestClaimSucceedsAsSoonAsTheCluster kills the leader of the claims while calls claim keys. They
// succeed at about the time at which the cluster accepts other writes.
func TestClaimSucceedsAsSoonAsTheCluster(t *testing.T) {
	servers := jetstreamtest.NewCluster(t)
	where := servers.Account(t)
	h := newFixtureAt(t, where).open()
	for range 3 {
		js := h.engine.JetStream()
		bucket, err := js.KeyValue(t.Context(), "SLUICE_CLAIMS")
		if err != nil {
			t.Fatal(err)
		}
		stream, err := js.Stream(t.Context(), "KV_SLUICE_CLAIMS")
		if err != nil {
			t.Fatal(err)
		}
		leader := int(stream.CachedInfo().Cluster.Leader[len("server")] - '0')
		servers.Kill(leader)
		ctx, stop := context.WithTimeout(t.Context(), 25*time.Second)
		var calls errgroup.Group
		for range 10 {
			calls.Go(func() error {
				done, _, err := h.Claim(ctx, newKeyed(newID(), "body"), nil)
				if err == nil {
					done()
				}
				return err
			})
		}
		testwait.Until(t, func() bool {
			try, done := context.WithTimeout(ctx, 500*time.Millisecond)
			defer done()
			_, err := bucket.Put(try, newID(), nil)
			return err == nil || ctx.Err() != nil
		}, "the cluster accepts a write")
		served := time.Now()
		if err := calls.Wait(); err != nil { // bounded by ctx
			t.Error(err)
		}
		if late := time.Since(served); late > 6*time.Second {
			t.Errorf("the calls took %s longer than another write", late)
		} else {
			t.Logf("the calls took %s longer than another write", late)
		}
		stop()
		if err := servers.Start(leader); err != nil {
			t.Fatal(err)
		}
	}
}

func TestClaimsSurviveLostBucket(t *testing.T) {
	one, two := newGatewayPair(t)
	if one.KeyScope() == "" || one.KeyScope() != two.KeyScope() {
		t.Errorf("the gateways share a history but have the scopes %q and %q", one.KeyScope(), two.KeyScope())
	}
	_, _ = one.claim(newKeyed("key", "body"), nil)
	// A server restart has the same effect if there are no replicas.
	if err := one.engine.JetStream().DeleteKeyValue(t.Context(), "SLUICE_CLAIMS"); err != nil {
		t.Fatal(err)
	}
	for _, key := range []string{"second", "third"} {
		if done, _ := two.claim(newKeyed(key, "body"), nil); done == nil {
			t.Errorf("%s: an unclaimed key is not free", key)
		}
	}
	if _, _, err := one.Claim(t.Context(), newKeyed("third", "other body"), nil); !errors.Is(err, push.ErrKeyReused) {
		t.Errorf("%v: the other gateway has claimed the key with another body", err)
	}
}
