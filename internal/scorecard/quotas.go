// SPDX-License-Identifier: Apache-2.0

package main

import (
	"fmt"
	"slices"
	"time"

	"github.com/sluice-push/sluice/internal/scorecard/load"
	"github.com/sluice-push/sluice/mockprovider"
	"github.com/sluice-push/sluice/push"
)

// inFlightTolerance is how long after a refusal requests may still come that had left before it arrived.
const inFlightTolerance = 100 * time.Millisecond

// overQuota is S10: three times an FCM project's quota is offered, of which one in ten is critical. The project is granted
// a fiftieth of Google's default, and the gateway's file says so. After 25 seconds another sender has used up what is
// left of a minute, and everything is refused for five.
func overQuota(s *scenario) {
	const (
		quota  = 200.0 // a second
		minute = time.Minute
		spent  = 25 * time.Second // into the load
		empty  = 5 * time.Second
		whole  = 80 * time.Second
	)
	prompt := mockprovider.Fault{Service: mockprovider.FCM, Delay: healthyResponse.Delay}
	granted := projectQuota(mockprovider.Quota{Limit: int(quota * minute.Seconds()), Per: minute})
	used := projectQuota(mockprovider.Quota{Limit: 1, Per: empty})
	used.Until = empty
	granted.Delay, used.Delay = prompt.Delay, prompt.Delay // what the ledger's times differ by is when the requests came
	m := s.startMock(mockprovider.Config{Endpoints: poolSize, Script: script(granted, prompt)})
	g := s.startGateway("", app{shopApp, fcmBlock(m, s.writeMockFiles(m), fmt.Sprintf(", quota: {rate: %d/min}", int(quota*60)))})
	bulk := s.offerRate(g, 2.7*quota, whole, withLane(push.LaneBulk, fcmNotification))
	urgent := s.offerRate(g, 0.3*quota, whole, withLane(push.LaneCritical, fcmAlarm))
	bulk.waitUntil(spent)
	cut := s.playFaults(m, used, granted, prompt)
	others, first := bulk.wait(), urgent.wait()

	c := requestTimes(m, mockprovider.FCM)
	refusal := c.refused.after(cut)
	if len(refusal) == 0 {
		s.Fatalf("nothing was refused")
	}
	steady, end := cut.Add(empty+10*time.Second), others.Started.Add(whole)
	atMost(&s.rowResult, "busiest second, relative to the quota", fraction(float64(c.all.busiestSecond())/quota), 1.05)
	atMost(&s.rowResult, "steady: rate, relative to the quota", c.all.between(steady, end).rateFraction(steady, end, quota), 1.01)
	s.expectZero("requests to the closed project", len(c.all.between(refusal[0].Add(inFlightTolerance), refusal[0].Add(empty))))
	atMost(&s.rowResult, "steady: refused", fractionOf(len(c.refused.between(steady, end)), len(c.all.between(steady, end))), 0.01)
	atLeast(&s.rowResult, "steady: goodput, relative to the quota", c.accepted.between(steady, end).rateFraction(steady, end, quota), 0.98)
	atMost(&s.rowResult, "steady: critical p99", first.Between(steady, end).LatencyQuantile(0.99), healthyResponse.Delay+100*time.Millisecond)
	s.expectZero("steady: critical not accepted", s.countNotAccepted(first.Between(steady, end)))
	s.note("refused by the service: %d in all, %d before the project was empty", len(c.refused), len(c.refused.between(others.Started, cut)))
	s.countNotAccepted(others.Samples) // notes how those ended for whom there was no place
	s.expectDialBudget(g, m, mockprovider.FCM)
}

// campaign is S10b: ten thousand notifications are offered at three times a quota of ten thousand a minute, and ten
// critical ones a second beside them until all are through. The quota has no minute's store but a tenth of a second's,
// which is the worst of minutes. The campaign's sender waits, and the gateway's file lets it.
func campaign(s *scenario) {
	const (
		perMinute = 10_000
		quota     = perMinute / 60.0
		count     = 10_000
		alarms    = 10.0 // a second
	)
	granted := projectQuota(mockprovider.Quota{Limit: perMinute, Per: time.Minute, Burst: perMinute / 600, Steady: true})
	m := s.startMock(mockprovider.Config{Endpoints: poolSize, Script: script(granted)})
	g := s.startGateway("  send_timeout: 2m\nretry: {max_retry_after: 2m}",
		app{shopApp, fcmBlock(m, s.writeMockFiles(m), fmt.Sprintf(", quota: {rate: %d/min}", perMinute))})
	bulk := s.startLoad(g, load.Generator{Rate: 3 * quota, Count: count, NewNotification: withLane(push.LaneBulk, fcmNotification)})
	const during = 62 * time.Second // what both together take, at the quota
	urgent := s.offerRate(g, alarms, during, withLane(push.LaneCritical, fcmAlarm))
	others, first := bulk.wait(), urgent.wait()

	c := requestTimes(m, mockprovider.FCM)
	took := c.all[len(c.all)-1].Sub(c.all[0])
	atMost(&s.rowResult, "busiest second, relative to the quota", fraction(float64(c.all.busiestSecond())/quota), 1.05)
	used := c.accepted.rateFraction(c.all[0], c.all[0].Add(min(took, during)), quota)
	atLeast(&s.rowResult, "quota used", used, 0.98)
	atMost(&s.rowResult, "critical p99", first.Samples.LatencyQuantile(0.99), 100*time.Millisecond)
	atMost(&s.rowResult, "refused by the provider", fractionOf(len(c.refused), len(c.all)), 0.01)
	s.expectZero("campaign not accepted", s.countNotAccepted(others.Samples))
	s.expectZero("critical not accepted", s.countNotAccepted(first.Samples))
	s.expectDialBudget(g, m, mockprovider.FCM)
}

// projectQuota is the quota of an FCM project, whose refusals say when there will be room.
func projectQuota(q mockprovider.Quota) mockprovider.Fault {
	q.Scope, q.Tell = "project", true
	return mockprovider.Fault{Service: mockprovider.FCM, Quota: &q}
}

// fcmAlarm is toRegistration for other devices.
func fcmAlarm(i int) *push.Notification {
	n := fcmNotification(i)
	n.Token = "a" + n.Token
	return n
}

// requests are the times at which a service got requests, in their order.
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

// after returns those from a time on, and between those before another as well.
func (t times) after(from time.Time) times {
	i, _ := slices.BinarySearchFunc(t, from, time.Time.Compare)
	return t[i:]
}

func (t times) between(from, until time.Time) times {
	late := t.after(from)
	return late[:len(late)-len(late.after(until))]
}

// rateFraction is how many there were a second, as a part of a quota.
func (t times) rateFraction(from, until time.Time, quota float64) fraction {
	return fraction(float64(len(t.between(from, until))) / until.Sub(from).Seconds() / quota)
}

// busiestSecond is the most that came within any second.
func (t times) busiestSecond() (most int) {
	first := 0
	for i := range t {
		for t[i].Sub(t[first]) >= time.Second {
			first++
		}
		most = max(most, i-first+1)
	}
	return most
}
