// SPDX-License-Identifier: Apache-2.0

package main

import (
	"time"

	"github.com/sluice-push/sluice/loadtest"
	"github.com/sluice-push/sluice/mockprovider"
	"github.com/sluice-push/sluice/push"
)

// limited is S08: a connection may have one stream until its first request is accepted, and again after each refusal.
// Answers take 50 ms each: of 500 drawn at random the slowest alone would take 280.
func limited(s *stage) {
	steady := mockprovider.Fault{Service: mockprovider.APNs, Delay: healthy.Delay}
	m := s.mock(mockprovider.Config{
		Endpoints: size, Streams: mockprovider.Streams{ShrinkOn4xx: true}, Script: script(steady),
	})
	g := s.gateway(m, "")
	cold := s.burst(g, 500).wait()
	apns := m.Ledger().Summary().Services[mockprovider.APNs]
	atMost(&s.card, "cold burst of 500: dials", int(apns.Dials), size)
	s.none("refused streams", int(apns.Refused))
	atMost(&s.card, "all done", cold.Samples.Latency(1), 300*time.Millisecond)

	none, some := s.throughput(g, toDevice), s.throughput(g, oneInAHundredIsBad)
	atLeast(&s.card, "throughput with refusals", shareOf(int(some), int(none)), 0.9)
	s.note("%.0f a second without refusals, %.0f with", none, some)
	s.dials(g, m, mockprovider.APNs)
}

func oneInAHundredIsBad(i int) *push.Notification {
	n := toDevice(i)
	if i%100 == 50 {
		n.Token = "bad00000" + n.Token[8:]
	}
	return n
}

// throughput is how many notifications a second end while 384 are in flight, 48 on each endpoint.
func (s *stage) throughput(g *gateway, compose func(int) *push.Notification) float64 {
	const window, count = 48 * size, 50_000
	got := s.start(g, loadtest.Load{Count: count, Window: window, Compose: compose}).wait()
	var end time.Duration
	for _, sample := range got.Samples {
		if sample.Status != "accepted" && sample.Status != "refused" {
			s.note("a notification ended as %s: %s", sample.Status, sample.Reason)
			return 0
		}
		end = max(end, sample.Due+sample.Latency)
	}
	return count / end.Seconds()
}
