// SPDX-License-Identifier: Apache-2.0

package gateway

import (
	"context"
	"fmt"
	"log/slog"
	"net/netip"
	"net/url"
	"reflect"
	"testing"
	"testing/synctest"
	"time"

	"github.com/sluice-push/sluice/internal/config"
	"github.com/sluice-push/sluice/internal/testwait"
	"github.com/sluice-push/sluice/pool"
	"github.com/sluice-push/sluice/wire"
)

func init() { connTimeout = time.Minute }

// idleConn is a connection without traffic.
type idleConn struct{}

func (idleConn) Do(context.Context, *wire.Request) (*wire.Response, error) { return nil, nil }
func (idleConn) Drain()                                                    {}
func (idleConn) State() wire.State                                         { return wire.State{MaxStreams: 1000} }
func (idleConn) Run(ctx context.Context) error {
	<-ctx.Done()
	return nil
}

// lazyService returns a service whose pool connects on first use.
func lazyService(t *testing.T) *usedService {
	t.Helper()
	p, err := pool.New(pool.Config{
		Name: "lazy", OnDemand: func() {}, Resolver: pool.Static{}, Dial: func(context.Context, netip.AddrPort) (pool.Conn, error) { return idleConn{}, nil },
	})
	if err != nil {
		t.Fatal(err)
	}
	return newUsedService("lazy", p, settings{lazy: true})
}

// idleService returns a service with the given addresses. Its pool does not run.
func idleService(t *testing.T, name string, addrs ...netip.AddrPort) *usedService {
	t.Helper()
	p, err := pool.New(pool.Config{
		Name: name, Resolver: pool.Static(addrs), DrainTimeout: time.Millisecond,
		Dial: func(context.Context, netip.AddrPort) (pool.Conn, error) { return idleConn{}, nil },
	})
	if err != nil {
		t.Fatal(err)
	}
	return newUsedService(name, p, settings{})
}

func newUsedService(name string, p *pool.Pool, of settings) *usedService {
	s := &service{g: &Gateway{background: newTasks()}, name: name, settings: &of}
	s.upstream.Store(&upstream{pool: p, outage: &outage{pool: p, name: name, log: slog.New(slog.DiscardHandler)}})
	return &usedService{service: s}
}

func TestReadinessRequiresTheConfiguredProviders(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithCancel(t.Context())
		connected := idleService(t, "connected", netip.MustParseAddrPort("127.0.0.1:1"))
		down, alsoDown := idleService(t, "down"), idleService(t, "also down")
		ended := make(chan error, 1)
		go func() { ended <- connected.open().pool.Run(ctx) }()
		time.Sleep(time.Second)
		for _, c := range []struct {
			require  string
			services []*usedService
			missing  string
		}{
			{"none", []*usedService{down, alsoDown}, "[]"},
			{"none", []*usedService{connected, down}, "[]"},
			{"any", []*usedService{down, alsoDown}, "[down also down]"},
			{"any", []*usedService{connected, down}, "[]"},
			{"any", nil, "[]"},
			{"all", []*usedService{connected, down}, "[down]"},
			{"all", []*usedService{connected}, "[]"},
			{"all", []*usedService{connected, lazyService(t)}, "[]"},
			{"any", []*usedService{lazyService(t)}, "[]"},
		} {
			g := &Gateway{}
			g.current.Store(&snapshot{cfg: &config.Config{Readiness: config.Readiness{Providers: c.require}}, services: c.services})
			names := []string{}
			for _, missing := range g.notReady() {
				names = append(names, missing.Name)
			}
			if got := fmt.Sprint(names); got != c.missing {
				t.Errorf("%s of %d: %s, want %s", c.require, len(c.services), got, c.missing)
			}
		}
		cancel()
		if err := testwait.For(t, ended, "the end of the pool"); err != nil {
			t.Error(err)
		}
	})
}

func TestNewResolver(t *testing.T) {
	endpoint := config.Endpoint{}
	if err := endpoint.UnmarshalText([]byte("127.0.0.1:9")); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		url        string
		endpoints  []config.Endpoint
		servers    string
		publicOnly bool
		want       pool.Resolver
	}{
		{"https://api.push.apple.com", []config.Endpoint{endpoint}, "", false, pool.Static{endpoint.AddrPort}},
		{"https://127.0.0.1:9", nil, "", false, pool.Static{endpoint.AddrPort}},
		{"https://apns.test:2197", nil, "", false, pool.System{Host: "apns.test", Port: 2197}},
		{"https://api.push.apple.com:2197", nil, "", false, pool.PublicOnly(pool.DNS{Host: "api.push.apple.com", Port: 2197})},
		{"https://api.push.apple.com", nil, "", false, pool.PublicOnly(pool.DNS{Host: "api.push.apple.com", Port: 443})},
		{"https://api.sandbox.push.apple.com", nil, "", false, pool.PublicOnly(pool.DNS{Host: "api.sandbox.push.apple.com", Port: 443})},
		{"https://apns.test:2197", nil, "127.0.0.1:5353", false, pool.DNS{Host: "apns.test", Port: 2197, Servers: []string{"127.0.0.1:5353"}}},
		{"https://api.push.apple.com", nil, "127.0.0.1:5353", false, pool.PublicOnly(pool.DNS{Host: "api.push.apple.com", Port: 443, Servers: []string{"127.0.0.1:5353"}})},
		{"https://fcm.googleapis.com", nil, "", false, pool.PublicOnly(pool.DNS{Host: "fcm.googleapis.com", Port: 443})},
		{"https://push.example", nil, "", true, pool.PublicOnly(pool.DNS{Host: "push.example", Port: 443})},
	} {
		base, err := url.Parse(c.url)
		if err != nil {
			t.Fatal(err)
		}
		s := settings{endpoints: joinAddrs(c.endpoints), publicOnly: c.publicOnly, dnsServers: c.servers}
		if got := s.resolver(base, byProxy{}); !reflect.DeepEqual(c.want, got) {
			t.Errorf("%s: got %#v, want %#v", c.url, got, c.want)
		}
	}
}
