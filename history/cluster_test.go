// SPDX-License-Identifier: Apache-2.0

package history_test

import (
	"context"
	"errors"
	"testing"
	"time"

	"github.com/sluice-push/sluice/engine"
	"github.com/sluice-push/sluice/engine/enginetest"
	"github.com/sluice-push/sluice/push"
)

// newPair is two gateways at one JetStream outside of both.
func newPair(t *testing.T) (one, two *running) {
	t.Helper()
	where := enginetest.Config(t, t.TempDir())
	if !enginetest.OnCluster() {
		where = engine.Config{URL: enginetest.Alone(t)}
	}
	return newHouseAt(t, where).open(), newHouseAt(t, where).open()
}

func TestOneGatewayTellsAnother(t *testing.T) {
	one, two := newPair(t)
	for range 20 {
		id := id()
		if _, err := one.Append(t.Context(), life(id)...); err != nil {
			t.Fatal(err)
		}
		if err := two.Caught(t.Context()); err != nil {
			t.Fatal(err)
		}
		if receipt, events := two.find("shop", id); receipt.Status() != push.StatusAccepted || len(events) != 3 {
			t.Fatalf("%+v %+v", receipt, events)
		}
	}
}

func TestAKeyIsClaimedAmongAllGateways(t *testing.T) {
	one, two := newPair(t)
	n := keyed("key", "body")
	done, _ := one.claim(n, nil)
	if _, _, err := two.Claim(t.Context(), keyed("key", "other"), nil); !errors.Is(err, push.ErrKeyReused) {
		t.Error(err)
	}
	asked := make(chan push.Receipt, 1)
	go func() {
		_, earlier, err := two.Claim(t.Context(), keyed("key", "body"), nil)
		if err != nil {
			t.Error(err)
		}
		asked <- earlier
	}()
	if err := one.Note(t.Context(), of(n, push.StatusQueued), of(n, push.StatusSending), of(n, push.StatusAccepted)); err != nil {
		t.Fatal(err)
	}
	done()
	if earlier := <-asked; earlier.ID != n.ID || earlier.Status() != push.StatusAccepted {
		t.Errorf("%+v", earlier)
	}
}

func TestWhoWaitsForAKeyIsToldAsSoonAsThereIsAnEnd(t *testing.T) {
	one, two := newPair(t)
	n := keyed("key", "body")
	done, _ := one.claim(n, nil)
	one.append(of(n, push.StatusSending), of(n, push.StatusAccepted))
	if done, earlier := two.claim(keyed("key", "body"), nil); done != nil || earlier.ID != n.ID || earlier.Status() != push.StatusAccepted {
		t.Errorf("%+v, while the other gateway still has the key", earlier)
	}
	done()
}

func TestAKeyThatAnotherGatewayHasIsBusy(t *testing.T) {
	one, two := newPair(t)
	done, _ := one.claim(keyed("key", "body"), nil)
	ask := func(patience time.Duration) error {
		ctx, cancel := context.WithTimeout(t.Context(), patience)
		defer cancel()
		_, _, err := two.Claim(ctx, keyed("key", "body"), nil)
		return err
	}
	err := ask(150 * time.Millisecond)
	for patience := time.Second; errors.Is(err, context.DeadlineExceeded) && !errors.Is(err, push.ErrKeyInUse); patience *= 2 {
		err = ask(patience) // this machine was too slow to ask even once
	}
	if !errors.Is(err, push.ErrKeyInUse) {
		t.Error(err)
	}
	done() // of which nothing came
	if done, _ := two.claim(keyed("key", "body"), nil); done == nil {
		t.Error("a key that was given back is not free")
	}
}

// TestKeysAreFreeAgainWhicheverServerDies ends calls of which nothing came right before each server is killed in its turn,
// and begins others then: whatever became of a claim, the other gateway can have the key.
func TestKeysAreFreeAgainWhicheverServerDies(t *testing.T) {
	servers := enginetest.New(t)
	where := servers.Account(t)
	one, two := newHouseAt(t, where).open(), newHouseAt(t, where).open()
	var keys []string
	claim := func() (done func()) {
		keys = append(keys, id())
		done, _, err := one.Claim(t.Context(), keyed(keys[len(keys)-1], "body"), nil)
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
		done, _, err := two.Claim(ctx, keyed(key, "body"), nil)
		if err != nil {
			t.Fatal(err)
		}
		done()
	}
}

func TestClaimsOutliveAServerThatForgetsThem(t *testing.T) {
	one, two := newPair(t)
	if one.Keys() == "" || one.Keys() != two.Keys() {
		t.Errorf("they share the history, and name it %q and %q", one.Keys(), two.Keys())
	}
	_, _ = one.claim(keyed("key", "body"), nil)
	if err := one.engine.JetStream().DeleteKeyValue(t.Context(), "SLUICE_CLAIMS"); err != nil { // as a restart does where there is no replica
		t.Fatal(err)
	}
	for _, key := range []string{"second", "third"} {
		if done, _ := two.claim(keyed(key, "body"), nil); done == nil {
			t.Errorf("%s: a key that nobody has is not free", key)
		}
	}
	if _, _, err := one.Claim(t.Context(), keyed("third", "other body"), nil); !errors.Is(err, push.ErrKeyReused) {
		t.Errorf("%v: the other gateway has claimed it with another body", err)
	}
}
