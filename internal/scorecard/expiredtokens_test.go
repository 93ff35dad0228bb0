// SPDX-License-Identifier: Apache-2.0

package scorecard

import (
	"fmt"
	"time"

	"github.com/sluice-push/sluice/internal/load"
	"github.com/sluice-push/sluice/mockprovider"
	"github.com/sluice-push/sluice/push"
)

// expiredTokens is S19. After a while, one notification in five goes to an expired token. There are
// a thousand such tokens, so each is used again every two and a half seconds. The receipt tells the
// sender that the token is unregistered.
func expiredTokens(s *scenario) {
	const expiredEvery, expiredCount = 5, 1000
	m := s.startMock(mockprovider.Config{Endpoints: poolSize, Streams: mockprovider.Streams{ShrinkOn4xx: true, Strict: true}})
	g := s.startAPNsGateway(m, "")
	count, from := int(loadRate*(beforeFault+faultDuration).Seconds()), int(loadRate*beforeFault.Seconds())
	run := s.startLoad(g, load.Generator{Rate: loadRate, Count: count}, func(i int) *push.Notification {
		n := apnsNotification(i)
		if expired := i >= from && i%expiredEvery == 0; expired {
			n.Token = fmt.Sprintf("dead0001%056x", i/expiredEvery%expiredCount)
		}
		return n
	})
	results := run.wait()
	faultStart := results.Started.Add(beforeFault)
	before := results.Between(results.Started.Add(warmUp), faultStart)
	var valid, expiredSamples load.Samples
	for i := from; i < count; i++ {
		if i%expiredEvery == 0 {
			expiredSamples = append(expiredSamples, results.Samples[i])
		} else {
			valid = append(valid, results.Samples[i])
		}
	}

	s.expectMaxChange("p99 of valid tokens", before.LatencyQuantile(0.99), valid.LatencyQuantile(0.99), 0.1)
	s.expectZero("not accepted for valid tokens", s.countFailed(valid, m.Ledger().AcceptedByID()))
	requests := map[string]int{}
	for _, e := range m.Ledger().Entries(mockprovider.Query{Service: mockprovider.APNs, Token: "dead0001*"}) {
		requests[e.Token]++
	}
	repeats := 0
	for _, n := range requests {
		repeats += n - 1
	}
	s.expect("expired tokens", fmt.Sprintf("%d, in %d notifications", len(requests), len(expiredSamples)), len(requests) == expiredCount)
	s.expectZero("requests after the first 410", repeats)
	s.expectZero("not reported as unregistered", expiredSamples.Count(func(n *load.Sample) bool { return n.Status != "unregistered" }))
	atMost(&s.rowResult, "reported within", expiredSamples.LatencyQuantile(1), time.Second)
	s.expectZero("ejections", len(g.eventsSince(faultStart, "ejected", "")))
	s.expectDialBudget(g, m, mockprovider.APNs)
}
