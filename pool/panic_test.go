// SPDX-License-Identifier: Apache-2.0

package pool_test

import (
	"bytes"
	"context"
	"log/slog"
	"net/netip"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/sluice-push/sluice/pool"
)

// once panics in its first call.
type once struct{ called atomic.Bool }

func (o *once) panic() {
	if !o.called.Swap(true) {
		panic("SECRET")
	}
}

type panickyResolver struct {
	once
	*testPool
}

func (r *panickyResolver) Resolve(ctx context.Context) ([]netip.AddrPort, time.Duration, error) {
	r.panic()
	return r.testPool.Resolve(ctx)
}

type panickyConn struct {
	*once
	pool.Conn
}

func (c panickyConn) Run(ctx context.Context) error {
	time.Sleep(time.Second)
	c.panic()
	return c.Conn.Run(ctx)
}

// A panic in each of the functions that the pool calls from its own goroutines is a failure of that
// call, and the pool calls it again.
func TestPanicIsAFailureThatThePoolRetries(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var log bytes.Buffer
		var dial, run, observe once
		fake := newTestPool(t, 2, pool.Config{})
		p, err := pool.New(pool.Config{
			Name: "test", Size: 2, Resolver: &panickyResolver{testPool: fake}, Logger: slog.New(slog.NewTextHandler(&log, nil)),
			Dial: func(ctx context.Context, addr netip.AddrPort) (pool.Conn, error) {
				dial.panic()
				conn, err := fake.dial(ctx, addr)
				return panickyConn{&run, conn}, err
			},
			Observe: func(pool.Event) { observe.panic() },
		})
		if err != nil {
			t.Fatal(err)
		}
		fake.Pool = p
		fake.run()
		time.Sleep(time.Minute)
		if live := len(p.Status().Endpoints); live != 2 || p.Ready() != nil {
			t.Errorf("%d endpoints, ready: %v", live, p.Ready())
		}
		if n := strings.Count(log.String(), "background task panicked"); n != 4 || !dial.called.Load() || !run.called.Load() || !observe.called.Load() {
			t.Errorf("%d panics logged, want 4 (dial %t, connection %t, observer %t)", n, dial.called.Load(), run.called.Load(), observe.called.Load())
		}
		if strings.Contains(log.String(), "SECRET") {
			t.Error("the log contains the value of a panic")
		}
	})
}
