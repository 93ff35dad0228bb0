// SPDX-License-Identifier: Apache-2.0

package scorecard

import (
	"crypto/tls"
	"fmt"
	"net"
	"strings"
	"sync"
	"time"

	"github.com/sluice-push/sluice/internal/load"
	"github.com/sluice-push/sluice/mockprovider"
	"github.com/sluice-push/sluice/push"
)

// apnsCertificateBlock returns the block of an app that sends to the mock's APNs with a client
// certificate. Unlike with a token, the first request on a connection need not be sent alone.
func apnsCertificateBlock(m *mockprovider.Mock, files mockprovider.Files, extra string) string {
	info := m.Ready(files)
	return fmt.Sprintf("apns: {url: 'https://%s', endpoints: ['%s'], ca_file: %q, cert_file: %q, cert_key_file: %q, topic: %s%s}",
		info.APNs, strings.Join(info.APNsEndpoints, "', '"), info.CAFile, files.ClientCert, files.ClientKey, info.APNsTopic, extra)
}

// goAway is S06. Every connection gets a GOAWAY that excludes the newer half of its requests in
// flight. All responses take the same time, long enough for a whole burst to be in flight at once.
func goAway(s *scenario) {
	slow := mockprovider.Fault{Service: mockprovider.APNs, Delay: 150 * time.Millisecond}
	m := s.startMock(mockprovider.Config{Endpoints: poolSize, Script: script(slow)})
	g := s.startGateway("", app{shopApp, apnsCertificateBlock(m, s.writeMockFiles(m), ", pool: {in_flight: 250}")})
	s.startBurst(g, 1000) // warms up the process; not measured
	s.sleep(time.Second)
	s.checkGoAway(m, g, 200, slow)
	s.sleep(10 * time.Second) // the dial budget limits immediate replacements
	s.checkGoAway(m, g, 1000, slow)
	s.expectZero("duplicates", evidence{accepted: m.Ledger().AcceptedByID()}.duplicates())
	s.expectDialBudget(g, m, mockprovider.APNs)
}

// checkGoAway compares a burst with GOAWAY to a burst without.
func (s *scenario) checkGoAway(m *mockprovider.Mock, g *gateway, n int, slow mockprovider.Fault) {
	calm := s.startBurst(g, n).wait()
	s.sleep(2 * time.Second)
	handshakes := s.measureHandshakes(m)
	dialsBefore := s.dialCount(m)
	withGoAway := s.startBurst(g, n)
	s.eventually(fmt.Sprintf("waiting until all %d are in flight", n), time.Second, func() bool { return g.status().inFlight() == n })
	// The items of a batch are in flight in runs of 64, each on one connection.
	const run = 64
	busiest := (n + run*poolSize - 1) / (run * poolSize) * run
	s.noError(m.SetScript(mockprovider.Script{Faults: []mockprovider.Fault{
		{Service: mockprovider.APNs, GoAway: &mockprovider.GoAway{LastOffset: -busiest / 2}}, slow,
	}}))
	results := withGoAway.wait()
	accepted := m.Ledger().AcceptedByID()
	s.eventually("waiting for a full pool", 15*time.Second, func() bool { return g.status().minLive() == poolSize })
	refused := 0
	for _, entry := range m.Ledger().Entries(mockprovider.Query{Service: mockprovider.APNs}) {
		if entry.Fault == "goaway" && entry.Time.After(results.Started) {
			refused++
		}
	}
	s.expect(fmt.Sprintf("%d in flight: not processed", n), fmt.Sprint(refused), refused >= n/3)
	s.expectZero("failed", s.countFailed(results.Samples, accepted))
	atMost(&s.rowResult, "new dials", s.dialCount(m)-dialsBefore, poolSize)
	s.expectMaxIncrease("p99", calm.Samples.LatencyQuantile(0.99), results.Samples.LatencyQuantile(0.99), handshakes+50*time.Millisecond)
}

// gracefulGoAway is S31. A proxy in front of the provider ends every connection with GOAWAY and
// NO_ERROR after a number of requests, as nginx does after 1,000.
func gracefulGoAway(s *scenario) {
	m := s.startMock(mockprovider.Config{Endpoints: poolSize})
	g := s.startAPNsGateway(m, "")
	for _, every := range []int{1000, 100} {
		const calm, goAways = 7 * time.Second, 20 * time.Second
		run := s.offerRate(g, loadRate, calm+goAways, apnsNotification)
		run.waitUntil(calm)
		faultStart := s.injectFaults(m, mockprovider.Fault{
			Service: mockprovider.APNs, GoAway: &mockprovider.GoAway{Every: every}, Delay: healthyResponse.Delay, P99: healthyResponse.P99,
		})
		e := collectEvidence(m, run.wait(), faultStart)
		s.playFaults(m, healthyResponse)
		name := fmt.Sprintf("every %d: ", every)
		ended := len(g.eventsSince(faultStart, "go_away", ""))
		s.expect(name+"connections ended", fmt.Sprint(ended), ended >= int(loadRate*goAways.Seconds())/every/2)
		s.expectZero("failed", s.countFailed(e.after, e.accepted))
		s.expectZero("duplicates", e.duplicates())
		s.expectP99(e, s.measureHandshakes(m)+50*time.Millisecond)
		m.Ledger().Clear()
	}
	s.expectDialBudget(g, m, mockprovider.APNs)
}

