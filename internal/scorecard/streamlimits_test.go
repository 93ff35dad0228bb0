// SPDX-License-Identifier: Apache-2.0

package scorecard

import (
	"time"

	"github.com/sluice-push/sluice/internal/load"
	"github.com/sluice-push/sluice/mockprovider"
	"github.com/sluice-push/sluice/push"
)

// streamLimits is S08. A connection allows one stream until its first request is accepted, and
// again after each refusal. Every response takes 50 ms, because the slowest of 500 random response
// times would alone take 280 ms.
func streamLimits(s *scenario) {
	steady := mockprovider.Fault{Service: mockprovider.APNs, Delay: healthyResponse.Delay}
	m := s.startMock(mockprovider.Config{
		Endpoints: poolSize, Streams: mockprovider.Streams{ShrinkOn4xx: true, Strict: true}, Script: script(steady),
	})
	g := s.startAPNsGateway(m, "")
	cold := s.startBurst(g, 500).wait()
	apns := m.Ledger().Summary().Services[mockprovider.APNs]
	atMost(&s.rowResult, "cold burst of 500: dials", int(apns.Dials), poolSize)
	s.expectZero("refused streams", int(apns.Refused))
	atMost(&s.rowResult, "all done after", cold.Samples.LatencyQuantile(1), 300*time.Millisecond)

	baseline, withRefusals := s.throughput(g, apnsNotification), s.throughput(g, withBadTokens)
	atLeast(&s.rowResult, "throughput with refusals", fractionOf(int(withRefusals), int(baseline)), 0.9)
	s.note("%.0f/s without refusals, %.0f/s with", baseline, withRefusals)
	s.expectDialBudget(g, m, mockprovider.APNs)
}

func withBadTokens(i int) *push.Notification {
	n := apnsNotification(i)
	if i%100 == 50 {
		n.Token = "bad00000" + n.Token[8:]
	}
	return n
}

// throughput returns the notifications per second with 384 in flight, 48 per endpoint.
func (s *scenario) throughput(g *gateway, newNotification func(int) *push.Notification) float64 {
	const window, count = 48 * poolSize, 50_000
	results := s.startLoad(g, load.Generator{Count: count, InFlight: window}, newNotification).wait()
	var end time.Duration
	for _, sample := range results.Samples {
		if sample.Status != "accepted" && sample.Status != "refused" {
			s.note("a notification ended as %s: %s", sample.Status, sample.Reason)
			return 0
		}
		end = max(end, sample.Due+sample.Latency)
	}
	return count / end.Seconds()
}
