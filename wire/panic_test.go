// SPDX-License-Identifier: Apache-2.0

package wire_test

import (
	"context"
	"errors"
	"net"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"golang.org/x/net/http2"

	"github.com/sluice-push/sluice/wire"
)

// panickyConn panics in the first Read or Write after it was told to.
type panickyConn struct {
	net.Conn
	read, write atomic.Bool
}

func (c *panickyConn) Read(b []byte) (int, error) {
	n, err := c.Conn.Read(b)
	if c.read.Swap(false) {
		panic("SECRET")
	}
	return n, err
}

func (c *panickyConn) Write(b []byte) (int, error) {
	if c.write.Swap(false) {
		_ = []int{}[len(b)]
	}
	return c.Conn.Write(b)
}

// panickyContext panics when it is asked why it has ended.
type panickyContext struct{ context.Context }

func (panickyContext) Err() error { panic(errors.New("SECRET")) }

type panickyHandler struct{ collector }

func (h *panickyHandler) Complete(results []wire.Result) {
	h.collector.Complete(results)
	panic("SECRET")
}

// A panic in each goroutine of a connection, and in a Handler, ends the connection and no more: all
// requests have a result, and Run returns the panic.
func TestPanicEndsTheConnection(t *testing.T) {
	for _, test := range []struct {
		name, text string
		panic      func(c *testConn, nc *panickyConn, stop context.CancelFunc)
	}{
		{"reader", "string", func(c *testConn, nc *panickyConn, _ context.CancelFunc) {
			nc.read.Store(true)
			c.peer.sendSettings()
		}},
		{"writer", "index out of range", func(c *testConn, nc *panickyConn, _ context.CancelFunc) {
			nc.write.Store(true)
			c.peer.sendSettings()
		}},
		{"timers", "*errors.errorString", func(_ *testConn, _ *panickyConn, stop context.CancelFunc) { stop() }},
		{"handler of the reader", "string", func(c *testConn, _ *panickyConn, _ context.CancelFunc) {
			c.Start(posts(1), &panickyHandler{})
			synctest.Wait()
			c.peer.respondTogether(5)
		}},
		{"handler in Cancel", "string", func(c *testConn, _ *panickyConn, _ context.CancelFunc) {
			h := &panickyHandler{}
			c.Start(posts(1), h)
			c.Cancel(h)
		}},
	} {
		t.Run(test.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				clientSide, serverSide := net.Pipe()
				nc := &panickyConn{Conn: clientSide}
				p := newPeer(t, serverSide)
				go p.readLoop()
				go p.sendSettings()
				conn, err := wire.Client(t.Context(), nc, wire.Config{Authority: "push.example"})
				if err != nil {
					t.Fatal(err)
				}
				ctx, stop := context.WithCancel(context.Background())
				defer stop()
				c := &testConn{Conn: conn, peer: p, runErr: make(chan error, 1)}
				go func() { c.runErr <- conn.Run(panickyContext{ctx}) }()

				var h collector
				c.Start(posts(1), &h)
				do := c.start(t.Context(), post("/do"))
				p.nextFrame(http2.FrameHeaders)
				p.nextFrame(http2.FrameHeaders)
				synctest.Wait()
				test.panic(c, nc, stop)
				synctest.Wait()
				var cause *wire.PanicError
				wantError(t, h.get(t, 0), wire.LostAfterWrite, wire.Unknown, false)
				if e := requireError(t, <-do, wire.LostAfterWrite, wire.Unknown, false); !errors.As(e, &cause) {
					t.Errorf("%v does not wrap the panic", e)
				}
				select {
				case err = <-c.runErr:
				case <-time.After(time.Minute):
					t.Fatal("Run does not return")
				}
				if !errors.As(err, &cause) || !strings.Contains(cause.Error(), test.text) || strings.Contains(err.Error(), "SECRET") {
					t.Errorf("Run returns %v, want a panic with the text %q", err, test.text)
				}
				if cause != nil && !strings.Contains(cause.Stack, "panic_test.go") {
					t.Errorf("stack %s", cause.Stack)
				}
				<-p.closed
			})
		})
	}
}

// A panic of a Handler while the connection ends is returned by Run, too.
func TestPanicAfterTheEndIsReported(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newTestConn(t, wire.Config{})
		c.Start(posts(1), &panickyHandler{})
		c.peer.nextFrame(http2.FrameHeaders)
		_ = c.peer.nc.Close()
		var cause *wire.PanicError
		if err := <-c.runErr; !errors.As(err, &cause) {
			t.Errorf("Run returns %v, want a panic", err)
		}
	})
}
