// SPDX-License-Identifier: Apache-2.0

package gateway

import (
	"encoding/json"
	"net/http"
	"slices"
	"strings"
	"time"

	"github.com/sluice-push/sluice/internal/api"
	"github.com/sluice-push/sluice/internal/history"
	"github.com/sluice-push/sluice/internal/queue"
	"github.com/sluice-push/sluice/internal/quotalease"
	"github.com/sluice-push/sluice/internal/webhooks"
	"github.com/sluice-push/sluice/pool"
	"github.com/sluice-push/sluice/quota"
)

// Status is the response of GET /v1/status. It contains no secret. On the admin listener it is
// complete; the API shows a key only the apps that it can read.
type Status struct {
	Zone     string `json:"zone,omitempty"`
	Draining bool   `json:"draining"`
	// Concurrency is the number of notifications in flight in the whole gateway, and its limit.
	Concurrency pool.LimitStatus `json:"concurrency"`
	// Connections are the connections of clients to the API.
	Connections ConnectionStatus `json:"connections"`
	Services    []ServiceStatus  `json:"services"`
	// Queue and History are set if the gateway has a queue.
	Queue   *QueueStatus    `json:"queue,omitempty"`
	History *history.Status `json:"history,omitempty"`
	// QuotaLease is set if the gateway shares its quotas with a cluster.
	QuotaLease *quotalease.Status `json:"quota_lease,omitempty"`
	// Webhooks is the state of each webhook, including its dead-lettered events.
	Webhooks []webhooks.Status `json:"webhooks,omitempty"`
}

// ServiceStatus is the state of one service: one credential at one URL of a provider.
type ServiceStatus struct {
	// Apps lists the configuration blocks that share the service, such as apps.shop.apns.
	Apps  []string     `json:"apps"`
	Pool  pool.Status  `json:"pool"`
	Quota quota.Status `json:"quota"`
	// AdaptiveLimit is the number of notifications in flight at the service, and their adaptive
	// limit.
	AdaptiveLimit pool.LimitStatus `json:"adaptive_limit"`
	// RejectionRate is the fraction of notifications, from 0 to 1, that the throttler rejects
	// because the provider is down.
	RejectionRate float64 `json:"rejection_rate"`
	// Outage is set while the provider is unavailable for the credential.
	Outage *OutageStatus `json:"outage,omitempty"`
}

// OutageStatus describes the outage of a provider, as the log lines provider unavailable and provider
// recovered do.
type OutageStatus struct {
	Since time.Time `json:"since"`
	Cause string    `json:"cause"`
	// Affected is the number of sends that failed since then.
	Affected uint64 `json:"affected"`
}

// Status returns the current state of the gateway.
func (g *Gateway) Status() Status {
	snap := g.current.Load()
	s := Status{Zone: snap.cfg.Zone, Draining: g.draining.Load(), Concurrency: g.concurrency.Status(), Connections: g.conns.status(), Services: []ServiceStatus{}}
	s.Queue, s.History = g.storage.status()
	s.QuotaLease = g.storage.leaseStatus()
	s.Webhooks = snap.webhookStatus()
	for _, service := range snap.allServices() {
		s.Services = append(s.Services, service.status())
	}
	return s
}

// status returns the state of a service. It keeps nothing of what an unused service would have.
func (s *usedService) status() ServiceStatus {
	s.mu.Lock()
	u := s.upstream.Load()
	if u == nil {
		u = s.newUpstream(nil)
	}
	s.mu.Unlock()
	return ServiceStatus{
		Apps: s.paths, Pool: u.pool.Status(), Quota: s.limiter.status(), AdaptiveLimit: u.pool.LimitStatus(), RejectionRate: u.throttler.RejectionRate(),
		Outage: u.outage.status(),
	}
}

// forApps returns the part of s that concerns these apps, and the state of the whole gateway. It
// contains no name, key ID or project of another app.
func (s Status) forApps(apps []string) Status {
	visible := func(app string) bool { return slices.Contains(apps, app) }
	all := s.Services
	s.Services = []ServiceStatus{}
	for _, service := range all {
		service.Apps = keepOnly(service.Apps, func(path string) bool { return visible(appOfPath(path)) })
		if len(service.Apps) > 0 {
			s.Services = append(s.Services, service)
		}
	}
	s.Webhooks = keepOnly(s.Webhooks, func(w webhooks.Status) bool { return visible(w.App) })
	if s.Queue != nil {
		q := *s.Queue
		q.Waiting = keepOnly(q.Waiting, func(d queue.Depth) bool { return visible(d.App) })
		s.Queue = &q
	}
	return s
}

