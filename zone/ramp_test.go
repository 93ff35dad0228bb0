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

// fleet is a picker with what it was told of its zones, without a pool.
type fleet struct {
	*prefer
	began time.Time
	now   map[string]*standing
}

func newFleet(home string, zones ...standing) *fleet {
	f := &fleet{prefer: Prefer(home, pool.RoundRobin{}).(*prefer), began: time.Unix(0, 0), now: map[string]*standing{}}
	for _, z := range zones {
		f.now[z.name] = &z
	}
	f.at(0)
	return f
}

// at surveys the fleet that long after it began.
func (f *fleet) at(after time.Duration) {
	seen := map[string]*standing{}
	for name, z := range f.now {
		seen[name] = &standing{name: name, all: z.all, healthy: z.healthy}
	}
	f.replan(seen, f.began.Add(after))
}

func TestAZoneThatReturnsTakesItsLoadOverTenSeconds(t *testing.T) {
	f := newFleet("a", standing{name: "a", all: 4, healthy: 4}, standing{name: "b", all: 4, healthy: 4}, standing{name: "c", all: 4, healthy: 4})
	f.now["a"].healthy = 0
	f.at(time.Second)
	if f.shares["a"] != 0 {
		t.Fatalf("a lost zone keeps %v", f.shares["a"])
	}
	f.now["a"].healthy = 4
	for second := 2; second <= 12; second++ {
		f.at(time.Duration(second) * time.Second)
		// The others bear 1.4 of their own; what is beyond that is everybody's, in proportion to what they can.
		if want := math.Min(1, float64(second-1)/10); f.shares["a"] < want-almost || f.shares["a"] > want*1.05 {
			t.Errorf("%d s after its return it gets %v, want %v or little more", second-1, f.shares["a"], want)
		}
	}
	f.now["a"].healthy = 3 // it has returned: what it bears, it bears at once
	f.at(13 * time.Second)
	if f.shares["a"] != 1 {
		t.Errorf("with three of four it keeps %v", f.shares["a"])
	}
}

func TestAZoneThatIsNewIsNotHeldBack(t *testing.T) {
	f := newFleet("a", standing{name: "a", all: 4, healthy: 2}, standing{name: "b", all: 4, healthy: 4})
	f.now["a"].healthy = 4
	f.at(time.Millisecond)
	if f.shares["a"] != 1 {
		t.Errorf("it gets %v as its endpoints connect", f.shares["a"])
	}
}

func TestAnotherZoneThatReturnsIsSparedToo(t *testing.T) {
	f := newFleet("a", standing{name: "a", all: 10, healthy: 5}, standing{name: "b", all: 10, healthy: 10}, standing{name: "c", all: 10, healthy: 10})
	f.now["b"].healthy = 0
	f.at(time.Second)
	f.now["b"].healthy = 10
	f.at(1001 * time.Millisecond)
	if b, c := f.shares["b"], f.shares["c"]; b > c/100 {
		t.Errorf("b, which has just returned, gets %v, and c %v", b, c)
	}
}

// members connects a pool to six endpoints, two in each of three zones, and returns them. Time is fake.
func members(t *testing.T, picker pool.Picker) []*pool.Endpoint {
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

func TestNoZoneGetsMorePicksThanItsShare(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		endpoints := members(t, pool.RoundRobin{})
		if len(endpoints) != 6 {
			t.Fatalf("%d endpoints", len(endpoints))
		}
		for seed := range 200 {
			shares, picks := drawShares(seed), map[string]int{}
			p := &prefer{home: "a", next: pool.RoundRobin{}, shares: shares, owed: map[string]float64{}}
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

func TestWhatAFullZoneCannotTakeIsLetGoAndNotPaidBackAtOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		endpoints := members(t, pool.RoundRobin{})
		f := newFleet("a", standing{name: "a", all: 4, healthy: 2}, standing{name: "b", all: 4, healthy: 4}, standing{name: "c", all: 4, healthy: 4})
		var away []*pool.Endpoint
		for _, e := range endpoints {
			if e.Zone() != "a" {
				away = append(away, e)
			}
		}
		for range 1000 { // home is full
			f.Pick(away)
		}
		f.at(time.Second)
		run := 0
		for f.Pick(endpoints).Zone() == "a" {
			run++
		}
		if run > 10 {
			t.Errorf("once it has room, %d picks in a row go home, where its share is %v", run, f.shares["a"])
		}
	})
}
