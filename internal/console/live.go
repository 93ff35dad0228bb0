// SPDX-License-Identifier: Apache-2.0

package console

import (
	"cmp"
	"crypto/sha256"
	"encoding/hex"
	"net/http"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/sluice-push/sluice/internal/identity"
	"github.com/sluice-push/sluice/pool"
	"github.com/sluice-push/sluice/push"
	"github.com/sluice-push/sluice/quota"
)

const (
	// snapshotInterval is the interval of the updates, and the time for which a snapshot is shared.
	snapshotInterval = time.Second
	// maxRateInterval is the longest time between two snapshots from which rates are computed. After
	// a pause, an average over the pause would look like the current rate.
	maxRateInterval = 5 * time.Second
	// maxShown limits the services and the events on the page. A filter by app shows the others.
	maxShown = 50
)

// liveState is the last snapshot, which all viewers share, and the one before, for rates. There is no
// goroutine: the first stream that needs a newer snapshot takes it.
type liveState struct {
	mu             sync.Mutex
	last, previous Snapshot
	views          map[string]*liveView // of last, by the apps that they show
}

// view returns the current view of these apps.
func (c *Console) view(apps []string) *liveView {
	l := &c.live
	l.mu.Lock()
	defer l.mu.Unlock()
	now := time.Now()
	if age := now.Sub(l.last.At); age >= snapshotInterval-snapshotInterval/20 {
		l.previous, l.last = l.last, c.cfg.Snapshot()
		l.last.At = now
		l.views = map[string]*liveView{}
	}
	id := strings.Join(apps, "\n")
	if l.views[id] == nil {
		l.views[id] = newLiveView(l.last.forApps(apps), l.previous.forApps(apps))
	}
	return l.views[id]
}

// liveView is what the live page shows.
type liveView struct {
	Snapshot
	Rates    rates
	Services []serviceView
	Hidden   int // further services
	Idle     []serviceView
	Waiting  []waitingPlace
	Events   []pool.Event
	Problems []problemView
}

// QueueDepth is the number of due tasks.
func (v *liveView) QueueDepth() (depth int) {
	for _, d := range v.Queue.Waiting {
		depth += d.Tasks
	}
	return depth
}

// QueueAge is the age of the oldest due task in seconds.
func (v *liveView) QueueAge() float64 { return max(v.At.Sub(v.Queue.Oldest).Seconds(), 0) }

// problemView is a line at the top of the live page.
type problemView struct{ State, Text string } // degraded or unavailable

// rates are computed from two snapshots.
type rates struct {
	Known                                bool // there are two recent snapshots
	Accepted, Retryable, Refused, Unsure float64
	P50, P99                             float64 // in ms; 0 if nothing was sent
}

// Total is the number of notifications a second.
func (r rates) Total() float64 { return r.Accepted + r.Retryable + r.Refused + r.Unsure }

// serviceView is a service on the live page.
type serviceView struct {
	Service
	ID        string // in the page
	Platform  string
	Host      string
	Label     string
	Apps      []string
	State     string // ok, degraded, unavailable or idle
	Why       string
	Endpoints []endpointView
	Spares    []endpointView
	Rows      []limitRow
}

// endpointView is an endpoint on the live page.
type endpointView struct {
	pool.EndpointStatus
	Share  float64 // of the outcomes of the pool within the window, 0 to 1
	Detail string
}

// limitRow is one limit of a service.
type limitRow struct {
	Name      string
	Current   string
	Used      float64 // 0 to 1; negative if it has no maximum
	Waiting   int
	ClosedFor float64 // in seconds
}

// waitingPlace is a place where notifications wait.
type waitingPlace struct {
	Name    string
	Where   string
	Waiting int
}

