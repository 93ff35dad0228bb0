// SPDX-License-Identifier: Apache-2.0

package quotalease

import (
	"encoding/json"
	"fmt"
	"maps"
	"slices"
)

// document is what all members know of one quota.
type document struct {
	// Born names this document: one that takes the place of a lost one has another name.
	Epoch string `json:"born"`
	// Settled says that whatever was leased by documents before this one has ended. Until then its members write down what
	// they hold, and nobody takes more.
	Ready   bool                    `json:"settled"`
	Members map[string]*memberState `json:"members"`
}

// memberState is what one of them has written down.
type memberState struct {
	// Beat is another number each time that it writes: a lease goes on from there.
	Heartbeat uint64 `json:"beat"`
	// Parts are what it may spend of each scope, in millionths, besides what it has out of touch; Wants is what it would.
	Shares map[string]int64 `json:"parts"`
	Demand map[string]int64 `json:"wants"`
}

func parseDocument(text []byte) (*document, error) {
	d := &document{}
	if err := json.Unmarshal(text, d); err != nil {
		return nil, fmt.Errorf("share: a document that is none of ours: %w", err)
	}
	if d.Members == nil {
		d.Members = map[string]*memberState{}
	}
	return d, nil
}

// available returns how much of a scope nobody but me has.
func (d *document) available(scope, me string, pool int64) int64 {
	for name, m := range d.Members {
		if name != me {
			pool -= m.Shares[scope]
		}
	}
	return max(pool, 0)
}

// target returns what is due to me of a scope.
func (d *document) target(scope, me string, pool int64) int64 {
	var names []string
	var wants []int64
	for _, name := range slices.Sorted(maps.Keys(d.Members)) {
		if want, shares := d.Members[name].Demand[scope]; shares {
			names, wants = append(names, name), append(wants, want)
		}
	}
	i := slices.Index(names, me)
	if i < 0 {
		return 0
	}
	return fairShares(pool, wants)[i]
}

// fairShares divides a pool among those who want so much of it. Everybody has a little, to begin with when he wants more. Then
// nobody gets more than he wants, and a quarter for what comes next, while another who has no more than he does wants more;
// what is left is for all alike.
func fairShares(pool int64, wants []int64) []int64 {
	n := int64(len(wants))
	least := pool / (50 * n)
	parts := make([]int64, n)
	order := make([]int, n)
	for i := range wants {
		parts[i], order[i] = least, i
	}
	need := func(i int) int64 { return max(min(wants[i], fullShare)*5/4-least, 0) }
	slices.SortStableFunc(order, func(a, b int) int { return int(need(a) - need(b)) })
	left := pool - n*least
	for done, i := range order { // the most modest first
		got := min(need(i), left/(n-int64(done)))
		parts[i] += got
		left -= got
	}
	for i := range parts {
		parts[i] += left / n
	}
	return parts
}
