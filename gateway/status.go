// SPDX-License-Identifier: Apache-2.0

package gateway

import (
	"slices"
	"time"

	"github.com/sluice-push/sluice/delivery"
	"github.com/sluice-push/sluice/history"
	"github.com/sluice-push/sluice/pool"
	"github.com/sluice-push/sluice/quota"
	"github.com/sluice-push/sluice/rest"
	"github.com/sluice-push/sluice/share"
	"github.com/sluice-push/sluice/webhook"
)

// Status is what GET /v1/status answers. It holds no secret.
type Status struct {
	Zone     string `json:"zone,omitempty"`
	Draining bool   `json:"draining"`
	// Ceiling is what the gateway carries at a time, and may.
	Ceiling  delivery.LimitStatus `json:"ceiling"`
	Services []ServiceStatus      `json:"services"`
	// Queue and History are there in a gateway with a queue.
	Queue   *QueueStatus    `json:"queue,omitempty"`
	History *history.Status `json:"history,omitempty"`
	// Sharing is how the gateways of a cluster share their quotas.
	Sharing *share.Status `json:"sharing,omitempty"`
	// Webhooks are the receivers of events, and what was given up for each.
	Webhooks []webhook.Status `json:"webhooks,omitempty"`
}

// ServiceStatus is one credential at one provider.
type ServiceStatus struct {
	// Apps are the blocks of the configuration that share it.
	Apps  []string     `json:"apps"`
	Pool  pool.Status  `json:"pool"`
	Quota quota.Status `json:"quota"`
	// Admission is what is on its way at a time, and may be.
	Admission delivery.LimitStatus `json:"admission"`
	// HeldBack is the part of notifications that the brake holds back from a provider that is down, 0 to 1.
	HeldBack float64 `json:"held_back"`
}

// Status returns the state of everything at this moment.
func (g *Gateway) Status() Status {
	h := g.house.Load()
	s := Status{Zone: h.cfg.Zone, Draining: g.draining.Load(), Ceiling: g.ceiling.Status(), Services: []ServiceStatus{}}
	s.Queue, s.History = g.durable.status()
	s.Sharing = g.durable.shares()
	s.Webhooks = h.hookStatus()
	for _, service := range h.everyService() {
		s.Services = append(s.Services, ServiceStatus{
			Apps: service.apps, Pool: service.pool.Status(), Quota: service.gate.Status(),
			Admission: service.admission.Status(), HeldBack: service.brake.RejectionRate(),
		})
	}
	return s
}

// awake returns the services that the configuration names, but for those that nobody has asked yet.
func (h *house) awake() []*service {
	return slices.DeleteFunc(slices.Clone(h.services), func(s *service) bool { return s.pool.Idle() })
}

// everyService returns those that the configuration names, and then those that subscriptions have named since.
func (h *house) everyService() []*service {
	all := h.awake()
	for _, o := range h.origins {
		all = append(all, o.all()...)
	}
	return all
}

// warmUp is how long a new gateway waits for all its providers before it says that it is ready without some of them.
const warmUp = 10 * time.Second

// notReady answers /readyz. A gateway that is starting is ready once it can reach every provider and has its share of the quotas, or after a while. From
// then on it is ready as long as it can reach one: the trouble of one provider must not take the others' traffic away.
func (g *Gateway) notReady() []rest.NotReady {
	if g.draining.Load() {
		return []rest.NotReady{{Name: "gateway", Reason: "draining: it is about to end"}}
	}
	serving := g.house.Load().awake()
	if err := g.durable.ready(); err != nil {
		return []rest.NotReady{{Name: "queue", Reason: err.Error()}}
	}
	var missing []rest.NotReady
	for _, s := range serving {
		if err := s.pool.Ready(); err != nil {
			missing = append(missing, rest.NotReady{Name: s.name, Reason: err.Error()})
		}
	}
	if s := g.durable.shares(); s != nil && s.Short && !g.warm.Load() {
		missing = append(missing, rest.NotReady{Name: "quota", Reason: "has not got its share from the other gateways yet"})
	}
	if len(missing) == 0 || time.Since(time.Unix(0, g.began.Load())) > warmUp {
		g.warm.Store(true)
	}
	if g.warm.Load() && len(missing) < len(serving) {
		return nil
	}
	return missing
}
