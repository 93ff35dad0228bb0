// SPDX-License-Identifier: Apache-2.0

package zone_test

import (
	"context"
	"fmt"
	"net/netip"
	"testing"
	"testing/synctest"
	"time"

	"github.com/sluice-push/sluice/pool"
	"github.com/sluice-push/sluice/push"
	"github.com/sluice-push/sluice/wire"
	"github.com/sluice-push/sluice/zone"
)

// idleConn is a connection that stays open until it is drained or its context ends.
type idleConn struct{ drained chan struct{} }

func (idleConn) Do(context.Context, *wire.Request) (*wire.Response, error) { return nil, nil }
func (idleConn) State() wire.State                                         { return wire.State{MaxStreams: 100} }
func (c idleConn) Drain()                                                  { close(c.drained) }
func (c idleConn) Run(ctx context.Context) error {
	select {
	case <-c.drained:
	case <-ctx.Done():
	}
	return nil
}

// addresses are two endpoints in tokyo-a (10.0.1.x) and two in tokyo-b (10.0.2.x).
var addresses = pool.Static{
	netip.MustParseAddrPort("10.0.1.1:443"), netip.MustParseAddrPort("10.0.1.2:443"),
	netip.MustParseAddrPort("10.0.2.1:443"), netip.MustParseAddrPort("10.0.2.2:443"),
}

func zoneOf(addr netip.AddrPort) string {
	if addr.Addr().As4()[2] == 1 {
		return "tokyo-a"
	}
	return "tokyo-b"
}

// withTokyoPool runs test in a synctest bubble with a pool that prefers tokyo-a. Each of its four
// endpoints allows two leases.
func withTokyoPool(t *testing.T, test func(t *testing.T, p *pool.Pool)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		p, err := pool.New(pool.Config{
			Name: "gateways", Resolver: addresses, MaxInFlight: 2, Zone: zoneOf, Picker: zone.Prefer("tokyo-a", pool.RoundRobin{}),
			Dial: func(context.Context, netip.AddrPort) (pool.Conn, error) { return idleConn{make(chan struct{})}, nil },
		})
		if err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan error)
		go func() { done <- p.Run(ctx) }()
		<-time.After(time.Second) // until all four are connected
		test(t, p)
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
}

func pick(t *testing.T, p *pool.Pool) *pool.Lease {
	t.Helper()
	lease, err := p.Pick(t.Context(), nil)
	if err != nil {
		t.Fatal(err)
	}
	return lease
}

func TestTrafficStaysInHomeZone(t *testing.T) {
	withTokyoPool(t, func(t *testing.T, p *pool.Pool) {
		for range 100 {
			lease := pick(t, p)
			if z := lease.Endpoint().Zone(); z != "tokyo-a" {
				t.Errorf("picked %s in %s", lease.Endpoint(), z)
			}
			lease.Done(push.Outcome{Verdict: push.Accepted, HTTP: 200})
		}
	})
}

func TestOnlyOverflowLeavesHomeZone(t *testing.T) {
	withTokyoPool(t, func(t *testing.T, p *pool.Pool) {
		zones := map[string]int{}
		var leases []*pool.Lease
		for range 6 {
			leases = append(leases, pick(t, p))
			zones[leases[len(leases)-1].Endpoint().Zone()]++
		}
		if zones["tokyo-a"] != 4 || zones["tokyo-b"] != 2 {
			t.Errorf("6 leases went to %v, want 4 in tokyo-a and 2 in tokyo-b", zones)
		}
		for _, lease := range leases {
			lease.Done(push.Outcome{Verdict: push.Accepted, HTTP: 200})
		}
		if lease := pick(t, p); lease.Endpoint().Zone() != "tokyo-a" {
			t.Errorf("tokyo-a has free capacity, but %s was picked", lease.Endpoint())
		} else {
			lease.Done(push.Outcome{})
		}
	})
}

func TestUnhealthyHomeZoneIsAvoided(t *testing.T) {
	withTokyoPool(t, func(t *testing.T, p *pool.Pool) {
		for range 10 { // five consecutive failures of each endpoint in tokyo-a
			pick(t, p).Done(push.Outcome{Verdict: push.Unavailable, HTTP: 503, Scope: push.ScopeEndpoint})
		}
		lease := pick(t, p)
		if z := lease.Endpoint().Zone(); z != "tokyo-b" {
			t.Errorf("picked %s in %s", lease.Endpoint(), z)
		}
		lease.Done(push.Outcome{})
	})
}

func TestEmptyHomeDisablesPreference(t *testing.T) {
	if _, plain := zone.Prefer("", pool.RoundRobin{}).(pool.RoundRobin); !plain {
		t.Error("Prefer(\"\", next) is not next")
	}
}

func ExamplePrefer() {
	picker := zone.Prefer("tokyo-a", pool.BoundedRoundRobin{})
	_, err := pool.New(pool.Config{
		Name:     "gateways",
		Resolver: addresses,
		Zone:     zoneOf,
		Picker:   picker,
		Dial:     func(context.Context, netip.AddrPort) (pool.Conn, error) { return nil, nil }, // normally wire.Dial
	})
	fmt.Println(err)
	// Output: <nil>
}
