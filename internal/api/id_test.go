// SPDX-License-Identifier: Apache-2.0

package api_test

import (
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/google/uuid"

	"github.com/sluice-push/sluice/internal/api"
	"github.com/sluice-push/sluice/internal/testwait"
)

func TestIDsAreUUIDsOfVersion7(t *testing.T) {
	var g api.IDGenerator
	now := time.Date(2026, 11, 22, 7, 8, 9, 10_999_999, time.UTC)
	id, err := uuid.Parse(g.Next(now))
	if err != nil || id.Version() != 7 || id.Variant() != uuid.RFC4122 {
		t.Fatalf("%s: version %d, variant %d, %v", id, id.Version(), id.Variant(), err)
	}
	if at := time.Unix(id.Time().UnixTime()); at.Sub(now).Abs() > 1*time.Millisecond {
		t.Errorf("%s has the time %s, want %s", id, at, now)
	}
}

func TestIDsIncrease(t *testing.T) {
	var g api.IDGenerator
	now := time.Date(2026, 11, 22, 7, 8, 9, 0, time.UTC)
	last := ""
	for i := range 20_000 { // more than one tick of the clock, which also goes back
		id := g.Next(now.Add(time.Duration(i%3-i%7) * time.Millisecond))
		if id <= last {
			t.Fatalf("%d: %s after %s", i, id, last)
		}
		last = id
	}
}

func TestIDsOfConcurrentCallsAreUnique(t *testing.T) {
	const callers, each = 8, 2_000
	var g api.IDGenerator
	var ids [callers][]string
	now := time.Now()
	var all sync.WaitGroup
	for i := range ids {
		all.Go(func() {
			for range each {
				ids[i] = append(ids[i], g.Next(now))
			}
		})
	}
	testwait.Call(t, all.Wait, "the end of all callers")
	for _, of := range ids {
		if !slices.IsSorted(of) {
			t.Error("the IDs of a goroutine do not increase")
		}
	}
	sorted := slices.Sorted(slices.Values(slices.Concat(ids[:]...)))
	for i, id := range sorted[1:] {
		if id[:18] == sorted[i][:18] { // without the random bits
			t.Fatalf("%s and %s", sorted[i], id)
		}
	}
}

func BenchmarkID(b *testing.B) {
	var g api.IDGenerator
	now := time.Now()
	b.ReportAllocs()
	for b.Loop() {
		_ = g.Next(now)
	}
}
