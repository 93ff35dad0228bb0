// SPDX-License-Identifier: Apache-2.0

package history

import (
	"encoding/binary"
	"testing"
	"time"
)

func keyOf(i int) []byte { return binary.BigEndian.AppendUint64(nil, uint64(i)) }

func filled(keys int, at time.Time) *filter {
	f := newFilter()
	for i := range keys {
		f.add(keyOf(i), at, time.Hour)
	}
	f.whole.Store(true)
	return f
}

func TestAFilterKnowsAllItsKeysAndTakesFewOthersForKnown(t *testing.T) {
	const keys, others = leafKeys + 1000, 100_000
	f := filled(keys, time.Now())
	for i := range keys {
		if !f.may(keyOf(i)) {
			t.Fatalf("key %d is taken for a new one", i)
		}
	}
	mistaken := 0
	for i := range others {
		if f.may(keyOf(keys + i)) {
			mistaken++
		}
	}
	if mistaken > others/100 { // a few in a thousand are to be expected, whatever the seed
		t.Errorf("of %d new keys %d are taken for known ones", others, mistaken)
	}
	if len(f.leaves) != 2 {
		t.Errorf("%d leaves for %d keys", len(f.leaves), keys)
	}
}

func TestAFilterThatIsNotWholeYetRulesNothingOut(t *testing.T) {
	if f := newFilter(); !f.may(keyOf(1)) {
		t.Error("a key is taken for a new one before those of the index are known")
	}
}

func TestAFilterLetsGoOfKeysThatAreTooOld(t *testing.T) {
	f := filled(1000, time.Now().Add(-time.Minute))
	f.add(keyOf(1000), time.Now().Add(-time.Minute), 30*time.Second) // is too old itself
	for i := range 10 {
		f.add(keyOf(i), time.Now(), 30*time.Second) // these came again
	}
	if len(f.leaves) != 1 {
		t.Fatalf("%d leaves", len(f.leaves))
	}
	for i := range 10 {
		if !f.may(keyOf(i)) {
			t.Errorf("key %d, which came again, is taken for a new one", i)
		}
	}
}

func TestAKeyThatComesAgainTakesItsRoomOnce(t *testing.T) {
	f := filled(1000, time.Now())
	for i := range 1000 {
		f.add(keyOf(i), time.Now(), time.Hour)
	}
	if got := f.leaves[0].keys; got > 1000 {
		t.Errorf("%d keys are counted", got)
	}
}
