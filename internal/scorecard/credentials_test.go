// SPDX-License-Identifier: Apache-2.0

package scorecard

import (
	"fmt"
	"net/http"
	"time"

	"github.com/sluice-push/sluice/mockprovider"
)

// tokenEndpointDown is S12. The token endpoint responds with 503 for a part of a token's lifetime
// that corresponds to 25 minutes of Google's hour. Tokens live 75 seconds here, which leaves room
// for the same number of attempts with doubling backoff. A second gateway starts without ever
// having had a token.
func tokenEndpointDown(s *scenario) {
	const lifetime, outageStart, outage = 75 * time.Second, 14 * time.Second, 31 * time.Second
	healthy := mockprovider.Fault{Delay: healthyResponse.Delay}
	noToken := mockprovider.Fault{Service: mockprovider.OAuth, Status: 503}
	m := s.startMock(mockprovider.Config{Endpoints: poolSize, AccessTokenLifetime: lifetime, Script: script(healthy)})
	g := s.startGateway("", app{shopApp, fcmBlock(m, s.writeMockFiles(m), "")})
	run := s.offerRate(g, 200, lifetime+5*time.Second, fcmNotification)
	s.startWithoutToken(noToken, healthy)
	run.waitUntil(outageStart)
	faultStart := s.playFaults(m, noToken, healthy)
	run.waitUntil(outageStart + outage)
	faultEnd := s.playFaults(m, healthy)
	results := run.wait()

	s.expectZero("failed", s.countNotAccepted(results.Samples))
	exchanges := requestTimes(m, mockprovider.OAuth)
	refused, renewed := exchanges.refused.between(faultStart, faultEnd), exchanges.accepted.after(faultEnd)
	s.expect("exchanges during the outage", fmt.Sprint(len(refused)), len(refused) > 0)
	s.expectZero("exchanges before the backoff", refused.beforeBackoff())
	s.expect("new tokens after the outage", fmt.Sprint(len(renewed)), len(renewed) > 0)
}

// beforeBackoff counts the token exchanges that came before the backoff after the previous one had
// passed. The backoff is a second, doubled each time, minus up to a fifth of jitter.
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

// startWithoutToken starts a gateway with a token endpoint that has always been down. APNs must
// work, and FCM must be refused with the reason.
func (s *scenario) startWithoutToken(fault, healthy mockprovider.Fault) {
	m := s.startMock(mockprovider.Config{Endpoints: poolSize, Script: script(fault, healthy)})
	files := s.writeMockFiles(m)
	g := s.startGateway("", app{shopApp, joinBlocks(apnsBlock(m, files, ""), fcmBlock(m, files, ""))})
	s.eventually("waiting for the gateway without a token", 15*time.Second, g.ready)
	apns, err := g.sendOne(shopApp, apnsNotification(0))
	s.noError(err)
	fcm, err := g.sendOne(shopApp, fcmNotification(0))
	s.noError(err)
	s.expect("started without a token: APNs", fmt.Sprint(apns.code), apns.code == http.StatusOK)
	fcmResult := fmt.Sprintf("%d %s", fcm.code, fcm.receipt.Reason)
	s.expect("FCM", fcmResult, fcmResult == "503 OAUTH_UNAVAILABLE")
	s.expectZero("exchanges before the backoff", requestTimes(m, mockprovider.OAuth).refused.beforeBackoff())
}

// clockSkew is S13. The clock of one gateway becomes 61 minutes slow and that of another 61 minutes
// fast under load, and later both are correct again. A process cannot have its own clock, so the
// row moves the clock of the service instead; the effect on signed tokens is the same. The
// connections end when the clock moves, because the service does not verify the token again on an
// open connection.
func clockSkew(s *scenario) {
	const before, wrong, after = 8 * time.Second, 15 * time.Second, 15 * time.Second
	healthy := mockprovider.Fault{Delay: healthyResponse.Delay}
	clocks := []*wrongClockRun{{name: "slow", offset: 61 * time.Minute}, {name: "fast", offset: -61 * time.Minute}}
	for _, c := range clocks {
		c.mock = s.startMock(mockprovider.Config{Endpoints: poolSize, TokenUpdateEvery: 20 * time.Minute, Script: script(healthy)})
		c.gateway = s.startAPNsGateway(c.mock, "")
		c.run = s.offerRate(c.gateway, 200, before+wrong+after, apnsNotification)
	}
	clocks[1].run.waitUntil(before)
	for _, c := range clocks {
		c.faultStart = s.playFaults(c.mock, mockprovider.Fault{Clock: c.offset}, mockprovider.Fault{Service: mockprovider.APNs, GoAway: &mockprovider.GoAway{}}, healthy)
	}
	clocks[1].run.waitUntil(before + wrong)
	for _, c := range clocks {
		c.faultEnd = s.playFaults(c.mock, healthy)
	}
	for _, c := range clocks {
		s.checkClock(c, after)
	}
}

// wrongClockRun is a gateway with a wrong clock for a while.
type wrongClockRun struct {
	name                 string
	offset               time.Duration // of the clock of the service
	mock                 *mockprovider.Mock
	gateway              *gateway
	run                  *loadRun
	faultStart, faultEnd time.Time
}

func (s *scenario) checkClock(c *wrongClockRun, after time.Duration) {
	results := c.run.wait()
	alarm := never
	if alarms := c.gateway.eventsSince(c.faultStart, "clock", ""); len(alarms) > 0 {
		alarm = alarms[0].Time.Sub(c.faultStart)
	}
	counts := c.mock.Ledger().Summary().Services[mockprovider.APNs]
	refused := results.Between(c.faultStart, c.faultEnd).Count(notAccepted)
	s.expect(c.name+": refused", fmt.Sprint(refused), refused > 0)
	atMost(&s.rowResult, "warning logged after", alarm, time.Minute)
	s.expectZero("new provider tokens within 20 min", int(counts.Reasons["TooManyProviderTokenUpdates"]))
	atMost(&s.rowResult, "recovered after", recoveryTime(results, c.faultEnd, c.faultEnd.Add(after-time.Second), 0.95), 10*time.Second)
	s.note("%s: refusals %v", c.name, counts.Reasons)
	s.expectDialBudget(c.gateway, c.mock, mockprovider.APNs)
}
