// SPDX-License-Identifier: Apache-2.0

package main

import (
	"fmt"
	"net/http"
	"time"

	"github.com/sluice-push/sluice/mockprovider"
)

// tokenless is S12: the token endpoint answers 503 for as much of a token's life as 25 minutes are of Google's hour. A
// token lives 75 seconds here, so that of the doubling waits after a failure as many fit into the outage's end as do in
// an hour's. A second gateway starts without ever having had a token.
func tokenless(s *stage) {
	const life, begins, outage = 75 * time.Second, 14 * time.Second, 31 * time.Second
	usual := mockprovider.Fault{Delay: healthy.Delay}
	noToken := mockprovider.Fault{Service: mockprovider.OAuth, Status: 503}
	m := s.mock(mockprovider.Config{Endpoints: size, AccessTokenLifetime: life, Script: script(usual)})
	g := s.serve("", app{shop, fcmTo(m, s.files(m), "")})
	load := s.offer(g, 200, life+5*time.Second, toRegistration)
	s.startedWithout(noToken, usual)
	load.at(begins)
	cut := s.play(m, noToken, usual)
	load.at(begins + outage)
	heal := s.play(m, usual)
	got := load.wait()

	s.none("failed", s.unaccepted(got.Samples))
	exchanges := requestsOf(m, mockprovider.OAuth)
	during, later := exchanges.refused.between(cut, heal), exchanges.accepted.after(heal)
	s.must("exchanges in the outage", fmt.Sprint(len(during)), len(during) > 0)
	s.none("sooner than the backoff", during.sooner())
	s.must("new tokens after it", fmt.Sprint(len(later)), len(later) > 0)
}

// sooner counts the exchanges that came before the wait after the last one was over: a second, doubled each time, and a
// fifth less by chance.
func (t times) sooner() (n int) {
	wait := time.Second
	for i := 1; i < len(t); i++ {
		if t[i].Sub(t[i-1]) < wait*4/5 {
			n++
		}
		wait *= 2
	}
	return n
}

// startedWithout starts a gateway whose token endpoint has always been down: APNs is served, and FCM is refused with the
// reason.
func (s *stage) startedWithout(token, usual mockprovider.Fault) {
	m := s.mock(mockprovider.Config{Endpoints: size, Script: script(token, usual)})
	files := s.files(m)
	g := s.serve("", app{shop, both(apnsTo(m, files, ""), fcmTo(m, files, ""))})
	s.eventually("the gateway without a token is ready", 15*time.Second, g.ready)
	apns, err := g.post(shop, toDevice(0))
	s.need(err)
	fcm, err := g.post(shop, toRegistration(0))
	s.need(err)
	s.must("started without: APNs", fmt.Sprint(apns.code), apns.code == http.StatusOK)
	answer := fmt.Sprintf("%d %s", fcm.code, fcm.problem.Receipt.Reason)
	s.must("FCM", answer, answer == "503 OAUTH_UNAVAILABLE")
	s.none("sooner than the backoff", requestsOf(m, mockprovider.OAuth).refused.sooner())
}

// wrongClock is S13: to the service the clock of one gateway is 61 minutes slow from some moment on, and that of another 61
// minutes fast, as if they had been set under load; and then they are right again. No process can have a clock of its own,
// so it is the service's that is moved: what the gateway has signed is then as wrong as it would be. Connections end when
// a clock moves, for on one that stands the provider token is known.
func wrongClock(s *stage) {
	const calm, wrong, right = 8 * time.Second, 15 * time.Second, 15 * time.Second
	usual := mockprovider.Fault{Delay: healthy.Delay}
	clocks := []*clock{{name: "slow", ahead: 61 * time.Minute}, {name: "fast", ahead: -61 * time.Minute}}
	for _, c := range clocks {
		c.m = s.mock(mockprovider.Config{Endpoints: size, TokenUpdateEvery: 20 * time.Minute, Script: script(usual)})
		c.g = s.gateway(c.m, "")
		c.load = s.offer(c.g, 200, calm+wrong+right, toDevice)
	}
	clocks[1].load.at(calm)
	for _, c := range clocks {
		c.from = s.play(c.m, mockprovider.Fault{Clock: c.ahead}, mockprovider.Fault{Service: mockprovider.APNs, GoAway: &mockprovider.GoAway{}}, usual)
	}
	clocks[1].load.at(calm + wrong)
	for _, c := range clocks {
		c.heal = s.play(c.m, usual)
	}
	for _, c := range clocks {
		s.judgeClock(c, right)
	}
}

// clock is a gateway whose clock is wrong for a while.
type clock struct {
	name       string
	ahead      time.Duration // of the service's
	m          *mockprovider.Mock
	g          *gateway
	load       *load
	from, heal time.Time
}

func (s *stage) judgeClock(c *clock, right time.Duration) {
	got := c.load.wait()
	alarm := never
	if alarms := c.g.since(c.from, "clock", ""); len(alarms) > 0 {
		alarm = alarms[0].Time.Sub(c.from)
	}
	seen := c.m.Ledger().Summary().Services[mockprovider.APNs]
	refused := got.Between(c.from, c.heal).Count(notAccepted)
	s.must(c.name+": refused", fmt.Sprint(refused), refused > 0)
	atMost(&s.card, "alarm", alarm, time.Minute)
	s.none("tokens minted within 20 min", int(seen.Reasons["TooManyProviderTokenUpdates"]))
	atMost(&s.card, "recovered", recovered(got, c.heal, c.heal.Add(right-time.Second), 0.95), 10*time.Second)
	s.note("%s: refusals %v", c.name, seen.Reasons)
	s.dials(c.g, c.m, mockprovider.APNs)
}
