// SPDX-License-Identifier: Apache-2.0

package quotalease

import (
	"encoding/json"
	"fmt"
	"maps"
	"slices"
)

// document is the state of one quota that all members share.
type document struct {
	// Epoch identifies this document. A document that replaces a lost one has another epoch.
	Epoch string `json:"epoch"`
	// Ready is set once all leases granted by earlier documents have expired. Until then members
	// record the shares that they already hold, and none of them gets more.
	Ready   bool                    `json:"ready"`
	Members map[string]*memberState `json:"members"`
}

// memberState is a member's entry in a document.
type memberState struct {
	// Heartbeat changes with every write of the member, and thereby renews its lease.
	Heartbeat uint64 `json:"heartbeat"`
	// Shares is what the member may use of each scope, without the fallback share, and Demand is
	// what it needs. Both are in millionths of the limit.
	Shares map[string]int64 `json:"shares"`
	Demand map[string]int64 `json:"demand"`
}

func parseDocument(text []byte) (*document, error) {
	d := &document{}
	if err := json.Unmarshal(text, d); err != nil {
		return nil, fmt.Errorf("quotalease: invalid document: %w", err)
	}
	if d.Members == nil {
		d.Members = map[string]*memberState{}
	}
	maps.DeleteFunc(d.Members, func(_ string, m *memberState) bool { return m == nil })
	return d, nil
}

// available returns how much of a scope no member except id has.
func (d *document) available(scope, id string, pool int64) int64 {
	for other, m := range d.Members {
		if other != id {
			pool -= m.Shares[scope]
		}
	}
	return max(pool, 0)
}

// target returns the share of a scope that member id should have.
func (d *document) target(scope, id string, pool int64) int64 {
	var ids []string
	var demands []int64
	for _, other := range slices.Sorted(maps.Keys(d.Members)) {
		if demand, ok := d.Members[other].Demand[scope]; ok {
			ids, demands = append(ids, other), append(demands, demand)
		}
	}
	i := slices.Index(ids, id)
	if i < 0 {
		return 0
	}
	return fairShares(pool, demands)[i]
}

// fairShares divides a pool by max-min fairness. Every member gets a minimum, so that it can start
// to send when its demand rises. Then, beginning with the smallest demand, each member gets its
// demand and a quarter more, but no more than an equal part of what is left. The rest is divided
// equally.
func fairShares(pool int64, demands []int64) []int64 {
	n := int64(len(demands))
	minimum := pool / (50 * n)
	shares := make([]int64, n)
	order := make([]int, n)
	for i := range demands {
		shares[i], order[i] = minimum, i
	}
	need := func(i int) int64 { return max(min(demands[i], fullShare)*5/4-minimum, 0) }
	slices.SortStableFunc(order, func(a, b int) int { return int(need(a) - need(b)) })
	left := pool - n*minimum
	for done, i := range order {
		share := min(need(i), left/(n-int64(done)))
		shares[i] += share
		left -= share
	}
	for i := range shares {
		shares[i] += left / n
	}
	return shares
}
