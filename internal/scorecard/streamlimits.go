// SPDX-License-Identifier: Apache-2.0

package main

import (
	"time"

	"github.com/sluice-push/sluice/internal/scorecard/load"
	"github.com/sluice-push/sluice/mockprovider"
	"github.com/sluice-push/sluice/push"
)

// streamLimits is S08: a connection may have one stream until its first request is accepted, and again after each refusal.
// Answers take 50 ms each: of 500 drawn at random the slowest alone would take 280.
func streamLimits(s *scenario) {
	steady := mockprovider.Fault{Service: mockprovider.APNs, Delay: healthyResponse.Delay}
	m := s.startMock(mockprovider.Config{
		Endpoints: poolSize, Streams: mockprovider.Streams{ShrinkOn4xx: true}, Script: script(steady),
	})
	g := s.startAPNsGateway(m, "")
	cold := s.startBurst(g, 500).wait()
	apns := m.Ledger().Summary().Services[mockprovider.APNs]
	atMost(&s.rowResult, "cold burst of 500: dials", int(apns.Dials), poolSize)
	s.expectZero("refused streams", int(apns.Refused))
	atMost(&s.rowResult, "all done after", cold.Samples.LatencyQuantile(1), 300*time.Millisecond)

	none, some := s.throughput(g, apnsNotification), s.throughput(g, withBadTokens)
	atLeast(&s.rowResult, "throughput with refusals", fractionOf(int(some), int(none)), 0.9)
	s.note("%.0f a second without refusals, %.0f with", none, some)
	s.expectDialBudget(g, m, mockprovider.APNs)
}

func withBadTokens(i int) *push.Notification {
	n := apnsNotification(i)
	if i%100 == 50 {
		n.Token = "bad00000" + n.Token[8:]
	}
	return n
}

// throughput is how many notifications a second end while 384 are in flight, 48 on each endpoint.
func (s *scenario) throughput(g *gateway, compose func(int) *push.Notification) float64 {
	const window, count = 48 * poolSize, 50_000
	got := s.startLoad(g, load.Generator{Count: count, Window: window, NewNotification: compose}).wait()
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
