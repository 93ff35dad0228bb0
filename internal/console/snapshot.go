// SPDX-License-Identifier: Apache-2.0

package console

import (
	"slices"
	"strings"
	"time"

	"github.com/sluice-push/sluice/internal/queue"
	"github.com/sluice-push/sluice/pool"
	"github.com/sluice-push/sluice/quota"
)

// Snapshot is the state of the gateway at one time.
type Snapshot struct {
	At       time.Time
	Zone     string
	Draining bool
	// Concurrency is the limit of the whole gateway.
	Concurrency pool.LimitStatus
	// Connections are those of clients to the API.
	Connections, MaxConnections int
	Services                    []Service
	// Queue is nil without a queue.
	Queue *Queue
	// Routes are the counters of the routes.
	Routes []*RouteTotals
}

// RouteTotals are the counters of one route since the start, as package metrics has them.
type RouteTotals struct {
	App, Platform string
	// Ended counts notifications by the status of their receipt.
	Ended map[string]float64
	// Counts are the notifications that took at most as long as the bound with the same index, in
	// seconds. Each includes those before it; Count is that of all.
	Bounds []float64
	Counts []uint64
	Count  uint64
}

// Service is the state of one credential at one URL of a provider.
type Service struct {
	// Blocks are the configuration blocks that share the service, such as apps.shop.apns.
	Blocks        []string
	Pool          pool.Status
	Quota         quota.Status
	AdaptiveLimit pool.LimitStatus
	// RejectionRate is the share of notifications that the throttler rejects, 0 to 1.
	RejectionRate float64
	// Unavailable reports whether the provider is unavailable.
	Unavailable bool
}

// Queue is the state of the queue.
type Queue struct {
	queue.Status
	Writable bool
	Reason   string // why it is not writable
}

// forApps returns the part of s that concerns these apps, and the state of the whole gateway.
func (s Snapshot) forApps(apps []string) Snapshot {
	visible := func(app string) bool { return slices.Contains(apps, app) }
	var services []Service
	for _, service := range s.Services {
		service.Blocks = slices.DeleteFunc(slices.Clone(service.Blocks), func(block string) bool { return !visible(appOfBlock(block)) })
		if len(service.Blocks) > 0 {
			services = append(services, service)
		}
	}
	s.Services = services
	s.Routes = slices.DeleteFunc(slices.Clone(s.Routes), func(r *RouteTotals) bool { return !visible(r.App) })
	if s.Queue != nil {
		q := *s.Queue
		q.Waiting = slices.DeleteFunc(slices.Clone(q.Waiting), func(d queue.Depth) bool { return !visible(d.App) })
		s.Queue = &q
	}
	return s
}

// appOfBlock returns the app of a block, such as apps.shop.apns. The name of an app can contain dots.
func appOfBlock(block string) string {
	block = strings.TrimPrefix(block, "apps.")
	if i := strings.LastIndexByte(block, '.'); i >= 0 {
		return block[:i]
	}
	return block
}
