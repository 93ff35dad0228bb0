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
	"github.com/sluice-push/sluice/wire"
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

// endingConn is a connection whose Run returns an error.
type endingConn struct {
	err error
	pool.Conn
}

func (c endingConn) Run(context.Context) error {
	time.Sleep(time.Second)
	return c.err
}

// A panic in a connection is reported with its stack, and the connection is replaced.
func TestPanicOfConnectionIsLogged(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var log bytes.Buffer
		fake := newTestPool(t, 1, pool.Config{})
		dials := 0
		p, err := pool.New(pool.Config{
			Name: "test", Size: 1, Resolver: fake, Logger: slog.New(slog.NewTextHandler(&log, nil)),
			Dial: func(ctx context.Context, addr netip.AddrPort) (pool.Conn, error) {
				conn, err := fake.dial(ctx, addr)
				if dials++; dials == 1 {
					return endingConn{&wire.Error{Reason: wire.LostAfterWrite, Err: &wire.PanicError{Stack: "STACK"}}, conn}, err
				}
				return conn, err
			},
		})
		if err != nil {
			t.Fatal(err)
		}
		fake.Pool = p
		fake.run()
		time.Sleep(time.Minute)
		synctest.Wait()
		if n := strings.Count(log.String(), "connection panicked, please report this bug"); n != 1 || !strings.Contains(log.String(), "stack=STACK") || p.Ready() != nil {
			t.Errorf("%d panics logged, ready: %v\n%s", n, p.Ready(), log.String())
		}
	})
}