// keepOnly returns the elements that keep accepts, in a new slice.
func keepOnly[T any](of []T, keep func(T) bool) []T {
	kept := []T{}
	for _, v := range of {
		if keep(v) {
			kept = append(kept, v)
		}
	}
	return kept
}

// appOfPath returns the app of a block, such as apps.shop.apns. The name of an app can contain dots.
func appOfPath(path string) string {
	path = strings.TrimPrefix(path, "apps.")
	return path[:strings.LastIndexByte(path, '.')]
}

// handleStatus serves the status on the admin listener.
func (g *Gateway) handleStatus(w http.ResponseWriter, _ *http.Request) {
	w.Header().Set("Content-Type", "application/json")
	_ = json.NewEncoder(w).Encode(g.Status()) // fails only if the client disconnected
}

// publicNotReady is notReady for clients without a key. It contains no key ID, project, address or
// path: names of services are shortened to their platform.
func (g *Gateway) publicNotReady() (missing []api.NotReady) {
	for _, m := range g.notReady() {
		if m.Name != "gateway" {
			kind, _, _ := strings.Cut(m.Name, " ")
			m = api.NotReady{Name: kind, Reason: "GET /readyz on the admin listener has the reason"}
		}
		if !slices.Contains(missing, m) {
			missing = append(missing, m)
		}
	}
	return missing
}

// handleReady serves the complete reasons on the admin listener.
func (g *Gateway) handleReady(w http.ResponseWriter, _ *http.Request) {
	missing := g.notReady()
	w.Header().Set("Content-Type", "application/json")
	if len(missing) > 0 {
		w.WriteHeader(http.StatusServiceUnavailable)
	}
	_ = json.NewEncoder(w).Encode(map[string]any{"ready": len(missing) == 0, "not_ready": missing}) // fails only if the client disconnected
}

// activeServices returns the services of the configuration, without lazy ones that are not in use.
func (snap *snapshot) activeServices() []*usedService {
	return slices.DeleteFunc(slices.Clone(snap.services), func(s *usedService) bool {
		u := s.upstream.Load()
		return s.settings.lazy && (u == nil || u.pool.Idle())
	})
}

// allServices returns the active services, followed by those that subscriptions have added.
func (snap *snapshot) allServices() []*usedService {
	all := snap.activeServices()
	for _, o := range snap.originRouters {
		all = append(all, o.allServices()...)
	}
	return all
}

// joinTimeout is how long a starting gateway waits for its share of the quotas before it is ready
// without it.
const joinTimeout = 10 * time.Second

// notReady returns the reasons why the gateway is not ready, for /readyz. It is ready when it can
// accept notifications: it does not drain, and its queue can store them. A starting gateway also
// waits for its share of the quotas. By default the state of the providers does not matter, because
// a provider that is down for all gateways must not stop the traffic to the others, nor to the queue.
func (g *Gateway) notReady() []api.NotReady {
	if g.draining.Load() {
		return []api.NotReady{{Name: "gateway", Reason: "draining"}}
	}
	if err := g.storage.ready(); err != nil {
		return []api.NotReady{{Name: "queue", Reason: err.Error()}}
	}
	s := g.storage.leaseStatus()
	if s != nil && s.BelowTarget && !g.joined.Load() && time.Since(time.Unix(0, g.startedAt.Load())) <= joinTimeout {
		return []api.NotReady{{Name: "quota", Reason: "waiting for its share of the quotas"}}
	}
	g.joined.Store(true)
	return g.current.Load().unreachable()
}

// unreachable returns the providers that cannot be reached and that readiness.providers requires.
// Pools that do not connect before their first notification are not required.
func (snap *snapshot) unreachable() (missing []api.NotReady) {
	services := snap.activeServices()
	for _, s := range services {
		u := s.upstream.Load()
		if u == nil {
			continue
		}
		if err := u.pool.Ready(); err != nil {
			missing = append(missing, api.NotReady{Name: s.name, Reason: err.Error()})
		}
	}
	require := snap.cfg.Readiness.Providers
	if require == "all" || require == "any" && len(missing) == len(services) {
		return missing
	}
	return nil
}