func newLiveView(now, before Snapshot) *liveView {
	v := &liveView{Snapshot: now, Rates: newRates(now, before)}
	add := func(name, where string, waiting int) {
		if waiting > 0 {
			v.Waiting = append(v.Waiting, waitingPlace{name, where, waiting})
		}
	}
	add("concurrency limit", "whole gateway", now.Concurrency.Waiting)
	for _, s := range now.Services {
		view := newServiceView(s)
		switch {
		case view.State == "idle":
			v.Idle = append(v.Idle, view)
		default:
			v.Services = append(v.Services, view)
		}
		add("rate limit", s.Pool.Name, sumWaiting(s.Quota.Waiting))
		for _, scope := range s.Quota.Scopes {
			add("rate limit "+scope.Name, s.Pool.Name, sumWaiting(scope.Waiting))
		}
		add("endpoint", s.Pool.Name, max(s.Pool.Waiting, s.AdaptiveLimit.Waiting))
		v.Events = append(v.Events, s.Pool.Events...)
		if view.State == "unavailable" || view.State == "degraded" {
			v.Problems = append(v.Problems, problemView{view.State, s.Pool.Name + ": " + view.Why})
		}
	}
	if now.Queue != nil {
		for _, d := range now.Queue.Waiting {
			add("queue, lane "+string(d.Lane), d.App, d.Tasks)
		}
		if !now.Queue.Writable {
			v.Problems = append(v.Problems, problemView{"unavailable", "The queue cannot accept notifications: " + now.Queue.Reason})
		}
	}
	if now.Draining {
		v.Problems = append(v.Problems, problemView{"degraded", "The gateway is draining."})
	}
	slices.SortStableFunc(v.Services, func(a, b serviceView) int {
		return cmp.Or(cmp.Compare(severity[a.State], severity[b.State]), cmp.Compare(a.Pool.Name, b.Pool.Name))
	})
	if len(v.Services) > maxShown {
		v.Hidden = len(v.Services) - maxShown
		v.Services = v.Services[:maxShown]
	}
	slices.SortStableFunc(v.Events, func(a, b pool.Event) int { return b.Time.Compare(a.Time) })
	v.Events = v.Events[:min(len(v.Events), maxShown)]
	return v
}

// severity orders services on the page.
var severity = map[string]int{"unavailable": 0, "degraded": 1, "ok": 2}

func sumWaiting(w quota.Waiting) int { return w.Critical + w.Normal + w.Bulk }

func newServiceView(s Service) serviceView {
	v := serviceView{Service: s, State: "ok", ID: elementID(s.Pool.Name)}
	parts := strings.SplitN(s.Pool.Name, " ", 3)
	v.Platform = parts[0]
	if len(parts) == 3 {
		v.Host, v.Label = parts[1], parts[2]
	}
	for _, b := range s.Blocks {
		if app := appOfBlock(b); !slices.Contains(v.Apps, app) {
			v.Apps = append(v.Apps, app)
		}
	}
	total := 0
	for _, e := range s.Pool.Endpoints {
		total += e.Successes + e.Failures
	}
	open := 0
	for _, e := range s.Pool.Endpoints {
		if e.State == "open" {
			open++
		}
		v.Endpoints = append(v.Endpoints, newEndpointView(e, total))
	}
	for _, e := range s.Pool.Spares {
		v.Spares = append(v.Spares, newEndpointView(e, 0))
		if e.State != "closed" {
			open++
		}
	}
	switch {
	case s.Pool.Idle || len(s.Pool.Endpoints) == 0 && s.Pool.Dials == 0:
		v.State = "idle"
	case s.Unavailable || !s.Pool.Ready:
		v.State, v.Why = "unavailable", cmp.Or(s.Pool.Reason, "most recent notifications failed")
	case s.Pool.Panic:
		v.State, v.Why = "degraded", "too many endpoints are ejected, so all are used"
	case s.RejectionRate > 0.01:
		v.State, v.Why = "degraded", "the throttler rejects "+formatPercent(s.RejectionRate)+" of the notifications"
	case s.Quota.ClosedFor > 0:
		v.State, v.Why = "degraded", "the provider limits the rate for "+formatAgo(s.Quota.ClosedFor)
	case open == 1:
		v.State, v.Why = "degraded", "1 endpoint is ejected"
	case open > 1:
		v.State, v.Why = "degraded", formatCount(open)+" endpoints are ejected"
	}
	v.Rows = limitRows(s)
	return v
}

// elementID returns an ID for an element of the page that is the same in each update.
func elementID(name string) string {
	sum := sha256.Sum256([]byte(name))
	return hex.EncodeToString(sum[:6])
}

func newEndpointView(e pool.EndpointStatus, total int) endpointView {
	v := endpointView{EndpointStatus: e}
	if total > 0 {
		v.Share = float64(e.Successes+e.Failures) / float64(total)
	}
	switch {
	case e.State == "open" && e.EjectedUntil != nil:
		v.Detail = "ejected until " + formatClock(*e.EjectedUntil) + ": " + e.Reason
	case e.State == "half-open":
		v.Detail = "being probed"
	case e.DialError != "":
		v.Detail = e.DialError
	}
	return v
}

