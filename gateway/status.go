// SPDX-License-Identifier: Apache-2.0

package gateway

import (
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/sluice-push/sluice/pool"
	"github.com/sluice-push/sluice/quota"
	"github.com/sluice-push/sluice/rest"
)

// Status is what GET /v1/status answers. It holds no secret.
type Status struct {
	Zone     string          `json:"zone,omitempty"`
	Draining bool            `json:"draining"`
	Services []ServiceStatus `json:"services"`
}

// ServiceStatus is one credential at one provider.
type ServiceStatus struct {
	// Apps are the blocks of the configuration that share it.
	Apps  []string     `json:"apps"`
	Pool  pool.Status  `json:"pool"`
	Quota quota.Status `json:"quota"`
}

// Status returns the state of everything at this moment.
func (g *Gateway) Status() Status {
	s := Status{Zone: g.cfg.Zone, Draining: g.draining.Load(), Services: []ServiceStatus{}}
	for _, service := range g.services {
		s.Services = append(s.Services, ServiceStatus{Apps: service.apps, Pool: service.pool.Status(), Quota: service.gate.Status()})
	}
	return s
}

// warmUp is how long a new gateway waits for all its providers before it says that it is ready without some of them.
const warmUp = 10 * time.Second

// notReady answers /readyz. A gateway that is starting is ready once it can reach every provider, or after a while. From
// then on it is ready as long as it can reach one: the trouble of one provider must not take the others' traffic away.
func (g *Gateway) notReady() []rest.NotReady {
	if g.draining.Load() {
		return []rest.NotReady{{Name: "gateway", Reason: "draining: it is about to end"}}
	}
	var missing []rest.NotReady
	for _, s := range g.services {
		if err := s.pool.Ready(); err != nil {
			missing = append(missing, rest.NotReady{Name: s.name, Reason: err.Error()})
		}
	}
	if len(missing) == 0 || time.Since(time.Unix(0, g.began.Load())) > warmUp {
		g.warm.Store(true)
	}
	if g.warm.Load() && len(missing) < len(g.services) {
		return nil
	}
	return missing
}

// poolMetrics shows the pools to Prometheus as they are when it asks.
type poolMetrics struct{ gateway *Gateway }

var (
	endpointsMetric = prometheus.NewDesc("sluice_pool_endpoints", "Endpoints in the pool by the state of their breaker.", []string{"pool", "state"}, nil)
	inFlightMetric  = prometheus.NewDesc("sluice_pool_in_flight", "Attempts that wait for the provider's answer.", []string{"pool"}, nil)
	waitingMetric   = prometheus.NewDesc("sluice_pool_waiting", "Notifications that wait for an endpoint.", []string{"pool"}, nil)
	dialsMetric     = prometheus.NewDesc("sluice_pool_dials_total", "Connections dialled.", []string{"pool"}, nil)
	readyMetric     = prometheus.NewDesc("sluice_pool_ready", "1 if the pool has a live endpoint.", []string{"pool"}, nil)
)

// Describe names the metrics.
func (m poolMetrics) Describe(descs chan<- *prometheus.Desc) {
	for _, d := range []*prometheus.Desc{endpointsMetric, inFlightMetric, waitingMetric, dialsMetric, readyMetric} {
		descs <- d
	}
}

// Collect gives their values.
func (m poolMetrics) Collect(metrics chan<- prometheus.Metric) {
	for _, s := range m.gateway.services {
		status := s.pool.Status()
		states := map[string]int{"closed": 0, "half-open": 0, "open": 0}
		for _, e := range status.Endpoints {
			states[e.State]++
		}
		for state, n := range states {
			metrics <- prometheus.MustNewConstMetric(endpointsMetric, prometheus.GaugeValue, float64(n), s.name, state)
		}
		ready := 0.0
		if status.Ready {
			ready = 1
		}
		metrics <- prometheus.MustNewConstMetric(inFlightMetric, prometheus.GaugeValue, float64(status.InFlight), s.name)
		metrics <- prometheus.MustNewConstMetric(waitingMetric, prometheus.GaugeValue, float64(status.Waiting), s.name)
		metrics <- prometheus.MustNewConstMetric(dialsMetric, prometheus.CounterValue, float64(status.Dials), s.name)
		metrics <- prometheus.MustNewConstMetric(readyMetric, prometheus.GaugeValue, ready, s.name)
	}
}
