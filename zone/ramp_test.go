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

	"github.com/sluice-push/sluice/pool"
)

// testPicker is a picker with what it was told of its zones, without a pool.
type testPicker struct {
	*preferPicker
	start    time.Time
	zonesNow map[string]*health
}

func newTestPicker(home string, zones ...health) *testPicker {
	f := &testPicker{preferPicker: Prefer(home, pool.RoundRobin{}).(*preferPicker), start: time.Unix(0, 0), zonesNow: map[string]*health{}}
	for _, z := range zones {
		f.zonesNow[z.name] = &z
	}
	f.updateAt(0)
	return f
}

// updateAt surveys the fleet that long after it began.
func (f *testPicker) updateAt(after time.Duration) {
	seen := map[string]*health{}
	for name, z := range f.zonesNow {
		seen[name] = &health{name: name, total: z.total, healthy: z.healthy}
	}
	f.updatePlan(seen, f.start.Add(after))
}

func TestRecoveringZoneRampsUp(t *testing.T) {
	f := newTestPicker("a", health{name: "a", total: 4, healthy: 4}, health{name: "b", total: 4, healthy: 4}, health{name: "c", total: 4, healthy: 4})
	f.zonesNow["a"].healthy = 0
	f.updateAt(time.Second)
	if f.shares["a"] != 0 {
		t.Fatalf("a lost zone keeps %v", f.shares["a"])
	}
	f.zonesNow["a"].healthy = 4
	for second := 2; second <= 12; second++ {
		f.updateAt(time.Duration(second) * time.Second)
		// The others bear 1.4 of their own; what is beyond that is everybody's, in proportion to what they can.
		if want := math.Min(1, float64(second-1)/10); f.shares["a"] < want-epsilon || f.shares["a"] > want*1.05 {
			t.Errorf("%d s after its return it gets %v, want %v or little more", second-1, f.shares["a"], want)
		}
	}
	f.zonesNow["a"].healthy = 3 // it has returned: what it bears, it bears at once
	f.updateAt(13 * time.Second)
	if f.shares["a"] != 1 {
		t.Errorf("with three of four it keeps %v", f.shares["a"])
	}
}

func TestNewZoneIsNotRampedUp(t *testing.T) {
	f := newTestPicker("a", health{name: "a", total: 4, healthy: 2}, health{name: "b", total: 4, healthy: 4})
	f.zonesNow["a"].healthy = 4
	f.updateAt(time.Millisecond)
	if f.shares["a"] != 1 {
		t.Errorf("it gets %v as its endpoints connect", f.shares["a"])
	}
}

func TestRecoveringRemoteZoneRampsUp(t *testing.T) {
	f := newTestPicker("a", health{name: "a", total: 10, healthy: 5}, health{name: "b", total: 10, healthy: 10}, health{name: "c", total: 10, healthy: 10})
	f.zonesNow["b"].healthy = 0
	f.updateAt(time.Second)
	f.zonesNow["b"].healthy = 10
	f.updateAt(1001 * time.Millisecond)
	if b, c := f.shares["b"], f.shares["c"]; b > c/100 {
		t.Errorf("b, which has just returned, gets %v, and c %v", b, c)
	}
}

// newEndpoints connects a pool to six endpoints, two in each of three zones, and returns them. Time is fake.
func newEndpoints(t *testing.T, picker pool.Picker) []*pool.Endpoint {
	t.Helper()
	var seen pool.Static
	for i := range 6 {
		seen = append(seen, netip.AddrPortFrom(netip.AddrFrom4([4]byte{10, 0, byte(i / 2), byte(i)}), 443))
	}
	all := &collector{Picker: picker}
	p, err := pool.New(pool.Config{
		Resolver: seen, Picker: all, Zone: func(a netip.AddrPort) string { return string('a' + rune(a.Addr().As4()[2])) },
		Dial: func(context.Context, netip.AddrPort) (pool.Conn, error) { return nil, fmt.Errorf("nobody is there") },
	})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error)
	go func() { ended <- p.Run(ctx) }()
	<-time.After(time.Second)
	cancel()
	if err := <-ended; err != nil {
		t.Error(err)
	}
	return all.endpoints
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
			t.Fatalf("%d endpoints", len(endpoints))
		}
		for seed := range 200 {
			shares, picks := drawShares(seed), map[string]int{}
			p := &preferPicker{home: "a", next: pool.RoundRobin{}, shares: shares, deficit: map[string]float64{}}
			for n := 1; n <= 500; n++ {
				picks[p.Pick(endpoints).Zone()]++
				for zone, share := range shares {
					if off := math.Abs(float64(picks[zone]) - share*float64(n)); off > float64(len(shares)) {
						t.Fatalf("after %d picks zone %s is off its share %v by %v", n, zone, share, off)
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
		f := newTestPicker("a", health{name: "a", total: 4, healthy: 2}, health{name: "b", total: 4, healthy: 4}, health{name: "c", total: 4, healthy: 4})
		var away []*pool.Endpoint
		for _, e := range endpoints {
			if e.Zone() != "a" {
				away = append(away, e)
			}
		}
		for range 1000 { // home is full
			f.Pick(away)
		}
		f.updateAt(time.Second)
		run := 0
		for f.Pick(endpoints).Zone() == "a" {
			run++
		}
		if run > 10 {
			t.Errorf("once it has room, %d picks in a row go home, where its share is %v", run, f.shares["a"])
		}
	})
}
