// SPDX-License-Identifier: Apache-2.0

package gateway

import (
	"log/slog"

	"github.com/google/uuid"

	"github.com/sluice-push/sluice/internal/config"
	"github.com/sluice-push/sluice/internal/jetstream"
	"github.com/sluice-push/sluice/internal/quotalease"
	"github.com/sluice-push/sluice/push"
	"github.com/sluice-push/sluice/quota"
)

var _ quotalease.RateLimiter = (*quota.RateLimiter)(nil)

// newQuotaLease returns this gateway's part in the sharing of quotas, nil where there is no cluster.
func newQuotaLease(e *jetstream.Engine, c config.Shared, log *slog.Logger) *quotalease.Member {
	if e.Embedded() {
		return nil
	}
	return quotalease.New(quotalease.Config{
		Store: &quotalease.Bucket{Engine: e}, ID: uuid.NewString(), Lease: c.Lease, FallbackShare: float64(c.FallbackShare), Members: c.Members, Logger: log,
	})
}

// setLimiters has the house's quotas shared with the other gateways, in place of those before.
func (d *storage) setLimiters(h *snapshot) {
	if d == nil || d.quotaLease == nil {
		return
	}
	gates := map[string]quotalease.RateLimiter{}
	add := func(spends string, gate *quota.RateLimiter) {
		if len(gate.Demand()) > 0 { // it has limits
			gates[spends] = gate
		}
	}
	for _, s := range h.services {
		add(s.quotaID, s.rateLimiter)
	}
	for _, o := range h.originRouters {
		add(digest([]byte(push.WebPush), []byte(o.path), []byte(o.publicKey)), o.rateLimiter)
	}
	d.quotaLease.SetLimiters(gates)
}

// leaseStatus is how the sharing stands, nil where there is none.
func (d *storage) leaseStatus() *quotalease.Status {
	if d == nil || !d.opened.Load() || d.quotaLease == nil {
		return nil
	}
	status := d.quotaLease.Status()
	return &status
}
