// SPDX-License-Identifier: Apache-2.0

package panics_test

import (
	"bytes"
	"context"
	"errors"
	"log/slog"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/sluice-push/sluice/internal/panics"
)

func newLog() (*bytes.Buffer, *slog.Logger) {
	var text bytes.Buffer
	return &text, slog.New(slog.NewTextHandler(&text, nil))
}

func TestRecoverReturnsPanicWithoutItsValue(t *testing.T) {
	text, log := newLog()
	var none []int
	for want, work := range map[string]func() error{
		"panicked: string": func() error { panic("SECRET") },
		"panicked: runtime error: index out of range [0] with length 0": func() error { return errors.New(string(rune(none[len(none)]))) },
	} {
		if err := panics.Recover(log, "apps.shop.fcm", work); err == nil || err.Error() != want {
			t.Errorf("%v, want %s", err, want)
		}
	}
	if strings.Contains(text.String(), "SECRET") || strings.Count(text.String(), "task=apps.shop.fcm") != 2 || !strings.Contains(text.String(), "panics_test.go") {
		t.Errorf("log: %s", text)
	}
}

func TestRecoverReturnsErrorOfWork(t *testing.T) {
	text, log := newLog()
	failure := errors.New("x")
	if err := panics.Recover(log, "x", func() error { return failure }); err != failure || text.Len() > 0 {
		t.Errorf("%v, log %s", err, text)
	}
}

func TestRestartBacksOff(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		_, log := newLog()
		ctx, cancel := context.WithCancel(t.Context())
		var times []time.Duration
		started := time.Now()
		time.AfterFunc(time.Hour, cancel)
		err := panics.Restart(ctx, log, "x", func(context.Context) error {
			times = append(times, time.Since(started))
			if len(times) == 9 {
				time.Sleep(2 * time.Minute) // long enough to start with the first delay again
			}
			panic("x")
		})
		if err != nil || len(times) < 60 || len(times) > 72 {
			t.Fatalf("%v after %d runs", err, len(times))
		}
		want := []time.Duration{0, 1, 3, 7, 15, 31, 63, 123, 183, 304, 306}
		for i := range want {
			want[i] *= time.Second
		}
		if got := times[:len(want)]; !slices.Equal(got, want) {
			t.Errorf("runs at %v, want %v", got, want)
		}
	})
}

func TestRestartEndsWithWork(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		_, log := newLog()
		runs, failure := 0, errors.New("x")
		err := panics.Restart(t.Context(), log, "x", func(context.Context) error {
			if runs++; runs < 3 {
				panic("x")
			}
			return failure
		})
		if err != failure || runs != 3 {
			t.Errorf("%v after %d runs", err, runs)
		}
	})
}
