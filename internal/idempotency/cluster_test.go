// SPDX-License-Identifier: Apache-2.0

package idempotency_test

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

// newGatewayPair returns the keys of two gateways with the same external server or cluster.
func newGatewayPair(t *testing.T) (one, two *testLog) {
	t.Helper()
	where := jetstreamtest.Config(t, t.TempDir())
	if !jetstreamtest.OnCluster() {
		where = jetstream.Config{URL: jetstreamtest.StartServer(t)}
	}
	return newFixtureAt(t, where).open(), newFixtureAt(t, where).open()
}

func TestClaimIsSharedAmongGateways(t *testing.T) {
	first, second := newGatewayPair(t)
	n := newKeyed("key", "body")
	release, _ := first.claim(n)
	if _, _, err := second.Claim(t.Context(), newKeyed("key", "other")); !errors.Is(err, push.ErrKeyReused) {
		t.Error(err)
	}
	receipts := make(chan push.Receipt, 1)
	go func() {
		_, earlier, err := second.Claim(t.Context(), newKeyed("key", "body"))
		if err != nil {
			t.Error(err)
		}
		receipts <- earlier
	}()
	if err := first.history.AppendAsync(t.Context(), keyedEvent(n, push.StatusQueued), keyedEvent(n, push.StatusSending), keyedEvent(n, push.StatusAccepted)); err != nil {
		t.Fatal(err)
	}
	release(nil)
	if earlier := testwait.For(t, receipts, "receipts"); earlier.ID != n.ID || earlier.Status() != push.StatusAccepted {
		t.Errorf("%+v", earlier)
	}
}

func TestClaimReturnsEndBeforeRelease(t *testing.T) {
	one, two := newGatewayPair(t)
	n := newKeyed("key", "body")
	release, _ := one.claim(n)
	one.appendEvents(keyedEvent(n, push.StatusSending), keyedEvent(n, push.StatusAccepted))
	if release, earlier := two.claim(newKeyed("key", "body")); release != nil || earlier.ID != n.ID || earlier.Status() != push.StatusAccepted {
		t.Errorf("%+v while the other gateway holds the key", earlier)
	}
	release(nil)
}

func TestClaimHeldByOtherGatewayIsBusy(t *testing.T) {
	one, two := newGatewayPair(t)
	release, _ := one.claim(newKeyed("key", "body"))
	claim := func(timeout time.Duration) error {
		ctx, cancel := context.WithTimeout(t.Context(), timeout)
		defer cancel()
		_, _, err := two.Claim(ctx, newKeyed("key", "body"))
		return err
	}
	err := claim(150 * time.Millisecond)
	for timeout := time.Second; errors.Is(err, context.DeadlineExceeded) && !errors.Is(err, push.ErrKeyInUse); timeout *= 2 {
		err = claim(timeout) // the machine was too slow to try even once
	}
	if !errors.Is(err, push.ErrKeyInUse) {
		t.Error(err)
	}
	release(nil) // without an event
	if release, _ := two.claim(newKeyed("key", "body")); release == nil {
		t.Error("a released key is not free")
	}
}

// TestClaimIsHeldUntilNotificationIsResolved ends a request whose notification may or may not be in the
// queue. Another gateway would find a waiting notification, which the first one may then end.
func TestClaimIsHeldUntilNotificationIsResolved(t *testing.T) {
	where := jetstream.Config{URL: jetstreamtest.StartServer(t)}
	f := newFixtureAt(t, where)
	f.queue.unresolved = make(chan func(), 1)
	one, two := f.open(), newFixtureAt(t, where).open()
	n := newKeyed("key", "body")
	release, _ := one.claim(n)
	one.appendEvents(keyedEvent(n, push.StatusQueued))
	release(nil)
	ctx, cancel := context.WithTimeout(t.Context(), time.Second)
	defer cancel()
	if release, earlier, err := two.Claim(ctx, newKeyed("key", "body")); err == nil {
		t.Errorf("claimed: %t, %+v", release != nil, earlier)
	}
	testwait.For(t, f.queue.unresolved, "the function to call later")()
	if release, earlier := two.claim(newKeyed("key", "body")); release != nil || earlier.ID != n.ID {
		t.Errorf("claimed: %t, %+v", release != nil, earlier)
	}
}

// TestClaimsAreReleasedWhenServerDies ends calls without an event right before each server is
// killed, and starts others after that. The other gateway must be able to claim every key.
func TestClaimsAreReleasedWhenServerDies(t *testing.T) {
	servers := jetstreamtest.NewCluster(t)
	where := servers.Account(t)
	one, two := newFixtureAt(t, where).open(), newFixtureAt(t, where).open()
	var keys []string
	claim := func() (release func(*push.Receipt)) {
		keys = append(keys, newID())
		release, _, err := one.Claim(t.Context(), newKeyed(keys[len(keys)-1], "body"))
		if err != nil {
			t.Error(err)
			return func(*push.Receipt) {}
		}
		return release
	}
	for server := range 3 {
		var ends []func(*push.Receipt)
		for range 200 {
			ends = append(ends, claim())
		}
		for _, end := range ends {
			end(nil)
		}
		servers.Kill(server)
		claim()(nil)
		if err := servers.Start(server); err != nil {
			t.Fatal(err)
		}
	}
	ctx, stop := context.WithTimeout(t.Context(), time.Minute)
	defer stop()
	for _, key := range keys {
		release, _, err := two.Claim(ctx, newKeyed(key, "body"))
		if err != nil {
			t.Fatal(err)
		}
		release(nil)
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
				release, _, err := h.Claim(ctx, newKeyed(newID(), "body"))
				if err == nil {
					release(nil)
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
	if one.history.KeyScope() == "" || one.history.KeyScope() != two.history.KeyScope() {
		t.Errorf("the gateways share a history but have the scopes %q and %q", one.history.KeyScope(), two.history.KeyScope())
	}
	_, _ = one.claim(newKeyed("key", "body"))
	// A server restart has the same effect if there are no replicas.
	if err := one.engine.JetStream().DeleteKeyValue(t.Context(), "SLUICE_CLAIMS"); err != nil {
		t.Fatal(err)
	}
	for _, key := range []string{"second", "third"} {
		if release, _ := two.claim(newKeyed(key, "body")); release == nil {
			t.Errorf("%s: an unclaimed key is not free", key)
		}
	}
	if _, _, err := one.Claim(t.Context(), newKeyed("third", "other body")); !errors.Is(err, push.ErrKeyReused) {
		t.Errorf("%v: the other gateway has claimed the key with another body", err)
	}
}
