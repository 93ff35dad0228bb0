// SPDX-License-Identifier: Apache-2.0

package gateway

import (
	"bytes"
	"context"
	"errors"
	"log/slog"
	"net/netip"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/sluice-push/sluice/internal/api"
	"github.com/sluice-push/sluice/internal/config"
	"github.com/sluice-push/sluice/internal/identity"
)

// A panic in the token renewal of one app ends neither the process, nor the pool, nor the renewal.
func TestPanicInTokenRenewalRestartsIt(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var log bytes.Buffer
		s := idleService(t, "fcm shop", netip.MustParseAddrPort("192.0.2.1:443"))
		s.g.log = slog.New(slog.NewTextHandler(&log, nil))
		runs := 0
		s.open().refresh = func(ctx context.Context) error {
			if runs++; runs <= 5 {
				panic("SECRET")
			}
			<-ctx.Done()
			return nil
		}
		ctx, stop := context.WithCancel(t.Context())
		ended := make(chan error, 1)
		go func() { ended <- s.run(ctx) }()
		time.Sleep(time.Minute)
		synctest.Wait()
		if runs != 6 {
			t.Errorf("the renewal ran %d times in a minute, want 6", runs)
		}
		if err := s.open().pool.Ready(); err != nil {
			t.Errorf("the pool is not ready: %v", err)
		}
		stop()
		if err := <-ended; err != nil {
			t.Errorf("the service ended with %v", err)
		}
		if strings.Count(log.String(), `task="fcm shop: token renewal"`) != 5 || strings.Contains(log.String(), "SECRET") {
			t.Errorf("log: %s", log.String())
		}
	})
}

func TestPanicInReloadKeepsConfiguration(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g, err := New(&config.Config{}, nil)
		if err != nil {
			t.Fatal(err)
		}
		changed, loads, ended := make(chan struct{}), 0, make(chan struct{})
		go func() {
			defer close(ended)
			g.Follow(changed, func() (*config.Config, error) {
				if loads++; loads == 1 {
					panic("x")
				}
				return nil, errors.New("x")
			}, func(*config.Config) { t.Error("a configuration was applied") })
		}()
		changed <- struct{}{}
		changed <- struct{}{}
		close(changed)
		<-ended
		if loads != 2 {
			t.Errorf("%d loads, want 2", loads)
		}
	})
}

// A service is used by calls of each snapshot that shares it.
func TestServiceEndsAfterTheCallsOfAllSnapshotsThatShareIt(t *testing.T) {
	g := &Gateway{}
	newSnapshot := func(services ...*usedService) *snapshot {
		auth, err := identity.New(identity.Config{})
		if err != nil {
			t.Fatal(err)
		}
		handler, err := api.New(api.Config{Sender: g, Auth: auth})
		if err != nil {
			t.Fatal(err)
		}
		return &snapshot{cfg: &config.Config{}, services: services, api: handler}
	}
	ended := 0
	shared := &usedService{service: &service{g: g, settings: &settings{}, limiter: &limiter{}, stop: func() { ended++ }}, quota: &config.Allowance{}}
	first, second, third := newSnapshot(shared), newSnapshot(shared), newSnapshot()
	first.users.Store(1)
	g.current.Store(first)
	call := g.acquire()
	for _, next := range []*snapshot{second, third} {
		if replaced, err := g.replace(g.current.Load(), next); !replaced || err != nil {
			t.Fatal(replaced, err)
		}
	}
	if ended != 0 {
		t.Error("the service ended before the call")
	}
	call.release()
	if ended != 1 {
		t.Errorf("the service ended %d times", ended)
	}
	if replaced, err := g.replace(second, newSnapshot()); replaced || err != nil {
		t.Error("a snapshot that is not current was replaced", err)
	}
}
