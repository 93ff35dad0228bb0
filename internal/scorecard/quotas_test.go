// SPDX-License-Identifier: Apache-2.0

package scorecard

import (
	"fmt"
	"slices"
	"time"

	"github.com/sluice-push/sluice/internal/load"
	"github.com/sluice-push/sluice/mockprovider"
	"github.com/sluice-push/sluice/push"
)

// inFlightTolerance is how long after a refusal requests that were already in flight can still
// arrive.
const inFlightTolerance = 100 * time.Millisecond

// overQuota is S10. The load is three times the quota of an FCM project, with 10 % critical
// notifications. The quota is a fiftieth of Google's default, and the configuration states it.
// After 25 seconds another sender uses up the rest of the current minute, and the service refuses
// everything for five seconds.
func overQuota(s *scenario) {
	const (
		quota        = 200.0 // per second
		minute       = time.Minute
		exhaustedAt  = 25 * time.Second // after the start of the load
		exhaustedFor = 5 * time.Second
		loadDuration = 80 * time.Second
	)
	healthy := mockprovider.Fault{Service: mockprovider.FCM, Delay: healthyResponse.Delay}
	granted := projectQuota(mockprovider.Quota{Limit: int(quota * minute.Seconds()), Per: minute})
	exhausted := projectQuota(mockprovider.Quota{Limit: 1, Per: exhaustedFor})
	exhausted.Until = exhaustedFor
	granted.Delay, exhausted.Delay = healthy.Delay, healthy.Delay // a constant delay keeps the differences of the times in the ledger
	m := s.startMock(mockprovider.Config{Endpoints: poolSize, Script: script(granted, healthy)})
	g := s.startGateway("", app{shopApp, fcmBlock(m, s.writeMockFiles(m), fmt.Sprintf(", quota: {rate: %d/min}", int(quota*60)))})
	bulk := s.offerRate(g, 2.7*quota, loadDuration, withLane(push.LaneBulk, fcmNotification))
	critical := s.offerRate(g, 0.3*quota, loadDuration, withLane(push.LaneCritical, fcmAlarm))
	bulk.waitUntil(exhaustedAt)
	faultStart := s.playFaults(m, exhausted, granted, healthy)
	bulkResults, criticalResults := bulk.wait(), critical.wait()

	c := requestTimes(m, mockprovider.FCM)
	refusal := c.refused.after(faultStart)
	if len(refusal) == 0 {
		s.Fatalf("the service refused nothing")
	}
	steady, end := faultStart.Add(exhaustedFor+10*time.Second), bulkResults.Started.Add(loadDuration)
	atMost(&s.rowResult, "busiest second, relative to the quota", fraction(float64(c.all.busiestSecond())/quota), 1.05)
	atMost(&s.rowResult, "steady: rate, relative to the quota", c.all.between(steady, end).rateFraction(steady, end, quota), 1.01)
	s.expectZero("requests to the closed project", len(c.all.between(refusal[0].Add(inFlightTolerance), refusal[0].Add(exhaustedFor))))
	atMost(&s.rowResult, "steady: refused", fractionOf(len(c.refused.between(steady, end)), len(c.all.between(steady, end))), 0.01)
	atLeast(&s.rowResult, "steady: goodput, relative to the quota", c.accepted.between(steady, end).rateFraction(steady, end, quota), 0.98)
	atMost(&s.rowResult, "steady: critical p99", criticalResults.Between(steady, end).LatencyQuantile(0.99), healthyResponse.Delay+100*time.Millisecond)
	s.expectZero("steady: critical not accepted", s.countNotAccepted(criticalResults.Between(steady, end)))
	s.note("refused by the service: %d in total, %d before the quota was exhausted", len(c.refused), len(c.refused.between(bulkResults.Started, faultStart)))
	s.countNotAccepted(bulkResults.Samples) // notes how the excess notifications ended
	s.expectDialBudget(g, m, mockprovider.FCM)
}

