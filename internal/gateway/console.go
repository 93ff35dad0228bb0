// SPDX-License-Identifier: Apache-2.0

package gateway

import (
	"cmp"
	"net/http"
	"slices"
	"strings"
	"time"

	"github.com/sluice-push/sluice/internal/api"
	"github.com/sluice-push/sluice/internal/console"
	"github.com/sluice-push/sluice/internal/identity"
	"github.com/sluice-push/sluice/push"
)

// SetDev gives the console what only that of gateway dev has. Call it before Run.
func (g *Gateway) SetDev(dev *console.Dev) { g.dev = dev }

// newConsole returns the console. It outlives reloads, with its sessions, and always asks the current
// configuration. While the configuration turns it off, it does not exist.
func (g *Gateway) newConsole() http.Handler {
	cfg := console.Config{
		API: g.currentAPI(), WithCaller: api.WithCaller,
		Authenticator: func() *identity.Authenticator { return g.current.Load().auth },
		Snapshot:      g.consoleSnapshot, Translate: g.consoleRequest, Platforms: g.platforms,
		Lifetime: func() time.Duration { return g.current.Load().cfg.Console.SessionLifetime },
		URL:      func() string { return string(g.current.Load().cfg.Console.URL) },
		Address: func(r *http.Request) string {
			return api.CallerAddress(r, prefixes(g.current.Load().cfg.TrustedProxies))
		},
		Dev: g.dev, Logger: g.log, Audit: g.auditSession,
	}
	if g.storage != nil {
		cfg.History = g.storage
	}
	c := console.New(cfg)
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if g.current.Load().cfg.Console.Off {
			http.NotFound(w, r)
			return
		}
		c.ServeHTTP(w, r)
	})
}

// consoleSnapshot returns the state of the gateway for the console.
func (g *Gateway) consoleSnapshot() console.Snapshot {
	s := g.Status()
	out := console.Snapshot{
		Zone: s.Zone, Draining: s.Draining, Concurrency: s.Concurrency, Connections: s.Connections.Open, MaxConnections: s.Connections.Limit,
	}
	for _, t := range g.metrics.RouteTotals() {
		out.Routes = append(out.Routes, (*console.RouteTotals)(t))
	}
	if s.Queue != nil {
		out.Queue = &console.Queue{Status: s.Queue.Status, Writable: s.Queue.Writable, Reason: s.Queue.Reason}
	}
	unavailable := map[string]bool{}
	for _, service := range g.current.Load().allServices() {
		if u := service.upstream.Load(); u != nil {
			unavailable[service.name] = u.outage.active.Load()
		}
	}
	for _, service := range s.Services {
		out.Services = append(out.Services, console.Service{
			Blocks: service.Apps, Pool: service.Pool, Quota: service.Quota, AdaptiveLimit: service.AdaptiveLimit, RejectionRate: service.RejectionRate,
			Unavailable: unavailable[service.Pool.Name],
		})
	}
	return out
}

// platforms returns the platforms of an app.
func (g *Gateway) platforms(app string) (platforms []push.Platform) {
	for platform := range g.current.Load().table[app] {
		platforms = append(platforms, platform)
	}
	slices.Sort(platforms)
	return platforms
}

// credentialTexts say for the console how requests are authorized.
var credentialTexts = map[push.Platform]string{
	push.APNs: "authorization: added to each attempt (provider token), unless the credential is a client certificate", push.FCM: "authorization: added to each attempt (access token)",
	push.WebPush: "authorization: added to each attempt (VAPID token)",
}

// consoleRequest returns the request that a provider gets for n.
func (g *Gateway) consoleRequest(n *push.Notification) (*console.Request, error) {
	request, err := g.Translate(n)
	if err != nil {
		return nil, err
	}
	out := &console.Request{Method: request.Method, URL: g.consoleOrigin(n) + request.Path, Body: request.Body, Credential: credentialTexts[n.Platform]}
	for _, f := range request.Header {
		out.Header = append(out.Header, console.HeaderField{Name: f.Name, Value: f.Value})
	}
	if n.Platform == push.WebPush {
		out.Plaintext = g.plaintext(n)
	}
	return out, nil
}

// plaintext returns what the valid Web Push notification n has in its encrypted body, or nil.
func (g *Gateway) plaintext(n *push.Notification) []byte {
	if o, ok := g.current.Load().table[n.App][push.WebPush].(*originRouter); ok {
		return o.plaintext(n)
	}
	return nil
}

// consoleOrigin returns the origin that the request for n goes to.
func (g *Gateway) consoleOrigin(n *push.Notification) string {
	app := g.current.Load().cfg.Apps[n.App]
	switch n.Platform {
	case push.APNs:
		environment := cmp.Or(string(n.Environment()), app.APNs.Environment)
		for _, e := range apnsEnvironments {
			if string(e.name) == environment {
				return string(cmp.Or(app.APNs.URL, e.url))
			}
		}
	case push.FCM:
		return string(app.FCM.URL)
	case push.WebPush:
		if app.WebPush.URL != "" {
			return string(app.WebPush.URL)
		}
		origin, _, _ := strings.Cut(strings.TrimPrefix(n.Subscription.Endpoint, "https://"), "/")
		return "https://" + origin
	}
	return ""
}
