// SPDX-License-Identifier: Apache-2.0

package main

import (
	"fmt"
	"slices"
	"time"

	"github.com/sluice-push/sluice/loadtest"
	"github.com/sluice-push/sluice/mockprovider"
	"github.com/sluice-push/sluice/push"
)

// onTheWay is how long after a refusal requests may still come that had left before it arrived.
const onTheWay = 100 * time.Millisecond

// overQuota is S10: three times an FCM project's quota is offered, of which one in ten is critical. The project is granted
// a fiftieth of Google's default, and the gateway's file says so. After 25 seconds another sender has used up what is
// left of a minute, and everything is refused for five.
func overQuota(s *stage) {
	const (
		quota  = 200.0 // a second
		minute = time.Minute
		spent  = 25 * time.Second // into the load
		empty  = 5 * time.Second
		whole  = 80 * time.Second
	)
	prompt := mockprovider.Fault{Service: mockprovider.FCM, Delay: healthy.Delay}
	granted := project(mockprovider.Quota{Limit: int(quota * minute.Seconds()), Per: minute})
	used := project(mockprovider.Quota{Limit: 1, Per: empty})
	used.Until = empty
	granted.Delay, used.Delay = prompt.Delay, prompt.Delay // what the ledger's times differ by is when the requests came
	m := s.mock(mockprovider.Config{Endpoints: size, Script: script(granted, prompt)})
	g := s.serve("", app{shop, fcmTo(m, s.files(m), fmt.Sprintf(", quota: {rate: %d/min}", int(quota*60)))})
	bulk := s.offer(g, 2.7*quota, whole, in(push.LaneBulk, toRegistration))
	urgent := s.offer(g, 0.3*quota, whole, in(push.LaneCritical, toAlarm))
	bulk.at(spent)
	cut := s.play(m, used, granted, prompt)
	others, first := bulk.wait(), urgent.wait()

	c := requestsOf(m, mockprovider.FCM)
	refusal := c.refused.after(cut)
	if len(refusal) == 0 {
		s.Fatalf("nothing was refused")
	}
	steady, end := cut.Add(empty+10*time.Second), others.Began.Add(whole)
	atMost(&s.card, "busiest second, of the quota", share(float64(c.all.busiest())/quota), 1.05)
	atMost(&s.card, "from 10s after the refusal on", c.all.between(steady, end).rate(steady, end, quota), 1.01)
	s.none("sends into the closed project", len(c.all.between(refusal[0].Add(onTheWay), refusal[0].Add(empty))))
	atMost(&s.card, "refused when steady", shareOf(len(c.refused.between(steady, end)), len(c.all.between(steady, end))), 0.01)
	atLeast(&s.card, "goodput when steady, of the quota", c.accepted.between(steady, end).rate(steady, end, quota), 0.98)
	atMost(&s.card, "critical p99 when steady", first.Between(steady, end).Latency(0.99), healthy.Delay+100*time.Millisecond)
	s.none("critical not accepted when steady", s.unaccepted(first.Between(steady, end)))
	s.note("refused by the service: %d in all, %d before the project was empty", len(c.refused), len(c.refused.between(others.Began, cut)))
	s.unaccepted(others.Samples) // notes how those ended for whom there was no place
	s.dials(g, m, mockprovider.FCM)
}

// campaign is S10b: ten thousand notifications are offered at three times a quota of ten thousand a minute, and ten
// critical ones a second beside them until all are through. The quota has no minute's store but a tenth of a second's,
// which is the worst of minutes. The campaign's sender waits, and the gateway's file lets it.
func campaign(s *stage) {
	const (
		perMinute = 10_000
		quota     = perMinute / 60.0
		count     = 10_000
		alarms    = 10.0 // a second
	)
	granted := project(mockprovider.Quota{Limit: perMinute, Per: time.Minute, Burst: perMinute / 600, Steady: true})
	m := s.mock(mockprovider.Config{Endpoints: size, Script: script(granted)})
	g := s.serve("  send_time: 2m\nretry: {max_retry_after: 2m}",
		app{shop, fcmTo(m, s.files(m), fmt.Sprintf(", quota: {rate: %d/min}", perMinute))})
	bulk := s.start(g, loadtest.Load{Rate: 3 * quota, Count: count, Compose: in(push.LaneBulk, toRegistration)})
	const during = 62 * time.Second // what both together take, at the quota
	urgent := s.offer(g, alarms, during, in(push.LaneCritical, toAlarm))
	others, first := bulk.wait(), urgent.wait()

	c := requestsOf(m, mockprovider.FCM)
	took := c.all[len(c.all)-1].Sub(c.all[0])
	atMost(&s.card, "busiest second, of the quota", share(float64(c.all.busiest())/quota), 1.05)
	used := c.accepted.rate(c.all[0], c.all[0].Add(min(took, during)), quota)
	atLeast(&s.card, "quota used", used, 0.98)
	atMost(&s.card, "critical p99", first.Samples.Latency(0.99), 100*time.Millisecond)
	atMost(&s.card, "refused by the service", shareOf(len(c.refused), len(c.all)), 0.01)
	s.none("campaign not accepted", s.unaccepted(others.Samples))
	s.none("critical not accepted", s.unaccepted(first.Samples))
	s.dials(g, m, mockprovider.FCM)
}

// project is the quota of an FCM project, whose refusals say when there will be room.
func project(q mockprovider.Quota) mockprovider.Fault {
	q.Scope, q.Tell = "project", true
	return mockprovider.Fault{Service: mockprovider.FCM, Quota: &q}
}

// toAlarm is toRegistration for other devices.
func toAlarm(i int) *push.Notification {
	n := toRegistration(i)
	n.Token = "a" + n.Token
	return n
}

// requests are the times at which a service got requests, in their order.
type requests struct{ all, accepted, refused times }

func requestsOf(m *mockprovider.Mock, service string) (r requests) {
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

// rate is how many there were a second, as a part of a quota.
func (t times) rate(from, until time.Time, quota float64) share {
	return share(float64(len(t.between(from, until))) / until.Sub(from).Seconds() / quota)
}

// busiest is the most that came within any second.
func (t times) busiest() (most int) {
	first := 0
	for i := range t {
		for t[i].Sub(t[first]) >= time.Second {
			first++
		}
		most = max(most, i-first+1)
	}
	return most
}
