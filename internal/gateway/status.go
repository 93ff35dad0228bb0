// SPDX-License-Identifier: Apache-2.0

package gateway

import (
	"slices"
	"time"

	"github.com/sluice-push/sluice/internal/api"
	"github.com/sluice-push/sluice/internal/delivery"
	"github.com/sluice-push/sluice/internal/history"
	"github.com/sluice-push/sluice/internal/quotalease"
	"github.com/sluice-push/sluice/internal/webhooks"
	"github.com/sluice-push/sluice/pool"
	"github.com/sluice-push/sluice/quota"
)

// Status is what GET /v1/status answers. It holds no secret.
type Status struct {
	Zone     string `json:"zone,omitempty"`
	Draining bool   `json:"draining"`
	// Ceiling is what the gateway carries at a time, and may.
	Concurrency delivery.LimitStatus `json:"ceiling"`
	Services    []ServiceStatus      `json:"services"`
	// Queue and History are there in a gateway with a queue.
	Queue   *QueueStatus    `json:"queue,omitempty"`
	History *history.Status `json:"history,omitempty"`
	// Sharing is how the gateways of a cluster share their quotas.
	QuotaLease *quotalease.Status `json:"sharing,omitempty"`
	// Webhooks are the receivers of events, and what was given up for each.
	Webhooks []webhooks.Status `json:"webhooks,omitempty"`
}

// ServiceStatus is one credential at one provider.
type ServiceStatus struct {
	// Apps are the blocks of the configuration that share it.
	Apps  []string     `json:"apps"`
	Pool  pool.Status  `json:"pool"`
	Quota quota.Status `json:"quota"`
	// Admission is what is on its way at a time, and may be.
	AdaptiveLimit delivery.LimitStatus `json:"admission"`
	// HeldBack is the part of notifications that the brake holds back from a provider that is down, 0 to 1.
	RejectionRate float64 `json:"held_back"`
}

// Status returns the state of everything at this moment.
func (g *Gateway) Status() Status {
	h := g.current.Load()
	s := Status{Zone: h.cfg.Zone, Draining: g.draining.Load(), Concurrency: g.concurrency.Status(), Services: []ServiceStatus{}}
	s.Queue, s.History = g.storage.status()
	s.QuotaLease = g.storage.leaseStatus()
	s.Webhooks = h.webhookStatus()
	for _, service := range h.allServices() {
		s.Services = append(s.Services, ServiceStatus{
			Apps: service.paths, Pool: service.pool.Status(), Quota: service.rateLimiter.Status(),
			AdaptiveLimit: service.adaptiveLimiter.Status(), RejectionRate: service.throttler.RejectionRate(),
		})
	}
	return s
}

// activeServices returns the services that the configuration names, but for those that nobody has asked yet.
func (h *snapshot) activeServices() []*service {
	return slices.DeleteFunc(slices.Clone(h.services), func(s *service) bool { return s.pool.Idle() })
}

// allServices returns those that the configuration names, and then those that subscriptions have named since.
func (h *snapshot) allServices() []*service {
	all := h.activeServices()
	for _, o := range h.originRouters {
		all = append(all, o.allServices()...)
	}
	return all
}

// warmUp is how long a new gateway waits for all its providers before it says that it is ready without some of them.
const warmUp = 10 * time.Second

// notReady answers /readyz. A gateway that is starting is ready once it can reach every provider and has its share of the quotas, or after a while. From
// then on it is ready as long as it can reach one: the trouble of one provider must not take the others' traffic away.
func (g *Gateway) notReady() []api.NotReady {
	if g.draining.Load() {
		return []api.NotReady{{Name: "gateway", Reason: "draining: it is about to end"}}
	}
	serving := g.current.Load().activeServices()
	if err := g.storage.ready(); err != nil {
		return []api.NotReady{{Name: "queue", Reason: err.Error()}}
	}
	var missing []api.NotReady
	for _, s := range serving {
		if err := s.pool.Ready(); err != nil {
			missing = append(missing, api.NotReady{Name: s.name, Reason: err.Error()})
		}
	}
	if s := g.storage.leaseStatus(); s != nil && s.BelowTarget && !g.warmedUp.Load() {
		missing = append(missing, api.NotReady{Name: "quota", Reason: "has not got its share from the other gateways yet"})
	}
	if len(missing) == 0 || time.Since(time.Unix(0, g.startedAt.Load())) > warmUp {
		g.warmedUp.Store(true)
	}
	if g.warmedUp.Load() && len(missing) < len(serving) {
		return nil
	}
	return missing
}
