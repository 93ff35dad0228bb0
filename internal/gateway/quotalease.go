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

// newQuotaLease returns the member that shares quotas with other gateways, or nil without a
// cluster.
func newQuotaLease(e *jetstream.Engine, c config.Shared, log *slog.Logger) *quotalease.Member {
	if e.Embedded() {
		return nil
	}
	return quotalease.New(quotalease.Config{
		Store: quotalease.NewStore(e), ID: uuid.NewString(), Lease: c.Lease, FallbackShare: float64(c.FallbackShare), Members: c.Members, Logger: log,
	})
}

// setLimiters shares the quotas of a snapshot with the other gateways, and replaces those of the
// previous snapshot. Quotas of topic subscriptions are not shared: most apps never use them.
func (st *storage) setLimiters(snap *snapshot) {
	if st == nil || st.quotaLease == nil {
		return
	}
	limiters := map[string]quotalease.RateLimiter{}
	for _, s := range snap.services {
		if s.quota.Shared() && s.settings.purpose == "" {
			limiters[s.quotaID] = s.limiter.get()
		}
	}
	for _, o := range snap.originRouters {
		if snap.cfg.Apps[o.app].WebPush.Quota.Shared() {
			limiters[digest([]byte(push.WebPush), []byte(o.path()), []byte(o.publicKey))] = o.limiter.get()
		}
	}
	st.quotaLease.SetLimiters(limiters)
}

// leaseStatus returns the state of quota sharing, or nil if there is none.
func (st *storage) leaseStatus() *quotalease.Status {
	if st == nil || !st.opened.Load() || st.quotaLease == nil {
		return nil
	}
	status := st.quotaLease.Status()
	return &status
}
