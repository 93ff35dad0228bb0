// SPDX-License-Identifier: Apache-2.0

package audience_test

import (
	"fmt"
	"math/rand/v2"
	"path/filepath"
	"runtime"
	"slices"
	"testing"

	"github.com/sluice-push/sluice/internal/audience"
	"github.com/sluice-push/sluice/push"
)

// findDuplicates returns the lines to skip among recipients, whose first line is 1.
func findDuplicates(t *testing.T, d *audience.Duplicates, recipients []audience.Recipient) []uint32 {
	t.Helper()
	for i := range recipients {
		if err := d.Add(uint32(i+1), &recipients[i]); err != nil {
			t.Fatal(err)
		}
	}
	found, err := d.Find()
	if err != nil {
		t.Fatal(err)
	}
	if err := d.Close(); err != nil {
		t.Fatal(err)
	}
	return found.ToArray()
}

func TestDuplicatesAreLinesOfOneDevice(t *testing.T) {
	target := func(p push.Platform, target push.Target) audience.Recipient {
		return audience.Recipient{Platform: p, Target: target}
	}
	recipients := []audience.Recipient{
		target(push.APNs, push.Target{Token: "0a"}),
		target(push.FCM, push.Target{Token: "0a"}),        // another platform
		target(push.FCM, push.Target{Installation: "0a"}), // another kind
		target(push.APNs, push.Target{Token: "0A"}),       // 4: APNs ignores the case
		target(push.FCM, push.Target{Token: "0A"}),
		target(push.WebPush, push.Target{Subscription: &push.Subscription{Endpoint: "https://a.test"}}),
		target(push.WebPush, push.Target{Subscription: &push.Subscription{Endpoint: "https://a.test", Keys: push.SubscriptionKeys{Auth: "b"}}}), // 7
		{Platform: push.APNs, Target: push.Target{Token: "0a"}, Key: "other", Language: "de"},                                                   // 8
	}
	dir := t.TempDir()
	if got := findDuplicates(t, audience.NewDuplicates(dir), recipients); !slices.Equal(got, []uint32{4, 7, 8}) {
		t.Errorf("lines %v", got)
	}
}

// TestDuplicatesInFile has more lines than fit into memory.
func TestDuplicatesInFile(t *testing.T) {
	random := rand.New(rand.NewPCG(1, 2))
	const lines, devices = 80_000, 60_000
	recipients, seen, want := make([]audience.Recipient, lines), map[int]bool{}, []uint32(nil)
	for i := range recipients {
		id := random.IntN(devices)
		recipients[i] = *device(id)
		if seen[id] {
			want = append(want, uint32(i+1))
		}
		seen[id] = true
	}
	dir := t.TempDir()
	d := audience.NewDuplicates(dir)
	for i := range recipients {
		if err := d.Add(uint32(i+1), &recipients[i]); err != nil {
			t.Fatal(err)
		}
	}
	if left, _ := filepath.Glob(filepath.Join(dir, "*")); runtime.GOOS != "windows" && len(left) > 0 {
		t.Errorf("a crash would leave %v", left)
	}
	found, err := d.Find()
	if err != nil {
		t.Fatal(err)
	}
	if !slices.Equal(found.ToArray(), want) {
		t.Errorf("%d lines, want %d", found.GetCardinality(), len(want))
	}
	if err := d.Close(); err != nil {
		t.Fatal(err)
	}
	if left, _ := filepath.Glob(filepath.Join(dir, "*")); len(left) > 0 {
		t.Errorf("Close left %v", left)
	}
}

func TestDuplicatesReportsErrorOfFile(t *testing.T) {
	d := audience.NewDuplicates(filepath.Join(t.TempDir(), "missing"))
	for i := range 100_000 {
		if err := d.Add(uint32(i), device(i)); err != nil {
			if err := d.Close(); err != nil {
				t.Error(err)
			}
			return
		}
	}
	t.Error("no error without a directory for the file")
}

func ExampleDuplicates() {
	d := audience.NewDuplicates("")
	for line, token := range []string{"0a0b", "0c0d", "0A0B"} {
		if err := d.Add(uint32(line+1), &audience.Recipient{Platform: push.APNs, Target: push.Target{Token: token}}); err != nil {
			fmt.Println(err)
		}
	}
	lines, err := d.Find()
	fmt.Println(lines, err, d.Close())
	// Output: {3} <nil> <nil>
}
