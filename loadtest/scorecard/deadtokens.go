// SPDX-License-Identifier: Apache-2.0

package main

import (
	"fmt"
	"time"

	"github.com/sluice-push/sluice/loadtest"
	"github.com/sluice-push/sluice/mockprovider"
	"github.com/sluice-push/sluice/push"
)

// deadTokens is S19: from some moment on one notification in five is for a token that has expired. There are a thousand
// of them, so that each comes up again every two and a half seconds. The feedback is the receipt, which tells the sender to
// forget the token.
func deadTokens(s *stage) {
	const oneIn, dead = 5, 1000
	m := s.mock(mockprovider.Config{Endpoints: size, Streams: mockprovider.Streams{ShrinkOn4xx: true}})
	g := s.gateway(m, "")
	count, from := int(rate*(calm+trouble).Seconds()), int(rate*calm.Seconds())
	load := s.start(g, loadtest.Load{Rate: rate, Count: count, Compose: func(i int) *push.Notification {
		n := toDevice(i)
		if isDead := i >= from && i%oneIn == 0; isDead {
			n.Token = fmt.Sprintf("dead0001%056x", i/oneIn%dead)
		}
		return n
	}})
	got := load.wait()
	cut := got.Began.Add(calm)
	before := got.Between(got.Began.Add(warmUp), cut)
	var living, gone loadtest.Samples
	for i := from; i < count; i++ {
		if i%oneIn == 0 {
			gone = append(gone, got.Samples[i])
		} else {
			living = append(living, got.Samples[i])
		}
	}

	s.moved("p99 of the living", before.Latency(0.99), living.Latency(0.99), 0.1)
	s.none("of them not accepted", s.failed(living, m.Ledger().AcceptedByID()))
	requests := map[string]int{}
	for _, e := range m.Ledger().Entries(mockprovider.Query{Service: mockprovider.APNs, Token: "dead0001*"}) {
		requests[e.Token]++
	}
	again := 0
	for _, n := range requests {
		again += n - 1
	}
	s.must("dead tokens", fmt.Sprintf("%d, named %d times", len(requests), len(gone)), len(requests) == dead)
	s.none("sent to again", again)
	s.none("not told that it is dead", gone.Count(func(n *loadtest.Sample) bool { return n.Status != "unregistered" }))
	atMost(&s.card, "told within", gone.Latency(1), time.Second)
	s.none("ejections", len(g.since(cut, "ejected", "")))
	s.dials(g, m, mockprovider.APNs)
}
