// SPDX-License-Identifier: Apache-2.0

package tally_test

import (
	"encoding/json"
	"testing"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"github.com/sluice-push/sluice/internal/tally"
	"github.com/sluice-push/sluice/push"
)

// drawTally applies random changes to a tally, and to a map that says the same.
func drawTally(t *rapid.T) (*tally.Tally, map[push.BroadcastLine]push.Status) {
	b, lines := tally.New(7), map[push.BroadcastLine]push.Status{}
	b.Status, b.Revision = tally.Running, 3
	key := func(l push.BroadcastLine) push.BroadcastLine { l.Variant = 0; return l }
	for i := range rapid.IntRange(0, 200).Draw(t, "changes") {
		l := push.BroadcastLine{Line: rapid.Uint32Range(1, 50).Draw(t, "line"), Recall: rapid.Bool().Draw(t, "recall")}
		l.Variant = uint8(l.Line % 3)
		platform := []push.Platform{push.APNs, push.FCM}[l.Line%2]
		if rapid.Bool().Draw(t, "enqueue") {
			_, known := lines[key(l)]
			if added := b.Enqueue(l, platform, tally.Position{Seq: uint64(i)}); added == known {
				t.Fatalf("a line that is known: %v; added: %v", known, added)
			}
			if !known {
				lines[key(l)] = push.StatusQueued
			}
			continue
		}
		status := rapid.SampledFrom([]push.Status{push.StatusAccepted, push.StatusUnknown, push.StatusRefused}).Draw(t, "status")
		b.End(l, platform, status, "reason")
		if lines[key(l)] == push.StatusQueued {
			lines[key(l)] = status
		}
	}
	return b, lines
}

// statuses returns the number of lines in a phase by status.
func statuses(lines map[push.BroadcastLine]push.Status, p tally.Phase) map[push.Status]uint64 {
	counts := map[push.Status]uint64{}
	for l, status := range lines {
		if tally.PhaseOf(l) == p {
			counts[status]++
		}
	}
	return counts
}

func TestCountsAddUp(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		b, lines := drawTally(t)
		for _, p := range []tally.Phase{tally.Send, tally.Recall} {
			counts, total := map[push.Status]uint64{}, uint64(0)
			for _, c := range b.Counts(p) {
				counts[c.Status] += c.Lines
				total += c.Lines
			}
			want := statuses(lines, p)
			if diff := cmp.Diff(want, counts); diff != "" || total != b.Enqueued(p) || b.Open(p) != int(want[push.StatusQueued]) {
				t.Fatalf("%d open, %d in all, want (-):\n%s", b.Open(p), total, diff)
			}
		}
		result, reached, open := b.Results(tally.Send), b.Reached(), b.OpenLines(tally.Send)
		for line := range uint32(51) {
			want := lines[push.BroadcastLine{Line: line}]
			if got := result(line).Status; got != want {
				t.Fatalf("line %d: %s, want %s", line, got, want)
			}
			if open.Contains(line) != (want == push.StatusQueued) {
				t.Fatalf("line %d is %s, open: %v", line, want, open.Contains(line))
			}
			if reached.Contains(line) != (want == push.StatusAccepted || want == push.StatusUnknown) {
				t.Fatalf("line %d is %s, reached: %v", line, want, reached.Contains(line))
			}
		}
	})
}

func TestStoredTallyIsTheSame(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		b, _ := drawTally(t)
		text, err := json.Marshal(b.Clone())
		if err != nil {
			t.Fatal(err)
		}
		stored := new(tally.Tally)
		if err := json.Unmarshal(text, stored); err != nil {
			t.Fatal(err)
		}
		if stored.Status != b.Status || stored.Revision != b.Revision || stored.Since != b.Since {
			t.Fatalf("%+v, want %+v", stored, b)
		}
		for _, p := range []tally.Phase{tally.Send, tally.Recall} {
			if diff := cmp.Diff(b.Counts(p), stored.Counts(p)); diff != "" || stored.Open(p) != b.Open(p) {
				t.Fatal(diff)
			}
		}
	})
}
