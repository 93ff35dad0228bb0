// SPDX-License-Identifier: Apache-2.0

package history_test

import (
	"errors"
	"fmt"
	"testing"

	"golang.org/x/sync/errgroup"

	"github.com/sluice-push/sluice/internal/jetstream"
	"github.com/sluice-push/sluice/internal/jetstream/jetstreamtest"
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

func TestHistoryOfClusterIsNotSearchable(t *testing.T) {
	if _, err := newStreamFixture(t).open().Search(t.Context(), "shop", push.Query{}); !errors.Is(err, push.ErrNotSearchable) {
		t.Error(err)
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
