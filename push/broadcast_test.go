// SPDX-License-Identifier: Apache-2.0

package push_test

import (
	"testing"

	"pgregory.net/rapid"

	"github.com/sluice-push/sluice/push"
)

func TestIDContainsLineOfBroadcast(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		broadcast := push.BroadcastID(rapid.Int64Range(0, 1<<48-1).Draw(t, "millis"), rapid.Uint64().Draw(t, "random"))
		if _, ok := push.ParseBroadcastLine(broadcast); ok {
			t.Fatal("the ID of a broadcast has a line")
		}
		want := push.BroadcastLine{Broadcast: broadcast, Line: rapid.Uint32().Draw(t, "line"), Recall: rapid.Bool().Draw(t, "recall"),
			Variant: rapid.Uint8Range(0, push.MaxVariant).Draw(t, "variant")}
		if got, ok := push.ParseBroadcastLine(want.ID()); !ok || got != want {
			t.Fatalf("got %+v, %v; want %+v", got, ok, want)
		}
	})
}

func TestIDsOfLinesAreDistributed(t *testing.T) {
	broadcast, buckets := push.BroadcastID(1795350000000, 42), map[byte]int{}
	const lines = 1 << 14
	for line := range uint32(lines) {
		buckets[push.BroadcastLine{Broadcast: broadcast, Line: line}.ID()[8]&0x3f]++
	}
	for bucket, count := range buckets {
		if count < lines/64/2 || count > lines/64*2 {
			t.Errorf("bucket %d has %d of %d IDs", bucket, count, lines)
		}
	}
}
