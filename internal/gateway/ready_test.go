// SPDX-License-Identifier: Apache-2.0

package gateway

import (
	"context"
	"fmt"
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
func lazyService(t *testing.T) *service {
	t.Helper()
	p, err := pool.New(pool.Config{
		Name: "lazy", OnDemand: func() {}, Resolver: pool.Static{}, Dial: func(context.Context, netip.AddrPort) (pool.Conn, error) { return idleConn{}, nil },
	})
	if err != nil {
		t.Fatal(err)
	}
	return &service{name: "lazy", pool: p, settings: settings{lazy: true}}
}

// idleService returns a service with the given addresses. Its pool does not run.
func idleService(t *testing.T, name string, addrs ...netip.AddrPort) *service {
	t.Helper()
	p, err := pool.New(pool.Config{
		Name: name, Resolver: pool.Static(addrs), DrainTimeout: time.Millisecond,
		Dial: func(context.Context, netip.AddrPort) (pool.Conn, error) { return idleConn{}, nil },
	})
	if err != nil {
		t.Fatal(err)
	}
	return &service{name: name, pool: p}
}

func TestReadinessRequiresTheConfiguredProviders(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithCancel(t.Context())
		connected := idleService(t, "connected", netip.MustParseAddrPort("127.0.0.1:1"))
		down, alsoDown := idleService(t, "down"), idleService(t, "also down")
		ended := make(chan error, 1)
		go func() { ended <- connected.pool.Run(ctx) }()
		time.Sleep(time.Second)
		for _, c := range []struct {
			require  string
			services []*service
			missing  string
		}{
			{"none", []*service{down, alsoDown}, "[]"},
			{"none", []*service{connected, down}, "[]"},
			{"any", []*service{down, alsoDown}, "[down also down]"},
			{"any", []*service{connected, down}, "[]"},
			{"any", nil, "[]"},
			{"all", []*service{connected, down}, "[down]"},
			{"all", []*service{connected}, "[]"},
			{"all", []*service{connected, lazyService(t)}, "[]"},
			{"any", []*service{lazyService(t)}, "[]"},
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
		servers    []string
		publicOnly bool
		want       pool.Resolver
	}{
		{"https://api.push.apple.com", []config.Endpoint{endpoint}, nil, false, pool.Static{endpoint.AddrPort}},
		{"https://127.0.0.1:9", nil, nil, false, pool.Static{endpoint.AddrPort}},
		{"https://apns.test:2197", nil, nil, false, pool.System{Host: "apns.test", Port: 2197}},
		{"https://api.push.apple.com:2197", nil, nil, false, pool.PublicOnly(pool.DNS{Host: "api.push.apple.com", Port: 2197})},
		{"https://api.push.apple.com", nil, nil, false, pool.PublicOnly(pool.DNS{Host: "api.push.apple.com", Port: 443})},
		{"https://api.sandbox.push.apple.com", nil, nil, false, pool.PublicOnly(pool.DNS{Host: "api.sandbox.push.apple.com", Port: 443})},
		{"https://apns.test:2197", nil, []string{"127.0.0.1:5353"}, false, pool.DNS{Host: "apns.test", Port: 2197, Servers: []string{"127.0.0.1:5353"}}},
		{"https://api.push.apple.com", nil, []string{"127.0.0.1:5353"}, false, pool.PublicOnly(pool.DNS{Host: "api.push.apple.com", Port: 443, Servers: []string{"127.0.0.1:5353"}})},
		{"https://fcm.googleapis.com", nil, nil, false, pool.PublicOnly(pool.DNS{Host: "fcm.googleapis.com", Port: 443})},
		{"https://push.example", nil, nil, true, pool.PublicOnly(pool.DNS{Host: "push.example", Port: 443})},
	} {
		base, err := url.Parse(c.url)
		if err != nil {
			t.Fatal(err)
		}
		if got := newResolver(base, settings{endpoints: c.endpoints, publicOnly: c.publicOnly}, c.servers); !reflect.DeepEqual(c.want, got) {
			t.Errorf("%s: got %#v, want %#v", c.url, got, c.want)
		}
	}
}
