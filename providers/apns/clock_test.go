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

// These tests know the inside: no test can set the wall clock and leave the
// monotonic one alone. What Apple sees of a wall clock is iat, so a token that
// bears another one stands for a clock that was set after it was minted.

func clockwork(t *testing.T) (*Signer, *bytes.Buffer) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	var log bytes.Buffer
	return &Signer{key: key, keyID: "ABC123DEFG", teamID: "DEF123GHIJ", log: slog.New(slog.NewTextHandler(&log, nil))}, &log
}

// setClock makes the wall clock differ by d from what it was when the current
// token was minted.
func setClock(s *Signer, d time.Duration) {
	t := *s.current.Load()
	t.issued -= int64(d / time.Second)
	s.current.Store(&t)
}

func TestAStepOfTheWallClockMintsNeitherEarlyNorLate(t *testing.T) {
	for _, step := range []time.Duration{61 * time.Minute, -61 * time.Minute, 24 * time.Hour, -24 * time.Hour} {
		synctest.Test(t, func(t *testing.T) {
			s, log := clockwork(t)
			first, _ := s.token()
			setClock(s, step)
			for range 19 {
				now, _ := s.token()
				if now.bearer != first.bearer {
					t.Fatal("minted within 20 minutes")
				}
				time.Sleep(time.Minute)
			}
			time.Sleep(time.Minute)
			if now, _ := s.token(); now.bearer == first.bearer {
				t.Error("kept a token with a wrong time of issue for longer than Apple asks")
			}
			if strings.Count(log.String(), "clock was set") != 1 {
				t.Errorf("alarms: %s", log)
			}
		})
	}
}

func TestAClockThatIsCorrectedABitIsNoStep(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, log := clockwork(t)
		first, _ := s.token()
		setClock(s, 30*time.Second)
		time.Sleep(39 * time.Minute)
		if now, _ := s.token(); now.bearer != first.bearer || log.Len() > 0 {
			t.Errorf("a drift of half a minute replaced the token, or was logged: %s", log)
		}
	})
}
