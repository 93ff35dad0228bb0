// SPDX-License-Identifier: Apache-2.0

package zone

import (
	"context"
	"fmt"
	"math"
	"net/netip"
	"testing"
	"testing/synctest"
	"time"

	"pgregory.net/rapid"

	"github.com/sluice-push/sluice/internal/testwait"
	"github.com/sluice-push/sluice/pool"
)

// testPicker is a preferPicker without a pool. zonesNow is the current state of its zones.
type testPicker struct {
	*preferPicker
	start    time.Time
	zonesNow map[string]*health
}

func newTestPicker(home string, zones ...health) *testPicker {
	p := &testPicker{preferPicker: Prefer(home, pool.RoundRobin{}).(*preferPicker), start: time.Unix(0, 0), zonesNow: map[string]*health{}}
	for _, z := range zones {
		p.zonesNow[z.name] = &z
	}
	p.updateAt(0)
	return p
}

// updateAt updates the plan with zonesNow at the given time after the start.
func (p *testPicker) updateAt(after time.Duration) {
	zones := map[string]*health{}
	for name, z := range p.zonesNow {
		zones[name] = &health{name: name, total: z.total, healthy: z.healthy}
	}
	p.updatePlan(zones, p.start.Add(after))
}

func TestRecoveringZoneRampsUp(t *testing.T) {
	p := newTestPicker("a", health{name: "a", total: 4, healthy: 4}, health{name: "b", total: 4, healthy: 4}, health{name: "c", total: 4, healthy: 4})
	p.zonesNow["a"].healthy = 0
	p.updateAt(time.Second)
	if p.shares["a"] != 0 {
		t.Fatalf("a zone without healthy endpoints has share %v", p.shares["a"])
	}
	p.zonesNow["a"].healthy = 4
	for second := 2; second <= 17; second++ {
		p.updateAt(time.Duration(second) * time.Second)
		// What exceeds the residual capacity of b and c is spread over all zones, so a gets
		// slightly more.
		if want := math.Min(1, float64(second-2)/recoveryRamp.Seconds()); p.shares["a"] < want-epsilon || p.shares["a"] > want*1.07 {
			t.Errorf("%d s after recovery the share is %v, want %v to 7%% more", second-2, p.shares["a"], want)
		}
	}
	p.zonesNow["a"].healthy = 3 // fully recovered: no ramp for a smaller change
	p.updateAt(18 * time.Second)
	if p.shares["a"] != 1 {
		t.Errorf("with 3 of 4 healthy the share is %v, want 1", p.shares["a"])
	}
}

func TestNewZoneIsNotRampedUp(t *testing.T) {
	p := newTestPicker("a", health{name: "a", total: 4, healthy: 2}, health{name: "b", total: 4, healthy: 4})
	p.zonesNow["a"].healthy = 4
	p.updateAt(time.Millisecond)
	if p.shares["a"] != 1 {
		t.Errorf("the share of a new zone is %v, want 1", p.shares["a"])
	}
}

func TestRecoveringRemoteZoneRampsUp(t *testing.T) {
	p := newTestPicker("a", health{name: "a", total: 10, healthy: 5}, health{name: "b", total: 10, healthy: 10}, health{name: "c", total: 10, healthy: 10})
	p.zonesNow["b"].healthy = 0
	p.updateAt(time.Second)
	p.zonesNow["b"].healthy = 10
	p.updateAt(1001 * time.Millisecond)
	if b, c := p.shares["b"], p.shares["c"]; b > c/100 {
		t.Errorf("recovering b has share %v, c %v", b, c)
	}
}

// newEndpoints returns the six endpoints of a pool, two in each of three zones. It must run in a
// synctest bubble.
func newEndpoints(t *testing.T, picker pool.Picker) []*pool.Endpoint {
	t.Helper()
	var addrs pool.Static
	for i := range 6 {
		addrs = append(addrs, netip.AddrPortFrom(netip.AddrFrom4([4]byte{10, 0, byte(i / 2), byte(i)}), 443))
	}
	collected := &collector{Picker: picker}
	p, err := pool.New(pool.Config{
		Resolver: addrs, Picker: collected, Zone: func(a netip.AddrPort) string { return string('a' + rune(a.Addr().As4()[2])) },
		Dial: func(context.Context, netip.AddrPort) (pool.Conn, error) { return nil, fmt.Errorf("connection refused") },
	})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error)
	go func() { done <- p.Run(ctx) }()
	<-time.After(time.Second)
	cancel()
	if err := testwait.For(t, done, "the end"); err != nil {
		t.Error(err)
	}
	return collected.endpoints
}

// collector keeps the endpoints of a survey.
type collector struct {
	pool.Picker
	endpoints []*pool.Endpoint
}

func (c *collector) UpdateEndpoints(all []*pool.Endpoint) {
	c.endpoints = append([]*pool.Endpoint(nil), all...)
}

func TestPicksFollowShares(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		endpoints := newEndpoints(t, pool.RoundRobin{})
		if len(endpoints) != 6 {
			t.Fatalf("%d endpoints, want 6", len(endpoints))
		}
		for seed := range 200 {
			shares, picks := drawShares(seed), map[string]int{}
			p := &preferPicker{home: "a", next: pool.RoundRobin{}, shares: shares, deficit: map[string]float64{}}
			for n := 1; n <= 500; n++ {
				picks[p.Pick(endpoints).Zone()]++
				for zone, share := range shares {
					if off := math.Abs(float64(picks[zone]) - share*float64(n)); off > float64(len(shares)) {
						t.Fatalf("after %d picks, zone %s with share %v is off by %v", n, zone, share, off)
					}
				}
			}
		}
	})
}

// drawShares draws the shares of zones a, b and c.
func drawShares(seed int) map[string]float64 {
	cut := rapid.Custom(func(t *rapid.T) [2]float64 {
		a := rapid.Float64Range(0, .999).Draw(t, "a")
		return [2]float64{a, rapid.Float64Range(0, 1-a).Draw(t, "b")}
	}).Example(seed)
	return map[string]float64{"a": cut[0], "b": cut[1], "c": 1 - cut[0] - cut[1]}
}

func TestDeficitIsBoundedPerUpdate(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		endpoints := newEndpoints(t, pool.RoundRobin{})
		p := newTestPicker("a", health{name: "a", total: 4, healthy: 2}, health{name: "b", total: 4, healthy: 4}, health{name: "c", total: 4, healthy: 4})
		var remote []*pool.Endpoint
		for _, e := range endpoints {
			if e.Zone() != "a" {
				remote = append(remote, e)
			}
		}
		for range 1000 { // home is full
			p.Pick(remote)
		}
		p.updateAt(time.Second)
		run := 0
		for p.Pick(endpoints).Zone() == "a" {
			run++
		}
		if run > 10 {
			t.Errorf("%d consecutive picks go to home zone a, whose share is %v", run, p.shares["a"])
		}
	})
}
