// SPDX-License-Identifier: Apache-2.0

package zone_test

import (
	"context"
	"errors"
	"math"
	"net/netip"
	"slices"
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
	perZone       = 4                       // gateways in each of three zones
	callInterval  = 5 * time.Millisecond    // between two calls of the callers of a zone
	responseTime  = 20 * time.Millisecond   // of a healthy gateway
	detectionTime = 1500 * time.Millisecond // until a call to a frozen gateway fails
)

// region simulates three zones of gateways with one pool of callers in each. It must run in a
// synctest bubble.
type region struct {
	t         *testing.T
	start     time.Time
	frozen    func(zone int) bool
	handshake time.Duration

	mu          sync.Mutex
	calls       map[[3]int]int  // by second, caller zone and gateway
	toZone0     []time.Duration // times of the calls to gateways of zone 0
	failedCalls int             // calls without an answer after three attempts
}

func gatewayOf(addr netip.AddrPort) int { return int(addr.Addr().As4()[3]) }

func zoneName(addr netip.AddrPort) string { return string('a' + rune(gatewayOf(addr)/perZone)) }

// gatewayConn is a connection to one gateway. While its zone is frozen, calls fail after
// detectionTime.
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
				return errors.New("ping timeout")
			}
		}
	}
}

func (r *region) dial(_ context.Context, addr netip.AddrPort) (pool.Conn, error) {
	c := &gatewayConn{region: r, gateway: gatewayOf(addr), drained: make(chan struct{})}
	start := time.Now()
	for wait := time.Second; c.isFrozen(); wait *= 2 { // TCP repeats the SYN with this backoff
		if time.Since(start)+wait > 5*time.Second {
			return nil, errors.New("dial timeout")
		}
		<-time.After(wait)
	}
	<-time.After(r.handshake)
	return c, nil
}

// call makes one call with at most two retries on other gateways.
func (r *region) call(p *pool.Pool, from int) {
	var tried pool.Tried
	for range 3 {
		lease, err := p.Pick(r.t.Context(), tried)
		if err != nil {
			r.t.Error(err)
			return
		}
		r.mu.Lock()
		at, gateway := time.Since(r.start), gatewayOf(lease.Endpoint().Addr())
		r.calls[[3]int{int(at / time.Second), from, gateway}]++
		if gateway < perZone {
			r.toZone0 = append(r.toZone0, at)
		}
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

// simulate runs callers in every zone for the given number of seconds. Zone 0 is frozen from one
// time to another.
func simulate(t *testing.T, seconds int, from, until, handshake time.Duration) *region {
	r := &region{t: t, start: time.Now(), handshake: handshake, calls: map[[3]int]int{}}
	r.frozen = func(zone int) bool {
		now := time.Since(r.start)
		return zone == 0 && now >= from && now < until
	}
	var addrs pool.Static
	for i := range 3 * perZone {
		addrs = append(addrs, netip.AddrPortFrom(netip.AddrFrom4([4]byte{10, 0, 0, byte(i)}), 443))
	}
	ctx, cancel := context.WithCancel(t.Context())
	var pools, callers sync.WaitGroup
	for home := range 3 {
		p, err := pool.New(pool.Config{
			Name: "gateways", Size: len(addrs), MaxInFlight: 256, Resolver: addrs, Zone: zoneName, Dial: r.dial, MaxRedialDelay: 10 * time.Second,
			Picker: zone.Prefer(string('a'+rune(home)), pool.BoundedRoundRobin{}), Outlier: pool.Outlier{Disabled: true}, // as in the client
		})
		if err != nil {
			t.Fatal(err)
		}
		pools.Go(func() {
			if err := p.Run(ctx); err != nil {
				t.Error(err)
			}
		})
		callers.Go(func() {
			<-time.After(time.Second)
			tick := time.NewTicker(callInterval)
			defer tick.Stop()
			for range (seconds - 1) * int(time.Second/callInterval) {
				<-tick.C
				callers.Go(func() { r.call(p, home) })
			}
		})
	}
	callers.Wait() // bounded by the bubble
	cancel()
	pools.Wait() // bounded by the bubble
	return r
}

// callsIn counts the calls of one second for whose caller zone and gateway match returns true.
func (r *region) callsIn(second int, match func(from, gateway int) bool) (n int) {
	for k, calls := range r.calls {
		if k[0] == second && match(k[1], k[2]) {
			n += calls
		}
	}
	return n
}

func TestZoneLossAndRecovery(t *testing.T) {
	const lost, recovered, end = 20, 40, 75
	synctest.Test(t, func(t *testing.T) {
		r := simulate(t, end, lost*time.Second, recovered*time.Second, 0)
		if r.failedCalls > 0 {
			t.Errorf("%d calls failed", r.failedCalls)
		}
		perGateway := int(time.Second/callInterval) / perZone
		for second := 3; second < end; second++ {
			total := r.callsIn(second, func(int, int) bool { return true })
			crossing := r.callsIn(second, func(from, gateway int) bool { return from != gateway/perZone })
			toLostZone := r.callsIn(second, func(_, gateway int) bool { return gateway < perZone })
			busiest := 0
			for gateway := range 3 * perZone {
				busiest = max(busiest, r.callsIn(second, func(_, g int) bool { return g == gateway }))
			}
			switch {
			case second < lost || second > recovered+25:
				if crossing*100 > total {
					t.Errorf("second %d: all zones are healthy, but %d of %d calls cross zones", second, crossing, total)
				}
			case second > lost+2 && second < recovered && toLostZone*100 > total:
				t.Errorf("second %d: %d of %d calls still go to the lost zone", second, toLostZone, total)
			}
			if second > lost+2 && float64(busiest) > 1.5*1.1*float64(perGateway) {
				t.Errorf("second %d: a gateway gets %d calls, want at most 1.65 times %d", second, busiest, perGateway)
			}
		}
		first := recovered
		for first < end && r.callsIn(first, func(_, g int) bool { return g < perZone }) == 0 {
			first++
		}
		for i := range 8 {
			share := float64(r.callsIn(first+i, func(_, g int) bool { return g < perZone })) / float64(perZone*perGateway)
			if share > float64(i+2)/10+.1 {
				t.Errorf("%d s after recovery the zone gets %v of its load", i, share)
			}
		}
	})
}

// rampTime returns the time from the first call to zone 0 after recovered until the zone gets 95 %
// of its load for a second. The scorecard measures it in the same way.
func (r *region) rampTime(recovered time.Duration) time.Duration {
	first, _ := slices.BinarySearch(r.toZone0, recovered)
	calls := r.toZone0[first:]
	for from := calls[0]; from < calls[len(calls)-1]; from += 100 * time.Millisecond {
		start, _ := slices.BinarySearch(calls, from)
		end, _ := slices.BinarySearch(calls, from+time.Second)
		if float64(end-start) >= 0.95*float64(time.Second/callInterval) {
			return from - calls[0]
		}
	}
	return time.Duration(math.MaxInt64)
}

// TestRecoveryTakesTwelveSeconds varies when the zone returns, relative to the ticks of the pools.
func TestRecoveryTakesTwelveSeconds(t *testing.T) {
	for phase := time.Duration(0); phase < time.Second; phase += 90 * time.Millisecond {
		t.Run(phase.String(), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				const recovered = 15 * time.Second
				if took := simulate(t, 45, 5*time.Second, recovered, phase).rampTime(recovered); took < 12*time.Second || took > 14*time.Second {
					t.Errorf("the zone takes up its load over %s, want 12s to 14s", took)
				}
			})
		})
	}
}
