// SPDX-License-Identifier: Apache-2.0

package main

import (
	"crypto/tls"
	"fmt"
	"strings"
	"sync"
	"time"

	"github.com/sluice-push/sluice/loadtest"
	"github.com/sluice-push/sluice/mockprovider"
	"github.com/sluice-push/sluice/push"
)

// certificateTo is an app that sends to the mock's APNs with a client certificate: its connections need not send their
// first request alone.
func certificateTo(m *mockprovider.Mock, files mockprovider.Files, more string) string {
	at := m.Ready(files)
	return fmt.Sprintf("apns: {url: 'https://%s', endpoints: ['%s'], ca_file: %q, cert_file: %q, cert_key_file: %q, topic: %s%s}",
		at.APNs, strings.Join(at.APNsEndpoints, "', '"), at.CAFile, files.ClientCert, files.ClientKey, at.APNsTopic, more)
}

// goneAway is S06: every connection gets a GOAWAY that disowns the newer half of what is in flight on it. Answers take
// long enough for all of a burst to be in flight at once, and every one the same time, for that is a whole sample.
func goneAway(s *stage) {
	slow := mockprovider.Fault{Service: mockprovider.APNs, Delay: 150 * time.Millisecond}
	m := s.mock(mockprovider.Config{Endpoints: size, Script: script(slow)})
	g := s.serve("", app{shop, certificateTo(m, s.files(m), ", pool: {in_flight: 250}")})
	s.burst(g, 1000) // of which nothing is measured: the process warms up
	s.sleep(time.Second)
	s.goAwayAmid(m, g, 200, slow)
	s.sleep(10 * time.Second) // for an endpoint is replaced at once only so often: the dial budget
	s.goAwayAmid(m, g, 1000, slow)
	s.none("duplicates", evidence{accepted: m.Ledger().AcceptedByID()}.duplicates())
	s.dials(g, m, mockprovider.APNs)
}

// goAwayAmid compares a burst that GOAWAY meets with one that it does not.
func (s *stage) goAwayAmid(m *mockprovider.Mock, g *gateway, n int, slow mockprovider.Fault) {
	calm := s.burst(g, n).wait()
	s.sleep(2 * time.Second)
	handshakes := s.handshakes(m)
	dialled := s.dialled(m)
	met := s.burst(g, n)
	s.eventually(fmt.Sprintf("all %d are in flight", n), time.Second, func() bool { return g.status().inFlight() == n })
	s.need(m.Play(mockprovider.Script{Faults: []mockprovider.Fault{
		{Service: mockprovider.APNs, GoAway: &mockprovider.GoAway{LastOffset: -n / size / 2}}, slow,
	}}))
	got := met.wait()
	accepted := m.Ledger().AcceptedByID()
	s.eventually("the pool is full again", 15*time.Second, func() bool { return g.status().live() == size })
	cut := 0
	for _, entry := range m.Ledger().Entries(mockprovider.Query{Service: mockprovider.APNs}) {
		if entry.Fault == "goaway" && entry.Time.After(got.Began) {
			cut++
		}
	}
	s.must(fmt.Sprintf("%d in flight, cut off", n), fmt.Sprint(cut), cut >= n/3)
	s.none("failed", s.failed(got.Samples, accepted))
	atMost(&s.card, "new dials", s.dialled(m)-dialled, size)
	s.added("p99", calm.Samples.Latency(0.99), got.Samples.Latency(0.99), handshakes+50*time.Millisecond)
}

// burst offers n notifications at once.
func (s *stage) burst(g *gateway, n int) *load {
	return s.start(g, loadtest.Load{Count: n, Compose: toDevice})
}

// handshakes is how long this machine takes for as many connections at once as the pool has. They are made to FCM, so as
// not to be counted with the gateway's own.
func (s *stage) handshakes(m *mockprovider.Mock) time.Duration {
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

func (s *stage) dialled(m *mockprovider.Mock) int {
	return int(m.Ledger().Summary().Services[mockprovider.APNs].Dials)
}

// reset is S07: all connections end by a TCP reset, and the older half of what was in flight had been processed. Senders
// who said never get the truth, that nobody knows; those who said always get their notification, some of them twice.
func reset(s *stage) {
	m := s.mock(mockprovider.Config{Endpoints: size + spares})
	g := s.gateway(m, "")
	for _, wish := range []push.OnUnknown{push.RepeatNever, push.RepeatAlways} {
		load := s.offer(g, rate, 15*time.Second, func(i int) *push.Notification {
			n := toDevice(i)
			n.OnUnknown = wish
			return n
		})
		load.at(7 * time.Second)
		cut := s.begin(m, mockprovider.Fault{Service: mockprovider.APNs, Reset: &mockprovider.Reset{Processed: 0.5}})
		e := gather(m, load.wait(), cut)
		s.resets(e, wish)
		s.sleep(12 * time.Second) // ejections of the first reset are over before the second
	}
	s.dials(g, m, mockprovider.APNs)
}

// resets judges one reset. What the service answered in the last moments before it may have been discarded on the way, and
// is then unanswered for all that a client can know.
func (s *stage) resets(e evidence, wish push.OnUnknown) {
	unanswered, processed, inTime := map[string]bool{}, 0, map[string]bool{}
	at := e.resetAt()
	for _, entry := range e.entries {
		if entry.Time.Before(e.cut.Add(-time.Second)) {
			continue
		}
		when, met := at[connection{entry.Endpoint, entry.Conn}]
		switch {
		case !entry.Answered && !entry.Time.Before(e.cut):
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
	s.must(name+"in flight", fmt.Sprintf("%d, %d processed", len(unanswered), processed), processed > 0)
	if wish == push.RepeatAlways {
		s.none("failed", s.failed(e.after, e.accepted))
		atMost(&s.card, "duplicates", e.duplicates(), processed)
		return
	}
	s.none("duplicates", e.duplicates())
	s.none("unanswered and not said to be unknown", e.after.Count(func(n *loadtest.Sample) bool {
		return unanswered[n.ID] && n.Status != "unknown"
	}))
	s.none("unknown and yet answered", e.after.Count(func(n *loadtest.Sample) bool { return n.Status == "unknown" && inTime[n.ID] }))
	s.none("failed otherwise", e.after.Count(func(n *loadtest.Sample) bool { return n.Status != "unknown" && n.Status != "accepted" }))
}

// connection is one of an endpoint's, by its number in the ledger.
type connection struct {
	endpoint string
	number   uint64
}

// resetAt is when each connection was reset.
func (e evidence) resetAt() map[connection]time.Time {
	at := map[connection]time.Time{}
	for _, entry := range e.entries {
		if entry.Fault == "reset" && !entry.Time.Before(e.cut) {
			at[connection{entry.Endpoint, entry.Conn}] = entry.Time
		}
	}
	return at
}
