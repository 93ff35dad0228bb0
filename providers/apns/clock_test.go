// SPDX-License-Identifier: Apache-2.0

package apns

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"log/slog"
	"strings"
	"testing"
	"testing/synctest"
	"time"
)

// These tests access internals: a test cannot set the wall clock and leave the monotonic clock
// unchanged. APNs sees the wall clock only as iat, so a token with a different iat has the same
// effect as setting the clock after the token was minted.

func newLoggingSigner(t *testing.T) (*Signer, *bytes.Buffer) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	var log bytes.Buffer
	return &Signer{key: key, keyID: "ABC123DEFG", teamID: "DEF123GHIJ", log: slog.New(slog.NewTextHandler(&log, nil))}, &log
}

// shiftClock has the effect of moving the wall clock by d since the current token was minted.
func shiftClock(s *Signer, d time.Duration) {
	t := *s.current.Load()
	t.issuedAt -= int64(d / time.Second)
	s.current.Store(&t)
}

func TestClockStepReplacesTokenAfterMinimumAge(t *testing.T) {
	for _, step := range []time.Duration{61 * time.Minute, -61 * time.Minute, 24 * time.Hour, -24 * time.Hour} {
		synctest.Test(t, func(t *testing.T) {
			s, log := newLoggingSigner(t)
			first, _ := s.token()
			shiftClock(s, step)
			for range 19 {
				now, _ := s.token()
				if now.field != first.field {
					t.Fatal("token replaced within 20 minutes")
				}
				time.Sleep(time.Minute)
			}
			time.Sleep(time.Minute)
			if now, _ := s.token(); now.field == first.field {
				t.Error("token with a wrong time of issue kept for more than 20 minutes")
			}
			if strings.Count(log.String(), "clock was set") != 1 {
				t.Errorf("warnings: %s", log)
			}
		})
	}
}

func TestSmallClockCorrectionKeepsToken(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, log := newLoggingSigner(t)
		first, _ := s.token()
		shiftClock(s, 30*time.Second)
		time.Sleep(39 * time.Minute)
		if now, _ := s.token(); now.field != first.field || log.Len() > 0 {
			t.Errorf("a clock correction of 30 s replaced the token or was logged: %s", log)
		}
	})
}
