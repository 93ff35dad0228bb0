// SPDX-License-Identifier: Apache-2.0

package main

import (
	"fmt"
	"time"

	"github.com/sluice-push/sluice/internal/scorecard/load"
	"github.com/sluice-push/sluice/mockprovider"
	"github.com/sluice-push/sluice/push"
)

// expiredTokens is S19: from some moment on one notification in five is for a token that has expired. There are a thousand
// of them, so that each comes up again every two and a half seconds. The feedback is the receipt, which tells the sender to
// forget the token.
func expiredTokens(s *scenario) {
	const oneIn, dead = 5, 1000
	m := s.startMock(mockprovider.Config{Endpoints: poolSize, Streams: mockprovider.Streams{ShrinkOn4xx: true}})
	g := s.startAPNsGateway(m, "")
	count, from := int(loadRate*(beforeFault+faultDuration).Seconds()), int(loadRate*beforeFault.Seconds())
	run := s.startLoad(g, load.Generator{Rate: loadRate, Count: count, NewNotification: func(i int) *push.Notification {
		n := apnsNotification(i)
		if isDead := i >= from && i%oneIn == 0; isDead {
			n.Token = fmt.Sprintf("dead0001%056x", i/oneIn%dead)
		}
		return n
	}})
	got := run.wait()
	cut := got.Started.Add(beforeFault)
	before := got.Between(got.Started.Add(warmUp), cut)
	var living, gone load.Samples
	for i := from; i < count; i++ {
		if i%oneIn == 0 {
			gone = append(gone, got.Samples[i])
		} else {
			living = append(living, got.Samples[i])
		}
	}

	s.expectMaxChange("p99 of valid tokens", before.LatencyQuantile(0.99), living.LatencyQuantile(0.99), 0.1)
	s.expectZero("not accepted for valid tokens", s.countFailed(living, m.Ledger().AcceptedByID()))
	requests := map[string]int{}
	for _, e := range m.Ledger().Entries(mockprovider.Query{Service: mockprovider.APNs, Token: "dead0001*"}) {
		requests[e.Token]++
	}
	again := 0
	for _, n := range requests {
		again += n - 1
	}
	s.expect("expired tokens", fmt.Sprintf("%d, in %d notifications", len(requests), len(gone)), len(requests) == dead)
	s.expectZero("requests after the first 410", again)
	s.expectZero("not reported as unregistered", gone.Count(func(n *load.Sample) bool { return n.Status != "unregistered" }))
	atMost(&s.rowResult, "reported within", gone.LatencyQuantile(1), time.Second)
	s.expectZero("ejections", len(g.eventsSince(cut, "ejected", "")))
	s.expectDialBudget(g, m, mockprovider.APNs)
}