// campaign is S10b. It offers ten thousand notifications at three times a quota of ten thousand per
// minute, plus ten critical ones per second until all are sent. The burst of the quota is a tenth
// of a second instead of a minute, which is the worst case. The sender of the campaign waits, and
// the configuration allows it.
func campaign(s *scenario) {
	const (
		perMinute = 10_000
		quota     = perMinute / 60.0
		count     = 10_000
		alarms    = 10.0 // per second
	)
	granted := projectQuota(mockprovider.Quota{Limit: perMinute, Per: time.Minute, Burst: perMinute / 600, Steady: true})
	m := s.startMock(mockprovider.Config{Endpoints: poolSize, Script: script(granted)})
	g := s.startGateway("  send_timeout: 2m\nretry: {max_retry_after: 2m}",
		app{shopApp, fcmBlock(m, s.writeMockFiles(m), fmt.Sprintf(", quota: {rate: %d/min}", perMinute))})
	bulk := s.startLoad(g, load.Generator{Rate: 3 * quota, Count: count}, withLane(push.LaneBulk, fcmNotification))
	const duration = 62 * time.Second // time for both loads at the quota
	critical := s.offerRate(g, alarms, duration, withLane(push.LaneCritical, fcmAlarm))
	bulkResults, criticalResults := bulk.wait(), critical.wait()

	c := requestTimes(m, mockprovider.FCM)
	took := c.all[len(c.all)-1].Sub(c.all[0])
	atMost(&s.rowResult, "busiest second, relative to the quota", fraction(float64(c.all.busiestSecond())/quota), 1.05)
	used := c.accepted.rateFraction(c.all[0], c.all[0].Add(min(took, duration)), quota)
	atLeast(&s.rowResult, "quota used", used, 0.98)
	atMost(&s.rowResult, "critical p99", criticalResults.Samples.LatencyQuantile(0.99), 100*time.Millisecond)
	atMost(&s.rowResult, "refused by the provider", fractionOf(len(c.refused), len(c.all)), 0.01)
	s.expectZero("campaign not accepted", s.countNotAccepted(bulkResults.Samples))
	s.expectZero("critical not accepted", s.countNotAccepted(criticalResults.Samples))
	s.expectDialBudget(g, m, mockprovider.FCM)
}

// projectQuota is a quota of an FCM project. Its refusals have a Retry-After.
func projectQuota(q mockprovider.Quota) mockprovider.Fault {
	q.Scope, q.Tell = "project", true
	return mockprovider.Fault{Service: mockprovider.FCM, Quota: &q}
}

// fcmAlarm is fcmNotification for a different set of devices.
func fcmAlarm(i int) *push.Notification {
	n := fcmNotification(i)
	n.Token = "a" + n.Token
	return n
}

// requests holds the times at which a service received requests, in order.
type requests struct{ all, accepted, refused times }

func requestTimes(m *mockprovider.Mock, service string) (r requests) {
	for _, e := range m.Ledger().Entries(mockprovider.Query{Service: service}) {
		r.all = append(r.all, e.Time)
		switch {
		case e.Accepted:
			r.accepted = append(r.accepted, e.Time)
		default:
			r.refused = append(r.refused, e.Time)
		}
	}
	return r
}

type times []time.Time

// after returns the times that are not before from.
func (t times) after(from time.Time) times {
	i, _ := slices.BinarySearchFunc(t, from, time.Time.Compare)
	return t[i:]
}

func (t times) between(from, until time.Time) times {
	late := t.after(from)
	return late[:len(late)-len(late.after(until))]
}

// rateFraction returns the rate per second in [from, until), relative to quota.
func (t times) rateFraction(from, until time.Time, quota float64) fraction {
	return fraction(float64(len(t.between(from, until))) / until.Sub(from).Seconds() / quota)
}

// busiestSecond returns the highest number of times within any second.
func (t times) busiestSecond() (highest int) {
	first := 0
	for i := range t {
		for t[i].Sub(t[first]) >= time.Second {
			first++
		}
		highest = max(highest, i-first+1)
	}
	return highest
}
