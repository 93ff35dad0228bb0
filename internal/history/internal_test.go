// SPDX-License-Identifier: Apache-2.0

package history

import (
	"context"
	"errors"
	"math"
	"math/rand/v2"
	"slices"
	"testing"
	"time"

	"github.com/google/uuid"

	"github.com/sluice-push/sluice/internal/jetstream"
	"github.com/sluice-push/sluice/internal/record"
	"github.com/sluice-push/sluice/internal/testwait"
	"github.com/sluice-push/sluice/push"
)

// keeper needs the messages from a sequence on, until it is asked to rewrite them.
type keeper struct {
	oldest, seq uint64
	limit       int64
}

func (k *keeper) OldestSeq() uint64 { return k.oldest }

func (k *keeper) Rewrite(_ context.Context, seq uint64, limit int64) error {
	k.oldest, k.seq, k.limit = math.MaxUint64, seq, limit
	return nil
}

// TestOldEventsAreDeleted deletes messages of a log by age and by size, and keeps those that the queue
// needs, unless that is much history for few tasks.
func TestOldEventsAreDeleted(t *testing.T) {
	e, err := jetstream.Open(t.Context(), jetstream.Config{Dir: t.TempDir(), Reserve: -1})
	if err != nil {
		t.Fatal(err)
	}
	log, err := OpenLog(t.Context(), e, "")
	if err != nil {
		t.Fatal(err)
	}
	h, err := Open(t.Context(), Config{Engine: e, Log: log, Dir: t.TempDir()})
	if err != nil {
		t.Fatal(err)
	}
	ctx, stop := context.WithCancel(t.Context())
	ended := make(chan error, 2)
	go func() { ended <- h.Run(ctx) }()
	go func() { ended <- log.Run(ctx) }()
	defer func() {
		stop()
		if err := errors.Join(testwait.For(t, ended, "an end"), testwait.For(t, ended, "an end"), h.Close(), e.Close()); err != nil {
			t.Error(err)
		}
	}()
	for range 40 {
		id := uuid.Must(uuid.NewV7()).String()
		if _, err := h.Append(t.Context(), push.Event{ID: id, App: "shop", At: time.Now(), Status: push.StatusSending, Attempt: 1}); err != nil {
			t.Fatal(err)
		}
	}
	first := func() uint64 {
		t.Helper()
		if err := h.deleteOld(t.Context()); err != nil {
			t.Fatal(err)
		}
		info, err := h.stream.Info(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		return info.State.FirstSeq
	}
	if got := first(); got != 1 {
		t.Errorf("the first message is %d", got)
	}
	info, err := h.stream.Info(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	h.cfg.MaxBytes = int64(info.State.Bytes) * 3 / 4
	if got := first(); got < 10 || got > 12 {
		t.Errorf("by size, the first message is %d", got)
	}
	k := &keeper{oldest: 20}
	log.Keep(k)
	h.cfg.MaxAge, h.cfg.MaxBytes = time.Nanosecond, 1<<30
	if got := first(); got != 20 {
		t.Errorf("by age, the first message is %d, want 20, which is needed", got)
	}
	if k.seq != 0 {
		t.Error("asked to rewrite although little is kept")
	}
	h.cfg.MaxBytes = int64(info.State.Bytes)
	if got := first(); got != 41 {
		t.Errorf("by age, the first message is %d", got)
	}
	if half := int64(info.State.Bytes) / 2; k.seq != 41 || k.limit < half/5 || k.limit > half/3 {
		t.Errorf("asked to rewrite before %d with %d bytes, want 41 and a quarter of %d", k.seq, k.limit, half)
	}
}

// TestOpenSegmentFindsWhatIsAddedBetweenLookups adds entries, some with the same hash, and compares
// lookups with a scan.
func TestOpenSegmentFindsWhatIsAddedBetweenLookups(t *testing.T) {
	s, random := newOpenSegment(1), rand.New(rand.NewPCG(1, 2))
	if got := s.find(1, nil); len(got) != 0 {
		t.Error(got)
	}
	for i := range 5000 {
		s.add(random.Uint64N(2000)<<random.IntN(40), newPosition(jetstream.Offset{Seq: uint64(i)}, record.End))
		if i%7 != 0 && i < 4000 {
			continue
		}
		hash, want := s.list[random.IntN(len(s.list))].hash, []position(nil)
		for _, e := range s.list {
			if e.hash == hash {
				want = append(want, e.position)
			}
		}
		if got := s.find(hash, nil); !slices.Equal(got, want) {
			t.Fatalf("%d: %v, want %v", i, got, want)
		}
	}
}
