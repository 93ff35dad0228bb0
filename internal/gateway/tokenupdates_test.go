// SPDX-License-Identifier: Apache-2.0

package gateway_test

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/pem"
	"fmt"
	"net/netip"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/sluice-push/sluice/internal/delivery"
	"github.com/sluice-push/sluice/internal/testwait"
	"github.com/sluice-push/sluice/pool"
	"github.com/sluice-push/sluice/providers/apns"
	"github.com/sluice-push/sluice/push"
	"github.com/sluice-push/sluice/quota"
	"github.com/sluice-push/sluice/retry"
	"github.com/sluice-push/sluice/wire"
)

// fakeAPNs accepts a new provider token at most every twenty minutes. It records when it first saw
// each token.
type fakeAPNs struct {
	mu        sync.Mutex
	current   string
	updated   time.Time
	firstSeen map[string]time.Time
	accepted  []time.Time
	refused   []time.Time
}

const tokenUpdateInterval = 20 * time.Minute

func (a *fakeAPNs) Do(_ context.Context, r *wire.Request) (*wire.Response, error) {
	time.Sleep(40 * time.Millisecond)
	a.mu.Lock()
	defer a.mu.Unlock()
	token, now := (&wire.Response{Header: r.Header}).Get("authorization"), time.Now()
	if _, known := a.firstSeen[token]; !known {
		a.firstSeen[token] = now
	}
	if token != a.current {
		if now.Sub(a.updated) < tokenUpdateInterval {
			a.refused = append(a.refused, now)
			return &wire.Response{Status: 429, Body: []byte(`{"reason":"TooManyProviderTokenUpdates"}`)}, nil
		}
		a.current, a.updated = token, now
	}
	a.accepted = append(a.accepted, now)
	return &wire.Response{Status: 200, Header: []wire.Field{{Name: "apns-id", Value: "EABEAE54-14A8-11E5-B60B-1697F925EC7B"}}}, nil
}

func (a *fakeAPNs) Drain()            {}
func (a *fakeAPNs) State() wire.State { return wire.State{MaxStreams: 1000} }
func (a *fakeAPNs) Run(ctx context.Context) error {
	<-ctx.Done()
	return nil
}

// newAPNsRoute returns a route like those that a gateway builds for a token key, with one
// connection to a.
func newAPNsRoute(t *testing.T, a *fakeAPNs) *delivery.Route {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	signer, err := apns.NewSigner(apns.SignerConfig{
		Key: pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der}), KeyID: "ABC123DEFG", TeamID: "DEF123GHIJ",
	})
	if err != nil {
		t.Fatal(err)
	}
	provider, err := apns.New(apns.Config{Topic: "com.example.shop", Signer: signer})
	if err != nil {
		t.Fatal(err)
	}
	p, err := pool.New(pool.Config{
		Name: "apple", Size: 1, MaxInFlight: 1000, MaxAge: 24 * time.Hour, Resolver: pool.Static{netip.MustParseAddrPort("192.0.2.1:443")},
		Dial: func(context.Context, netip.AddrPort) (pool.Conn, error) { return a, nil },
	})
	if err != nil {
		t.Fatal(err)
	}
	ctx, stop := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- p.Run(ctx) }()
	t.Cleanup(func() {
		stop()
		if err := testwait.For(t, ended, "the end"); err != nil {
			t.Error(err)
		}
	})
	return &delivery.Route{
		Provider: provider,
		Executor: &delivery.Executor{
			Pool: p, RateLimiter: quota.New(quota.Config{}), Budget: new(retry.Budget), Throttler: new(retry.AdaptiveThrottler),
		},
	}
}

func TestTooManyTokenUpdatesPausesCredentialOnlyAsLongAsNeeded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		// Another gateway, which this one replaces, has updated the token five minutes ago.
		a := &fakeAPNs{current: "bearer another", updated: time.Now().Add(-5 * time.Minute), firstSeen: map[string]time.Time{}}
		r := newAPNsRoute(t, a)
		started := time.Now()
		const perSecond = 20
		var all sync.WaitGroup
		for i := range 2 * 3600 * perSecond {
			all.Go(func() {
				ctx, cancel := context.WithTimeout(t.Context(), 987*time.Millisecond) // a timeout that coincides with no other
				defer cancel()
				r.Send(ctx, &push.Call{Notification: &push.Notification{
					ID: fmt.Sprintf("00000000-0000-4000-8000-%012x", i), App: "shop", Platform: push.APNs, AcceptedAt: time.Now(),
					Target: push.Target{Token: deviceToken}, Title: "Hi",
				}})
			})
			time.Sleep(time.Second / perSecond)
		}
		all.Wait()

		opened := 15 * time.Minute // from then on Apple accepts our token
		if late := a.accepted[0].Sub(started) - opened; late < 0 || late > time.Minute+2*time.Second {
			t.Errorf("the first notification was accepted %v after Apple would have accepted it", late)
		}
		if len(a.refused) > 16+perSecond { // those in flight at the start, and one each minute
			t.Errorf("%d were refused", len(a.refused))
		}
		if last := a.refused[len(a.refused)-1].Sub(started); last > opened {
			t.Errorf("a notification was refused after %v", last)
		}
		if sent := time.Until(a.accepted[0]).Abs().Seconds() * perSecond; float64(len(a.accepted)) < sent-2*perSecond {
			t.Errorf("%d of %.0f notifications were accepted from then on", len(a.accepted), sent)
		}
		for _, at := range a.firstSeen {
			for _, other := range a.firstSeen {
				if gap := at.Sub(other).Abs(); gap > 0 && gap < tokenUpdateInterval {
					t.Errorf("two tokens within %v", gap)
				}
			}
		}
		if len(a.firstSeen) < 2 || len(a.firstSeen) > 4 {
			t.Errorf("%d tokens in two hours", len(a.firstSeen))
		}
	})
}
