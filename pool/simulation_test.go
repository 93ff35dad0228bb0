// SPDX-License-Identifier: Apache-2.0

// Only one goroutine of a simulation runs at a time, so the race detector has nothing to find. In Go
// 1.26 the many lock operations occasionally fail a consistency check of the race detector itself.
//go:build !race

package pool_test

import (
	"math/rand/v2"
	"net/netip"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"github.com/sluice-push/sluice/pool"
)

// decaySim is a service whose endpoints go bad (they stay connected but respond 500) and are
// replaced (they disconnect, and a new address appears), each at its own rate.
type decaySim struct {
	*testPool
	rng         *rand.Rand
	failRate    float64 // per endpoint and minute
	replaceRate float64
	lastAddr    int
}

// runMinute simulates one minute in steps of a second, with perSecond requests in each. It returns
// how many requests went to a good endpoint, and how many there were.
func (d *decaySim) runMinute(perSecond int) (good, all int) {
	for second := range 60 {
		if second%5 == 0 {
			d.degrade(12)
		}
		for range perSecond {
			lease, _ := d.Pick(d.t.Context(), nil)
			if d.serverCopy(addrPortNumber(lease.Endpoint().Addr())).status == 200 {
				good++
				lease.Done(accepted)
			} else {
				lease.Done(failed)
			}
			all++
		}
		advance(time.Second)
	}
	return good, all
}

// degrade applies the failure and replacement rates for one part of a minute, of which there are
// the given number.
func (d *decaySim) degrade(parts float64) {
	for _, e := range d.Status().Endpoints {
		i := addrNumber(e.Address)
		switch roll := d.rng.Float64() * parts; {
		case roll < d.failRate:
			d.setServer(i, func(s *fakeServer) { s.status = 500 })
		case roll < d.failRate+d.replaceRate:
			d.replaceAddr(i)
		}
	}
}

func (d *decaySim) replaceAddr(i int) {
	d.setServer(i, func(s *fakeServer) { s.dialErr = errRefused })
	d.lastConn(i).disconnect()
	d.lastAddr++
	d.mu.Lock()
	defer d.mu.Unlock()
	d.addrs = append(slices.DeleteFunc(slices.Clone(d.addrs), func(a netip.AddrPort) bool { return a == addr(i) }), addr(d.lastAddr))
}

func addrNumber(address string) int { return addrPortNumber(netip.MustParseAddrPort(address)) }

func addrPortNumber(a netip.AddrPort) int {
	b := a.Addr().As4()
	return int(b[2])<<8 | int(b[3])
}

// goodShare returns the share of members that are good.
func (d *decaySim) goodShare() float64 {
	good, endpoints := 0, d.Status().Endpoints
	for _, e := range endpoints {
		if d.serverCopy(addrNumber(e.Address)).status == 200 {
			good++
		}
	}
	return float64(good) / float64(len(endpoints))
}

// If replacement is the only repair, the share of good endpoints converges to k/(k+f), where k is
// the replacement rate and f is the failure rate: 83% for 5% and 1%. A pool that reaches this share
// adds no loss of its own.
func TestGoodShareWithoutBreakers(t *testing.T) {
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	synctest.Test(t, func(t *testing.T) {
		never := pool.Breaker{ConsecutiveFailures: 1 << 30, FailureRate: 1}
		const size = 100
		d := &decaySim{testPool: startPool(t, size, pool.Config{Size: size, MaxAge: 1000 * time.Hour, Breaker: never, Outlier: pool.Outlier{Disabled: true}}),
			rng: rand.New(rand.NewPCG(seed, 0)), failRate: 0.1, replaceRate: 0.5, lastAddr: size}
		advance(time.Second)
		for range 10 {
			d.runMinute(0)
		}
		share, minutes := 0.0, 200 // enough for a standard error of 0.4%
		for range minutes {
			d.runMinute(0)
			share += d.goodShare() / float64(minutes)
		}
		t.Logf("%.2f%% of the members are good", 100*share)
		if want := 0.5 / 0.6; share < want-0.03 || share > want+0.03 {
			t.Errorf("%.1f%% of the members are good; want %.1f%% within 3%%", 100*share, 100*want)
		}
	})
}

// The same simulation with breakers, probes and spares.
func TestGoodShareWithBreakers(t *testing.T) {
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	synctest.Test(t, func(t *testing.T) {
		const size = 20
		d := &decaySim{testPool: startPool(t, size+40, pool.Config{Size: size}),
			rng: rand.New(rand.NewPCG(seed, 0)), failRate: 0.01, replaceRate: 0.05, lastAddr: size + 40}
		advance(time.Second)
		good, all := 0, 0
		for range 30 {
			g, a := d.runMinute(40)
			good, all = good+g, all+a
		}
		if share := float64(good) / float64(all); share < 0.99 {
			t.Errorf("%.2f%% of the requests went to a good endpoint; want more than 99%%", 100*share)
		} else {
			t.Logf("%.2f%% of the requests went to a good endpoint", 100*share)
		}
	})
}
