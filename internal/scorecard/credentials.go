// SPDX-License-Identifier: Apache-2.0

package main

import (
	"fmt"
	"net/http"
	"time"

	"github.com/sluice-push/sluice/mockprovider"
)

// tokenEndpointDown is S12: the token endpoint answers 503 for as much of a token's life as 25 minutes are of Google's hour. A
// token lives 75 seconds here, so that of the doubling waits after a failure as many fit into the outage's end as do in
// an hour's. A second gateway starts without ever having had a token.
func tokenEndpointDown(s *scenario) {
	const life, begins, outage = 75 * time.Second, 14 * time.Second, 31 * time.Second
	usual := mockprovider.Fault{Delay: healthyResponse.Delay}
	noToken := mockprovider.Fault{Service: mockprovider.OAuth, Status: 503}
	m := s.startMock(mockprovider.Config{Endpoints: poolSize, AccessTokenLifetime: life, Script: script(usual)})
	g := s.startGateway("", app{shopApp, fcmBlock(m, s.writeMockFiles(m), "")})
	run := s.offerRate(g, 200, life+5*time.Second, fcmNotification)
	s.startWithoutToken(noToken, usual)
	run.waitUntil(begins)
	cut := s.playFaults(m, noToken, usual)
	run.waitUntil(begins + outage)
	heal := s.playFaults(m, usual)
	got := run.wait()

	s.expectZero("failed", s.countNotAccepted(got.Samples))
	exchanges := requestTimes(m, mockprovider.OAuth)
	during, later := exchanges.refused.between(cut, heal), exchanges.accepted.after(heal)
	s.expect("exchanges during the outage", fmt.Sprint(len(during)), len(during) > 0)
	s.expectZero("exchanges before the backoff", during.beforeBackoff())
	s.expect("new tokens after the outage", fmt.Sprint(len(later)), len(later) > 0)
}

// beforeBackoff counts the exchanges that came before the wait after the last one was over: a second, doubled each time, and a
// fifth less by chance.
func (t times) beforeBackoff() (n int) {
	wait := time.Second
	for i := 1; i < len(t); i++ {
		if t[i].Sub(t[i-1]) < wait*4/5 {
			n++
		}
		wait *= 2
	}
	return n
}

// startWithoutToken starts a gateway whose token endpoint has always been down: APNs is served, and FCM is refused with the
// reason.
func (s *scenario) startWithoutToken(token, usual mockprovider.Fault) {
	m := s.startMock(mockprovider.Config{Endpoints: poolSize, Script: script(token, usual)})
	files := s.writeMockFiles(m)
	g := s.startGateway("", app{shopApp, joinBlocks(apnsBlock(m, files, ""), fcmBlock(m, files, ""))})
	s.eventually("the gateway without a token is ready", 15*time.Second, g.ready)
	apns, err := g.sendOne(shopApp, apnsNotification(0))
	s.noError(err)
	fcm, err := g.sendOne(shopApp, fcmNotification(0))
	s.noError(err)
	s.expect("started without a token: APNs", fmt.Sprint(apns.code), apns.code == http.StatusOK)
	answer := fmt.Sprintf("%d %s", fcm.code, fcm.problem.Receipt.Reason)
	s.expect("FCM", answer, answer == "503 OAUTH_UNAVAILABLE")
	s.expectZero("exchanges before the backoff", requestTimes(m, mockprovider.OAuth).refused.beforeBackoff())
}

// clockSkew is S13: to the service the clock of one gateway is 61 minutes slow from some moment on, and that of another 61
// minutes fast, as if they had been set under load; and then they are right again. No process can have a clock of its own,
// so it is the service's that is moved: what the gateway has signed is then as wrong as it would be. Connections end when
// a clock moves, for on one that stands the provider token is known.
func clockSkew(s *scenario) {
	const calm, wrong, right = 8 * time.Second, 15 * time.Second, 15 * time.Second
	usual := mockprovider.Fault{Delay: healthyResponse.Delay}
	clocks := []*wrongClockRun{{name: "slow", offset: 61 * time.Minute}, {name: "fast", offset: -61 * time.Minute}}
	for _, c := range clocks {
		c.mock = s.startMock(mockprovider.Config{Endpoints: poolSize, TokenUpdateEvery: 20 * time.Minute, Script: script(usual)})
		c.gateway = s.startAPNsGateway(c.mock, "")
		c.run = s.offerRate(c.gateway, 200, calm+wrong+right, apnsNotification)
	}
	clocks[1].run.waitUntil(calm)
	for _, c := range clocks {
		c.faultStart = s.playFaults(c.mock, mockprovider.Fault{Clock: c.offset}, mockprovider.Fault{Service: mockprovider.APNs, GoAway: &mockprovider.GoAway{}}, usual)
	}
	clocks[1].run.waitUntil(calm + wrong)
	for _, c := range clocks {
		c.healedAt = s.playFaults(c.mock, usual)
	}
	for _, c := range clocks {
		s.checkClock(c, right)
	}
}

// wrongClockRun is a gateway whose clock is wrong for a while.
type wrongClockRun struct {
	name                 string
	offset               time.Duration // of the service's
	mock                 *mockprovider.Mock
	gateway              *gateway
	run                  *loadRun
	faultStart, healedAt time.Time
}

func (s *scenario) checkClock(c *wrongClockRun, right time.Duration) {
	got := c.run.wait()
	alarm := never
	if alarms := c.gateway.eventsSince(c.faultStart, "clock", ""); len(alarms) > 0 {
		alarm = alarms[0].Time.Sub(c.faultStart)
	}
	seen := c.mock.Ledger().Summary().Services[mockprovider.APNs]
	refused := got.Between(c.faultStart, c.healedAt).Count(notAccepted)
	s.expect(c.name+": refused", fmt.Sprint(refused), refused > 0)
	atMost(&s.rowResult, "warning logged after", alarm, time.Minute)
	s.expectZero("new provider tokens within 20 min", int(seen.Reasons["TooManyProviderTokenUpdates"]))
	atMost(&s.rowResult, "recovered after", recoveryTime(got, c.healedAt, c.healedAt.Add(right-time.Second), 0.95), 10*time.Second)
	s.note("%s: refusals %v", c.name, seen.Reasons)
	s.expectDialBudget(c.gateway, c.mock, mockprovider.APNs)
}
