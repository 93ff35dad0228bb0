// SPDX-License-Identifier: Apache-2.0

package gateway

import (
	"context"
	"log/slog"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/sluice-push/sluice/internal/jetstream"
	"github.com/sluice-push/sluice/internal/testwait"
	"github.com/sluice-push/sluice/internal/webhooks"
)

func openEngine(t *testing.T) *jetstream.Engine {
	t.Helper()
	e, err := jetstream.Open(t.Context(), jetstream.Config{Dir: t.TempDir()})
	if err != nil {
		t.Fatal(err)
	}
	ctx, stop := context.WithCancel(context.Background())
	var running sync.WaitGroup
	running.Go(func() { _ = e.Run(ctx) })
	t.Cleanup(func() {
		stop()
		running.Wait()
		if err := e.Close(); err != nil {
			t.Error(err)
		}
	})
	return e
}

func TestCheckpointRoundTrip(t *testing.T) {
	p := new(checkpointStore)
	p.open(openEngine(t), slog.New(slog.DiscardHandler))
	if at, err := p.Load(t.Context(), "shop/billing"); err != nil || !at.Since.IsZero() {
		t.Fatal(at, err)
	}
	want := webhooks.Checkpoint{Since: time.Now().UTC(), After: "1.2", DeadLettered: []webhooks.Range{{After: "0.1", Until: "1.2", Events: 3}}}
	if err := p.Save(t.Context(), "shop/billing", want); err != nil {
		t.Fatal(err)
	}
	if at, err := p.Load(t.Context(), "shop/billing"); err != nil || at.After != want.After || len(at.DeadLettered) != 1 || !at.Since.Equal(want.Since) {
		t.Error(at, err)
	}
}

func TestWebhookLeaseFailover(t *testing.T) {
	e := openEngine(t)
	var running, highest atomic.Int32
	started := make(chan struct{}, 2)
	gateway := func(ctx context.Context) (stop func()) {
		ctx, cancel := context.WithCancel(ctx)
		p := &checkpointStore{log: slog.New(slog.DiscardHandler), leases: newLeaseBucket(e)}
		var wg sync.WaitGroup
		wg.Go(func() {
			_ = p.runLeased(ctx, "shop/billing", 5*time.Millisecond, func(ctx context.Context) error {
				highest.Store(max(highest.Load(), running.Add(1)))
				started <- struct{}{}
				<-ctx.Done()
				running.Add(-1)
				return nil
			})
		})
		return func() { cancel(); testwait.Call(t, wg.Wait, "the end of the lease") }
	}
	first := gateway(t.Context())
	testwait.For(t, started, "the start")
	second := gateway(t.Context())
	for range 20 { // the first gateway keeps the lease
		time.Sleep(5 * time.Millisecond)
	}
	if running.Load() != 1 || len(started) != 0 {
		t.Error("both gateways have the lease")
	}
	first()
	testwait.For(t, started, "the start")
	bucket, err := e.JetStream().KeyValue(t.Context(), "SLUICE_WEBHOOK_LEASES")
	if err == nil {
		err = bucket.Purge(t.Context(), "shop/billing") // as if the lease had expired
	}
	if err != nil {
		t.Fatal(err)
	}
	testwait.For(t, started, "the start") // the gateway has noticed and acquired the lease again
	second()
	if highest.Load() != 1 {
		t.Error("both gateways had the lease at the same time")
	}
}