func limitRows(s Service) []limitRow {
	row := func(name string, rate, limit, share float64, w quota.Waiting, closed float64) limitRow {
		r := limitRow{Name: name, Current: "no limit", Used: -1, Waiting: sumWaiting(w), ClosedFor: closed}
		if rate > 0 || limit > 0 {
			r.Current = formatCount(rate) + "/s"
			if limit > 0 && limit != rate {
				r.Current += " of " + formatCount(limit) + "/s"
			}
			if share > 0 && share < 1 {
				r.Current += ", share " + formatPercent(share)
			}
		}
		return r
	}
	q := s.Quota
	rows := []limitRow{row("rate limit", q.Rate, q.Limit, q.Share, q.Waiting, q.ClosedFor)}
	for _, scope := range q.Scopes {
		rows = append(rows, row("rate limit "+scope.Name, scope.Rate, scope.Limit, scope.Share, scope.Waiting, scope.ClosedFor))
	}
	a := s.AdaptiveLimit
	adaptive := limitRow{Name: "adaptive limit", Current: formatCount(a.InFlight) + " of " + formatCount(a.Limit) + " in flight", Waiting: a.Waiting}
	if a.Limit > 0 {
		adaptive.Used = float64(a.InFlight) / float64(a.Limit)
	}
	throttler := limitRow{Name: "throttler", Current: "rejects " + formatPercent(s.RejectionRate), Used: s.RejectionRate}
	return append(rows, adaptive, throttler)
}

// newRates returns the rates between two snapshots.
func newRates(now, before Snapshot) rates {
	elapsed := now.At.Sub(before.At)
	if before.At.IsZero() || elapsed <= 0 || elapsed > maxRateInterval {
		return rates{}
	}
	r := rates{Known: true}
	earlier := map[[2]string]*RouteTotals{}
	for _, t := range before.Routes {
		earlier[[2]string{t.App, t.Platform}] = t
	}
	var all RouteTotals
	for _, t := range now.Routes {
		old := earlier[[2]string{t.App, t.Platform}]
		if old == nil {
			old = &RouteTotals{}
		}
		for status, n := range t.Ended {
			*r.class(push.Status(status)) += (n - old.Ended[status]) / elapsed.Seconds()
		}
		all.addDurations(t, old)
	}
	r.P50, r.P99 = 1000*all.quantile(0.5), 1000*all.quantile(0.99)
	return r
}

// class returns the rate that counts notifications with that status.
func (r *rates) class(s push.Status) *float64 {
	switch s {
	case push.StatusAccepted:
		return &r.Accepted
	case push.StatusThrottled, push.StatusUnavailable, push.StatusExpired:
		return &r.Retryable
	case push.StatusUnknown:
		return &r.Unsure
	default:
		return &r.Refused
	}
}

// addDurations adds the durations in now that are not in before. All routes have the same bounds.
func (t *RouteTotals) addDurations(now, before *RouteTotals) {
	if t.Bounds == nil {
		t.Bounds, t.Counts = now.Bounds, make([]uint64, len(now.Counts))
	}
	t.Count += now.Count - before.Count
	for i, n := range now.Counts {
		if i < len(before.Counts) {
			n -= before.Counts[i]
		}
		t.Counts[i] += n
	}
}

// quantile returns the quantile q of the durations in seconds, interpolated between two bounds, or 0 if
// there are none. Above the last bound it returns that bound.
func (t *RouteTotals) quantile(q float64) float64 {
	if t.Count == 0 {
		return 0
	}
	rank, below, from := q*float64(t.Count), 0.0, 0.0
	for i, bound := range t.Bounds {
		if n := float64(t.Counts[i]); n >= rank {
			return from + (bound-from)*(rank-below)/max(n-below, 1)
		}
		below, from = float64(t.Counts[i]), bound
	}
	return from
}

// liveData is the data of the live page.
type liveData struct {
	Apps []string // that the viewer may read
	App  string   // that is shown, or empty for all
	View *liveView
}

// visibleApps returns the apps that the viewer may read, limited to the one of the query.
func visibleApps(r *http.Request, v *viewer) (all, shown []string, app string) {
	all = v.Apps(identity.Read)
	app = r.URL.Query().Get("app")
	if app == "" {
		return all, all, ""
	}
	if slices.Contains(all, app) {
		return all, []string{app}, app
	}
	return all, nil, app
}

// showLive handles the first page.
func (c *Console) showLive(w http.ResponseWriter, r *http.Request, v *viewer) {
	all, shown, app := visibleApps(r, v)
	c.page(w, r, v, "live", "Live", liveData{Apps: all, App: app, View: c.view(shown)})
}
