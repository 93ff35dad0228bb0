// SPDX-License-Identifier: Apache-2.0

package pool_test

import (
	"context"
	"errors"
	"fmt"
	"net/netip"

	"github.com/sluice-push/sluice/pool"
	"github.com/sluice-push/sluice/push"
	"github.com/sluice-push/sluice/wire"
)

// The pool has two endpoints, and one of them responds 500. The first attempt may use that one, the
// second never does.
func Example() {
	p, err := pool.New(pool.Config{
		Name:     "apns",
		Resolver: pool.Static{netip.MustParseAddrPort("192.0.2.1:443"), netip.MustParseAddrPort("192.0.2.2:443")},
		Dial: func(_ context.Context, addr netip.AddrPort) (pool.Conn, error) { // a real program uses wire.Dial
			return &exampleConn{failing: addr.Addr() == netip.MustParseAddr("192.0.2.1"), closed: make(chan struct{})}, nil
		},
	})
	if err != nil {
		fmt.Println(err)
		return
	}
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	ended := make(chan error)
	go func() { ended <- p.Run(ctx) }()

	var tried pool.Tried
	for {
		lease, err := p.Pick(ctx, tried)
		if err != nil {
			fmt.Println(err)
			return
		}
		res, _ := lease.Do(ctx, &wire.Request{Method: "POST", Path: "/3/device/ab"})
		outcome := push.Outcome{Verdict: push.Accepted, HTTP: res.Status}
		if res.Status != 200 { // a provider does this; see providers/apns
			outcome = push.Outcome{Verdict: push.Unavailable, HTTP: res.Status, Scope: push.ScopeEndpoint}
		}
		lease.Done(outcome)
		if outcome.Verdict == push.Accepted {
			fmt.Println("accepted by", lease.Endpoint())
			break
		}
		tried = append(tried, lease.Endpoint())
	}
	cancel()
	fmt.Println("closed:", <-ended)
	// Output:
	// accepted by 192.0.2.2:443
	// closed: <nil>
}

// exampleConn is a connection that responds immediately.
type exampleConn struct {
	failing bool
	closed  chan struct{}
}

func (c *exampleConn) Do(context.Context, *wire.Request) (*wire.Response, error) {
	if c.failing {
		return &wire.Response{Status: 500}, nil
	}
	return &wire.Response{Status: 200}, nil
}

func (c *exampleConn) Run(ctx context.Context) error {
	select {
	case <-c.closed:
		return nil
	case <-ctx.Done():
		return errors.New("cut")
	}
}

func (c *exampleConn) Drain()            { close(c.closed) }
func (c *exampleConn) State() wire.State { return wire.State{MaxStreams: 1000} }
