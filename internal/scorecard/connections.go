// SPDX-License-Identifier: Apache-2.0

package main

import (
	"crypto/tls"
	"fmt"
	"strings"
	"sync"
	"time"

	"github.com/sluice-push/sluice/internal/scorecard/load"
	"github.com/sluice-push/sluice/mockprovider"
	"github.com/sluice-push/sluice/push"
)

// apnsCertificateBlock is an app that sends to the mock's APNs with a client certificate: its connections need not send their
// first request alone.
func apnsCertificateBlock(m *mockprovider.Mock, files mockprovider.Files, more string) string {
	at := m.Ready(files)
	return fmt.Sprintf("apns: {url: 'https://%s', endpoints: ['%s'], ca_file: %q, cert_file: %q, cert_key_file: %q, topic: %s%s}",
		at.APNs, strings.Join(at.APNsEndpoints, "', '"), at.CAFile, files.ClientCert, files.ClientKey, at.APNsTopic, more)
}

// goAway is S06: every connection gets a GOAWAY that disowns the newer half of what is in flight on it. Answers take
// long enough for all of a burst to be in flight at once, and every one the same time, for that is a whole sample.
func goAway(s *scenario) {
	slow := mockprovider.Fault{Service: mockprovider.APNs, Delay: 150 * time.Millisecond}
	m := s.startMock(mockprovider.Config{Endpoints: poolSize, Script: script(slow)})
	g := s.startGateway("", app{shopApp, apnsCertificateBlock(m, s.writeMockFiles(m), ", pool: {in_flight: 250}")})
	s.startBurst(g, 1000) // of which nothing is measured: the process warms up
	s.sleep(time.Second)
	s.checkGoAway(m, g, 200, slow)
	s.sleep(10 * time.Second) // for an endpoint is replaced at once only so often: the dial budget
	s.checkGoAway(m, g, 1000, slow)
	s.expectZero("duplicates", evidence{accepted: m.Ledger().AcceptedByID()}.duplicates())
	s.expectDialBudget(g, m, mockprovider.APNs)
}

// checkGoAway compares a burst that GOAWAY meets with one that it does not.
func (s *scenario) checkGoAway(m *mockprovider.Mock, g *gateway, n int, slow mockprovider.Fault) {
	calm := s.startBurst(g, n).wait()
	s.sleep(2 * time.Second)
	handshakes := s.measureHandshakes(m)
	dialled := s.dialCount(m)
	met := s.startBurst(g, n)
	s.eventually(fmt.Sprintf("all %d are in flight", n), time.Second, func() bool { return g.status().inFlight() == n })
	s.noError(m.Play(mockprovider.Script{Faults: []mockprovider.Fault{
		{Service: mockprovider.APNs, GoAway: &mockprovider.GoAway{LastOffset: -n / poolSize / 2}}, slow,
	}}))
	got := met.wait()
	accepted := m.Ledger().AcceptedByID()
	s.eventually("the pool is full again", 15*time.Second, func() bool { return g.status().minLive() == poolSize })
	cut := 0
	for _, entry := range m.Ledger().Entries(mockprovider.Query{Service: mockprovider.APNs}) {
		if entry.Fault == "goaway" && entry.Time.After(got.Started) {
			cut++
		}
	}
	s.expect(fmt.Sprintf("%d in flight: not processed", n), fmt.Sprint(cut), cut >= n/3)
	s.expectZero("failed", s.countFailed(got.Samples, accepted))
	atMost(&s.rowResult, "new dials", s.dialCount(m)-dialled, poolSize)
	s.expectMaxIncrease("p99", calm.Samples.LatencyQuantile(0.99), got.Samples.LatencyQuantile(0.99), handshakes+50*time.Millisecond)
}

// startBurst offers n notifications at once.
func (s *scenario) startBurst(g *gateway, n int) *loadRun {
	return s.startLoad(g, load.Generator{Count: n, NewNotification: apnsNotification})
}

// measureHandshakes is how long this machine takes for as many connections at once as the pool has. They are made to FCM, so as
// not to be counted with the gateway's own.
func (s *scenario) measureHandshakes(m *mockprovider.Mock) time.Duration {
	began := time.Now()
	var all sync.WaitGroup
	for _, addr := range m.FCMAddrs() {
		all.Go(func() {
			if conn, err := tls.Dial("tcp", addr.String(), m.ClientTLS()); err == nil {
				_ = conn.Close()
			}
		})
	}
	all.Wait()
	return time.Since(began)
}

func (s *scenario) dialCount(m *mockprovider.Mock) int {
	return int(m.Ledger().Summary().Services[mockprovider.APNs].Dials)
}

// tcpReset is S07: all connections end by a TCP reset, and the older half of what was in flight had been processed. Senders
// who said never get the truth, that nobody knows; those who said always get their notification, some of them twice.
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
		cut := s.injectFaults(m, mockprovider.Fault{Service: mockprovider.APNs, Reset: &mockprovider.Reset{Processed: 0.5}})
		e := collectEvidence(m, run.wait(), cut)
		s.checkReset(e, wish)
		s.sleep(12 * time.Second) // ejections of the first reset are over before the second
	}
	s.expectDialBudget(g, m, mockprovider.APNs)
}

// checkReset judges one reset. What the service answered in the last moments before it may have been discarded on the way, and
// is then unanswered for all that a client can know.
func (s *scenario) checkReset(e evidence, wish push.OnUnknown) {
	unanswered, processed, inTime := map[string]bool{}, 0, map[string]bool{}
	at := e.resetTimes()
	for _, entry := range e.entries {
		if entry.Time.Before(e.faultStart.Add(-time.Second)) {
			continue
		}
		when, met := at[connKey{entry.Endpoint, entry.Conn}]
		switch {
		case !entry.Answered && !entry.Time.Before(e.faultStart):
			unanswered[entry.ID] = true
			if entry.Accepted {
				processed++
			}
		case met && when.Sub(entry.Time) < 5*time.Millisecond:
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

// connKey is one of an endpoint's, by its number in the ledger.
type connKey struct {
	endpoint string
	id       uint64
}

// resetTimes is when each connection was reset.
func (e evidence) resetTimes() map[connKey]time.Time {
	at := map[connKey]time.Time{}
	for _, entry := range e.entries {
		if entry.Fault == "reset" && !entry.Time.Before(e.faultStart) {
			at[connKey{entry.Endpoint, entry.Conn}] = entry.Time
		}
	}
	return at
}
