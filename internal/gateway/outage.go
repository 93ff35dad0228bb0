// SPDX-License-Identifier: Apache-2.0

package gateway

import (
	"context"
	"fmt"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	"github.com/sluice-push/sluice/pool"
	"github.com/sluice-push/sluice/push"
	"github.com/sluice-push/sluice/retry"
)

const (
	outageCheckInterval = time.Second
	minRecentRequests   = 5   // below this, failures say too little about the provider
	outageFailures      = 0.5 // a larger share of recent notifications that failed is an outage
	normalFailures      = 0.1 // a share up to this is normal
	minRecoveryTime     = 10 * time.Second
	maxRecoveryTime     = 5 * time.Minute
	flappingTime        = 10 * time.Minute // the recovery time doubles if the next outage begins within it
)

// outage logs when a provider becomes unavailable for a credential and when it has recovered. The
// provider is unavailable while no endpoint can be used, or while most of the notifications of the last
// ten seconds failed. It has recovered when none of this was true for the recovery time, and it has
// answered notifications again. The recovery time grows if the provider flaps, so that the log does not
// fill.
type outage struct {
	pool      *pool.Pool
	name      string // of the pool
	throttler *retry.AdaptiveThrottler
	log       *slog.Logger

	failed     atomic.Uint64          // sends that ended as unavailable or unknown
	lastReason atomic.Pointer[string] // of the last of them
	active     atomic.Bool            // the provider is unavailable

	mu           sync.Mutex // guards the fields below
	normalAt     time.Time  // when the last check found nothing unusual; during an outage, its start
	normalFailed uint64     // value of failed at normalAt
	cause        string     // of the outage
	needsAnswer  bool       // notifications have failed although endpoints were connected
	workingSince time.Time  // during an outage, since when nothing failed; zero if something does
	recoveredAt  time.Time  // of the last outage
	recoveryTime time.Duration
}

// observe returns ended with the addition that it counts the notifications that fail.
func (o *outage) observe(ended func(*push.Notification, *push.Receipt, time.Duration)) func(*push.Notification, *push.Receipt, time.Duration) {
	return func(n *push.Notification, r *push.Receipt, took time.Duration) {
		if s := r.Outcome.Status(); s == push.StatusUnavailable || s == push.StatusUnknown {
			o.failed.Add(1)
			reason := r.Reason
			o.lastReason.Store(&reason)
		}
		if ended != nil {
			ended(n, r, took)
		}
	}
}

// status returns the outage, or nil while the provider is available.
func (o *outage) status() *OutageStatus {
	if !o.active.Load() {
		return nil
	}
	o.mu.Lock()
	defer o.mu.Unlock()
	return &OutageStatus{Since: o.normalAt.UTC().Truncate(time.Second), Cause: o.cause, Affected: o.failed.Load() - o.normalFailed}
}

// watch checks the provider every second until ctx ends.
func (o *outage) watch(ctx context.Context) error {
	ticker := time.NewTicker(outageCheckInterval)
	defer ticker.Stop()
	o.start(time.Now())
	for {
		select {
		case now := <-ticker.C:
			o.check(now)
		case <-ctx.Done():
			return nil
		}
	}
}

// start forgets the time before the pool ran. An outage goes on until the provider has recovered.
func (o *outage) start(now time.Time) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if !o.active.Load() {
		o.setNormal(now)
	}
}

// check logs the beginning or the end of an outage.
func (o *outage) check(now time.Time) {
	requests, answered := o.throttler.Recent()
	failures := max(requests-answered, 0)
	cause, needsAnswer := o.findCause(requests, failures)
	o.mu.Lock()
	defer o.mu.Unlock()
	normal := cause == "" && failures <= normalFailures*requests
	switch {
	case !o.active.Load() && cause != "":
		o.begin(now, cause, needsAnswer)
	case !o.active.Load():
		if normal {
			o.setNormal(now)
		}
	case !normal:
		o.workingSince, o.needsAnswer = time.Time{}, o.needsAnswer || needsAnswer
	case o.workingSince.IsZero():
		if answered >= 1 || !o.needsAnswer {
			o.workingSince = now
		}
	case now.Sub(o.workingSince) >= o.recoveryTime:
		o.end(now)
	}
}

// findCause returns why the provider is unavailable, or an empty string if it is not.
func (o *outage) findCause(requests, failures float64) (cause string, needsAnswer bool) {
	if err := o.pool.Unusable(); err != nil {
		return err.Err.Error(), err.Reason == pool.BreakerOpen
	}
	if requests < minRecentRequests || failures <= outageFailures*requests {
		return "", false
	}
	cause = fmt.Sprintf("%.0f of the %.0f notifications of the last ten seconds failed", failures, requests)
	if last := o.lastReason.Load(); last != nil && *last != "" {
		cause += ", the last one with " + *last
	}
	return cause, true
}

// setNormal records that nothing unusual was found. o.mu is held.
func (o *outage) setNormal(now time.Time) { o.normalAt, o.normalFailed = now, o.failed.Load() }

// begin begins an outage. o.mu is held.
func (o *outage) begin(now time.Time, cause string, needsAnswer bool) {
	if o.normalAt.IsZero() { // the pool reports an event before the first check
		o.setNormal(now)
	}
	flapping := !o.recoveredAt.IsZero() && now.Sub(o.recoveredAt) < flappingTime
	if !flapping {
		o.recoveryTime = 0
	}
	o.recoveryTime = min(max(minRecoveryTime, 2*o.recoveryTime), maxRecoveryTime)
	o.cause, o.needsAnswer, o.workingSince = cause, needsAnswer, time.Time{}
	o.active.Store(true)
	o.log.Warn("provider unavailable", "pool", o.name, "since", o.since(), "affected", o.failed.Load()-o.normalFailed, "cause", cause)
}

// end ends an outage. o.mu is held.
func (o *outage) end(now time.Time) {
	o.log.Info("provider recovered", "pool", o.name, "since", o.since(), "for", o.workingSince.Sub(o.normalAt).Round(time.Second).String(),
		"affected", o.failed.Load()-o.normalFailed, "cause", o.cause)
	o.active.Store(false)
	o.recoveredAt = now
	o.setNormal(now)
}

// since returns when the outage began. o.mu is held.
func (o *outage) since() string { return o.normalAt.UTC().Format(time.RFC3339) }