// startBurst offers n notifications at once.
func (s *scenario) startBurst(g *gateway, n int) *loadRun {
	return s.startLoad(g, load.Generator{Count: n}, apnsNotification)
}

// measureHandshakes returns the time that this machine needs for as many simultaneous handshakes as
// the pool has endpoints. It connects to FCM, so the ledger does not count the connections as the
// gateway's.
func (s *scenario) measureHandshakes(m *mockprovider.Mock) time.Duration {
	began := time.Now()
	var all sync.WaitGroup
	for _, addr := range m.FCMAddrs() {
		all.Go(func() {
			if conn, err := tls.DialWithDialer(&net.Dialer{Timeout: 10 * time.Second}, "tcp", addr.String(), m.ClientTLS()); err == nil {
				_ = conn.Close()
			}
		})
	}
	all.Wait() // bounded by the timeout of the dialer
	return time.Since(began)
}

func (s *scenario) dialCount(m *mockprovider.Mock) int {
	return int(m.Ledger().Summary().Services[mockprovider.APNs].Dials)
}

// tcpReset is S07. All connections end with a TCP reset after the older half of the requests in
// flight was processed. With on_unknown never, the sender must learn that the result is unknown.
// With always, every notification is delivered, some of them twice.
func tcpReset(s *scenario) {
	m := s.startMock(mockprovider.Config{Endpoints: poolSize + spareEndpoints})
	g := s.startAPNsGateway(m, "")
	for _, wish := range []push.OnUnknown{push.RepeatNever, push.RepeatAlways} {
		run := s.offerRate(g, loadRate, 15*time.Second, func(i int) *push.Notification {
			n := apnsNotification(i)
			n.OnUnknown = wish
			return n
		})
		run.waitUntil(7 * time.Second)
		faultStart := s.injectFaults(m, mockprovider.Fault{Service: mockprovider.APNs, Reset: &mockprovider.Reset{Processed: 0.5}})
		e := collectEvidence(m, run.wait(), faultStart)
		s.checkReset(e, wish)
		s.sleep(12 * time.Second) // the ejections of the first reset end before the second
	}
	s.expectDialBudget(g, m, mockprovider.APNs)
}

// checkReset checks one reset. Responses that the service sent in the last milliseconds before the
// reset may be lost on the way; the client cannot distinguish them from missing responses.
func (s *scenario) checkReset(e evidence, wish push.OnUnknown) {
	unanswered, processed, inTime := map[string]bool{}, 0, map[string]bool{}
	resets := e.resetTimes()
	for _, entry := range e.entries {
		if entry.Time.Before(e.faultStart.Add(-time.Second)) {
			continue
		}
		resetTime, wasReset := resets[connKey{entry.Endpoint, entry.Conn}]
		switch {
		case !entry.Answered && !entry.Time.Before(e.faultStart):
			unanswered[entry.ID] = true
			if entry.Accepted {
				processed++
			}
		case wasReset && resetTime.Sub(entry.Time) < 5*time.Millisecond:
			if e.accepted[entry.ID] > 1 {
				processed++
			}
		default:
			inTime[entry.ID] = true
		}
	}
	name := string(wish) + ": "
	s.expect(name+"in flight", fmt.Sprintf("%d, %d processed", len(unanswered), processed), processed > 0)
	if wish == push.RepeatAlways {
		s.expectZero("failed", s.countFailed(e.after, e.accepted))
		atMost(&s.rowResult, "duplicates", e.duplicates(), processed)
		return
	}
	s.expectZero("duplicates", e.duplicates())
	s.expectZero("unanswered but not reported as unknown", e.after.Count(func(n *load.Sample) bool {
		return unanswered[n.ID] && n.Status != "unknown"
	}))
	s.expectZero("answered but reported as unknown", e.after.Count(func(n *load.Sample) bool { return n.Status == "unknown" && inTime[n.ID] }))
	s.expectZero("other failures", e.after.Count(func(n *load.Sample) bool { return n.Status != "unknown" && n.Status != "accepted" }))
}

// connKey identifies a connection by its endpoint and its number in the ledger.
type connKey struct {
	endpoint string
	id       uint64
}

// resetTimes returns the time at which each connection was reset.
func (e evidence) resetTimes() map[connKey]time.Time {
	times := map[connKey]time.Time{}
	for _, entry := range e.entries {
		if entry.Fault == "reset" && !entry.Time.Before(e.faultStart) {
			times[connKey{entry.Endpoint, entry.Conn}] = entry.Time
		}
	}
	return times
}
