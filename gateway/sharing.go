// SPDX-License-Identifier: Apache-2.0

package gateway

import (
	"log/slog"

	"github.com/google/uuid"

	"github.com/sluice-push/sluice/config"
	"github.com/sluice-push/sluice/engine"
	"github.com/sluice-push/sluice/push"
	"github.com/sluice-push/sluice/quota"
	"github.com/sluice-push/sluice/share"
)

var _ share.Gate = (*quota.RateLimiter)(nil)

// sharing returns this gateway's part in the sharing of quotas, nil where there is no cluster.
func sharing(e *engine.Engine, c config.Shared, log *slog.Logger) *share.Sharing {
	if e.Embedded() {
		return nil
	}
	return share.New(share.Config{
		Documents: &share.Bucket{Engine: e}, Member: uuid.NewString(), Lease: c.Lease, Apart: float64(c.Apart), Members: c.Members, Logger: log,
	})
}

// share has the house's quotas shared with the other gateways, in place of those before.
func (d *durable) share(h *house) {
	if d == nil || d.sharing == nil {
		return
	}
	gates := map[string]share.Gate{}
	add := func(spends string, gate *quota.RateLimiter) {
		if len(gate.Demand()) > 0 { // it has limits
			gates[spends] = gate
		}
	}
	for _, s := range h.services {
		add(s.spends, s.gate)
	}
	for _, o := range h.origins {
		add(digest([]byte(push.WebPush), []byte(o.path), []byte(o.public)), o.gate)
	}
	d.sharing.Hold(gates)
}

// shares is how the sharing stands, nil where there is none.
func (d *durable) shares() *share.Status {
	if d == nil || !d.opened.Load() || d.sharing == nil {
		return nil
	}
	status := d.sharing.Status()
	return &status
}
