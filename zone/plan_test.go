// SPDX-License-Identifier: Apache-2.0

package zone

import (
	"fmt"
	"math"
	"testing"

	"pgregory.net/rapid"
)

const epsilon = 1e-9

// drawZones draws up to six zones, none of which is recovering.
func drawZones(t *rapid.T) (zones []health) {
	for i := range rapid.IntRange(1, 6).Draw(t, "zones") {
		z := health{name: fmt.Sprint(i), total: rapid.IntRange(1, 20).Draw(t, "endpoints")}
		z.healthy = rapid.IntRange(0, z.total).Draw(t, "healthy")
		z.localShare = z.maxLocalShare()
		zones = append(zones, z)
	}
	return zones
}

func TestPlanSharesSumToOne(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		zones := drawZones(t)
		for i := range zones { // also recovering ones
			zones[i].localShare *= rapid.Float64Range(0, 1).Draw(t, "ramp")
		}
		shares := plan("0", zones)
		if shares == nil {
			return
		}
		sum := 0.0
		for name, share := range shares {
			if share < 0 || share > 1+epsilon {
				t.Fatalf("zone %s: share %v", name, share)
			}
			sum += share
		}
		if math.Abs(sum-1) > epsilon {
			t.Fatalf("shares sum to %v: %v", sum, shares)
		}
	})
}

func TestPlanBoundsLoadPerEndpoint(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		zones := drawZones(t)
		load, total, healthy := map[string]float64{}, 0, 0
		for _, home := range zones {
			total += home.total
			healthy += home.healthy
			for name, share := range plan(home.name, zones) {
				load[name] += share * float64(home.total)
			}
		}
		if 2*healthy < total {
			if len(load) > 0 {
				t.Fatalf("plan is not nil with %d of %d endpoints healthy", healthy, total)
			}
			return
		}
		limit := max(overprovisioningFactor, float64(total)/float64(healthy))
		for _, z := range zones {
			switch {
			case z.healthy == 0 && load[z.name] > epsilon:
				t.Fatalf("zone %s has no healthy endpoint and gets load %v", z.name, load[z.name])
			case z.healthy > 0 && load[z.name]/float64(z.healthy) > limit+epsilon:
				t.Fatalf("each of %d healthy endpoints of zone %s gets load %v, want at most %v: %v", z.healthy, z.name, load[z.name]/float64(z.healthy), limit, zones)
			}
		}
	})
}

func TestHomeKeepsTrafficWithinCapacity(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		zones := drawZones(t)
		zones[0].healthy = int(math.Ceil(float64(zones[0].total) / overprovisioningFactor))
		zones[0].localShare = zones[0].maxLocalShare()
		if shares := plan("0", zones); shares != nil && (len(shares) != 1 || shares["0"] != 1) {
			t.Fatalf("home can take its load with %d of %d healthy, shares %v", zones[0].healthy, zones[0].total, shares)
		}
	})
}

func TestZoneLossSpreadsLoadEvenly(t *testing.T) {
	zones := []health{{"a", 4, 0, 0}, {"b", 4, 4, 1}, {"c", 4, 4, 1}}
	for home, want := range map[string]map[string]float64{"a": {"a": 0, "b": .5, "c": .5}, "b": {"b": 1}, "c": {"c": 1}} {
		if got := plan(home, zones); fmt.Sprint(got) != fmt.Sprint(want) {
			t.Errorf("callers in %s: %v, want %v", home, got, want)
		}
	}
}

func TestOverflowFollowsResidualCapacity(t *testing.T) {
	zones := []health{{"a", 10, 6, 0.84}, {"b", 10, 8, 1}, {"c", 10, 10, 1}} // residual capacity: b 1.2, c 4
	got := plan("a", zones)
	if math.Abs(got["a"]-.84) > epsilon || math.Abs(got["b"]-.16*1.2/5.2) > epsilon || math.Abs(got["c"]-.16*4/5.2) > epsilon {
		t.Errorf("plan = %v", got)
	}
}

func TestUnknownHomeHasNoPlan(t *testing.T) {
	if got := plan("elsewhere", []health{{"a", 4, 4, 1}}); got != nil {
		t.Errorf("plan = %v, want nil", got)
	}
}
