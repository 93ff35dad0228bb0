// SPDX-License-Identifier: Apache-2.0

package audience_test

import (
	"math"
	"testing"

	"github.com/sluice-push/sluice/internal/audience"
)

func TestMergedSketchesEqualTheWhole(t *testing.T) {
	for _, devices := range []int{0, 100, 10_000, 60_000, 1_000_000} {
		if raceEnabled && devices == 1_000_000 { // it would take 10 s
			continue
		}
		whole := audience.NewSketch()
		parts := []*audience.Sketch{audience.NewSketch(), audience.NewSketch(), audience.NewSketch()}
		for i := range devices {
			whole.Add(device(i))
			parts[i%3].Add(device(i))
			parts[0].Add(device(i / 2)) // parts overlap
		}
		merged := audience.NewSketch()
		for _, part := range parts {
			stored, err := part.MarshalBinary()
			if err != nil || len(stored) > 17<<10 {
				t.Fatalf("%d bytes, %v", len(stored), err)
			}
			restored := new(audience.Sketch)
			if err := restored.UnmarshalBinary(stored); err != nil {
				t.Fatal(err)
			}
			if restored.Count() != part.Count() {
				t.Errorf("%d devices are %d after storing", part.Count(), restored.Count())
			}
			if err := merged.Merge(restored); err != nil {
				t.Fatal(err)
			}
		}
		if merged.Count() != whole.Count() {
			t.Errorf("merged %d, whole %d", merged.Count(), whole.Count())
		}
		const bound = 3 * audience.SketchError
		if diff := math.Abs(float64(whole.Count()) - float64(devices)); diff > bound*float64(devices) {
			t.Errorf("%d devices are estimated as %d", devices, whole.Count())
		}
	}
}

func TestInvalidSketchIsAnError(t *testing.T) {
	for _, data := range []string{"", "x", "\x03\x0e\x00\x00\xff\xff\xff\xff"} {
		if err := new(audience.Sketch).UnmarshalBinary([]byte(data)); err == nil {
			t.Errorf("%q is accepted", data)
		}
	}
}
