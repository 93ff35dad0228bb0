// SPDX-License-Identifier: Apache-2.0

package zone_test

import (
	"context"
	"errors"
	"net/netip"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/sluice-push/sluice/pool"
	"github.com/sluice-push/sluice/push"
	"github.com/sluice-push/sluice/wire"
	"github.com/sluice-push/sluice/zone"
)

const (
	perZone       = 4                     // gateways in each of three zones
	callInterval  = 5 * time.Millisecond  // between two calls of one zone's callers
	responseTime  = 20 * time.Millisecond // an answer
	detectionTime = 1500 * time.Millisecond
)

// region is three zones of gateways, and callers in each of them with a pool of their own. Time is fake.
type region struct {
	t      *testing.T
	start  time.Time
	frozen func(zone int) bool

	mu          sync.Mutex
	calls       map[[3]int]int // begun, by second, caller's zone and gateway
	failedCalls int            // calls that no gateway answered
}

func gatewayOf(addr netip.AddrPort) int { return int(addr.Addr().As4()[3]) }

func zoneName(addr netip.AddrPort) string { return string('a' + rune(gatewayOf(addr)/perZone)) }

// gatewayConn is a connection to one gateway. When its zone is frozen it is silent, and given up once that is noticed.
type gatewayConn struct {
	*region
	gateway int
	drained chan struct{}
}

func (c *gatewayConn) isFrozen() bool { return c.frozen(c.gateway / perZone) }

func (c *gatewayConn) Do(context.Context, *wire.Request) (*wire.Response, error) {
	<-time.After(responseTime)
	if !c.isFrozen() {
		return &wire.Response{Status: 200}, nil
	}
	<-time.After(detectionTime)
	return nil, &wire.Error{Reason: wire.PingTimeout, EndpointAtFault: true}
}

func (c *gatewayConn) State() wire.State { return wire.State{MaxStreams: 1000} }
func (c *gatewayConn) Drain()            { close(c.drained) }
func (c *gatewayConn) Run(ctx context.Context) error {
	for {
		select {
		case <-c.drained:
			return nil
		case <-ctx.Done():
			return nil
		case <-time.After(100 * time.Millisecond):
			if c.isFrozen() {
				<-time.After(detectionTime)
				return errors.New("silent")
			}
		}
	}
}

func (r *region) dial(_ context.Context, addr netip.AddrPort) (pool.Conn, error) {
	c := &gatewayConn{region: r, gateway: gatewayOf(addr), drained: make(chan struct{})}
	if c.isFrozen() {
		<-time.After(5 * time.Second)
		return nil, errors.New("no answer")
	}
	return c, nil
}

// call makes one call, and repeats it elsewhere, twice at most, if its gateway is lost.
func (r *region) call(p *pool.Pool, from int) {
	var tried pool.Tried
	for range 3 {
		lease, err := p.Pick(r.t.Context(), tried)
		if err != nil {
			r.t.Error(err)
			return
		}
		r.mu.Lock()
		r.calls[[3]int{int(time.Since(r.start) / time.Second), from, gatewayOf(lease.Endpoint().Addr())}]++
		r.mu.Unlock()
		_, err = lease.Do(r.t.Context(), nil)
		if err == nil {
			lease.Done(push.Outcome{Verdict: push.Accepted, HTTP: 200})
			return
		}
		lease.Done(push.NoResponse(err))
		tried = append(tried, lease.Endpoint())
	}
	r.mu.Lock()
	r.failedCalls++
	r.mu.Unlock()
}

// simulate lets callers of every zone call for so many seconds, while zone 0 is frozen from one second to another.
func simulate(t *testing.T, seconds, from, until int) *region {
	r := &region{t: t, start: time.Now(), calls: map[[3]int]int{}}
	r.frozen = func(zone int) bool {
		second := int(time.Since(r.start) / time.Second)
		return zone == 0 && second >= from && second < until
	}
	var all pool.Static
	for i := range 3 * perZone {
		all = append(all, netip.AddrPortFrom(netip.AddrFrom4([4]byte{10, 0, 0, byte(i)}), 443))
	}
	ctx, cancel := context.WithCancel(t.Context())
	var work, calling sync.WaitGroup
	for home := range 3 {
		p, err := pool.New(pool.Config{
			Name: "gateways", Size: len(all), MaxInFlight: 256, Resolver: all, Zone: zoneName, Dial: r.dial, MaxRedialDelay: 10 * time.Second,
			Picker: zone.Prefer(string('a'+rune(home)), pool.BoundedRoundRobin{}), Outlier: pool.Outlier{Disabled: true}, // as client has it
		})
		if err != nil {
			t.Fatal(err)
		}
		work.Go(func() {
			if err := p.Run(ctx); err != nil {
				t.Error(err)
			}
		})
		calling.Go(func() {
			<-time.After(time.Second)
			tick := time.NewTicker(callInterval)
			defer tick.Stop()
			for range (seconds - 1) * int(time.Second/callInterval) {
				<-tick.C
				calling.Go(func() { r.call(p, home) })
			}
		})
	}
	calling.Wait()
	cancel()
	work.Wait()
	return r
}

// callsIn counts the calls of one second, of callers and to gateways that are wanted.
func (r *region) callsIn(second int, want func(from, gateway int) bool) (n int) {
	for k, calls := range r.calls {
		if k[0] == second && want(k[1], k[2]) {
			n += calls
		}
	}
	return n
}

func TestZoneLossAndRecovery(t *testing.T) {
	const lost, back, end = 20, 40, 75
	synctest.Test(t, func(t *testing.T) {
		r := simulate(t, end, lost, back)
		if r.failedCalls > 0 {
			t.Errorf("%d calls were lost", r.failedCalls)
		}
		perGateway := int(time.Second/callInterval) / perZone
		for second := 3; second < end; second++ {
			all := r.callsIn(second, func(int, int) bool { return true })
			crossing := r.callsIn(second, func(from, gateway int) bool { return from != gateway/perZone })
			there := r.callsIn(second, func(_, gateway int) bool { return gateway < perZone })
			most := 0
			for gateway := range 3 * perZone {
				most = max(most, r.callsIn(second, func(_, g int) bool { return g == gateway }))
			}
			switch {
			case second < lost || second > back+25:
				if crossing*100 > all {
					t.Errorf("second %d: all is well, and %d of %d calls cross zones", second, crossing, all)
				}
			case second > lost+2 && second < back && there*100 > all:
				t.Errorf("second %d: %d of %d calls still go to the lost zone", second, there, all)
			}
			if second > lost+2 && float64(most) > 1.5*1.1*float64(perGateway) {
				t.Errorf("second %d: a gateway gets %d calls, more than 1.5 times %d and a tenth", second, most, perGateway)
			}
		}
		first := back
		for first < end && r.callsIn(first, func(_, g int) bool { return g < perZone }) == 0 {
			first++
		}
		for i := range 8 {
			share := float64(r.callsIn(first+i, func(_, g int) bool { return g < perZone })) / float64(perZone*perGateway)
			if share > float64(i+2)/10+.1 {
				t.Errorf("%d s after its return the zone gets %v of its load", i, share)
			}
		}
	})
}
