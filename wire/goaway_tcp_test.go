// SPDX-License-Identifier: Apache-2.0

package wire_test

import (
	"context"
	"crypto/tls"
	"fmt"
	"net"
	"sync"
	"testing"

	"golang.org/x/net/http2"

	"github.com/sluice-push/sluice/internal/testwait"
	"github.com/sluice-push/sluice/wire"
)

// TestGoAwayIsHonoredBeforeTCPReset uses a real socket. The peer sends GOAWAY and closes the
// connection with unread bytes, so that its kernel sends a reset and the client's writes fail.
func TestGoAwayIsHonoredBeforeTCPReset(t *testing.T) {
	const kept = 20
	cert, roots := serverIdentity("push.example")
	for range 20 {
		processed := make(chan map[string]bool, 1)
		addr := listenTLS(t, &tls.Config{Certificates: []tls.Certificate{cert}, NextProtos: []string{"h2"}}, func(nc net.Conn) {
			processed <- serveThenGoAway(t, nc, kept)
		})
		c, err := wire.Dial(t.Context(), addr, withLongTimeouts(wire.Config{Authority: "push.example", TLS: &tls.Config{RootCAs: roots}}))
		if err != nil {
			t.Fatal(err)
		}
		var running sync.WaitGroup
		running.Go(func() { _ = c.Run(context.Background()) })
		results := sendMany(t, c, 300)
		testwait.Call(t, running.Wait, "the end of Run")
		mayBeProcessed := testwait.For(t, processed, "the end of the server")
		for path, err := range results {
			if mayBeProcessed[path] {
				wantError(t, result{err: err}, wire.GoAwayNoAnswer, wire.Unknown, true)
			} else {
				wantError(t, result{err: err}, wire.GoAwayUnprocessed, wire.Never, false)
			}
		}
	}
}

// serveThenGoAway reads n requests, rejects all others with a GOAWAY and closes the connection.
func serveThenGoAway(t *testing.T, nc net.Conn, n int) map[string]bool {
	p := newPeer(t, nc)
	p.check(p.framer.WriteSettings(maxStreamsSetting(1000)))
	go p.readLoop()
	processed := map[string]bool{}
	for h := range p.received {
		if h.kind != http2.FrameHeaders {
			continue
		}
		if processed[h.fields[":path"]] = true; len(processed) == n {
			p.stopReading.Store(true)
			p.check(p.framer.WriteGoAway(h.stream, http2.ErrCodeNo, nil))
			break
		}
	}
	_ = nc.Close()
	testwait.For(t, p.closed, "the end of the peer")
	return processed
}

// sendMany sends n concurrent requests and returns the error of each path.
func sendMany(t *testing.T, c *wire.Conn, n int) map[string]error {
	var mu sync.Mutex
	var callers sync.WaitGroup
	results := map[string]error{}
	for i := range n {
		callers.Go(func() {
			r := post(fmt.Sprint("/", i))
			_, err := c.Do(context.Background(), r)
			mu.Lock()
			defer mu.Unlock()
			results[r.Path] = err
		})
	}
	testwait.Call(t, callers.Wait, "the end of all calls")
	return results
}
