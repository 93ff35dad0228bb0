// SPDX-License-Identifier: Apache-2.0

package main

import (
	"time"

	"github.com/sluice-push/sluice/loadtest"
	"github.com/sluice-push/sluice/mockprovider"
)

// quiet is S01b: five requests a second to each endpoint, and one of them falls silent; once it reads all the same, and
// once nothing reads, so that writes block. Both at once, on a gateway each: it is little load.
func quiet(s *stage) {
	stalled := s.hush("stalled", mockprovider.Fault{Stall: &mockprovider.Stall{}})
	blocked := s.hush("blocked", mockprovider.Fault{Blackhole: true})
	stalled.judge()
	blocked.judge()
}

// hush is one of the two silences.
type hush struct {
	*stage
	name string
	m    *mockprovider.Mock
	g    *gateway
	load *load
	hole string
	cut  chan time.Time
}

func (s *stage) hush(name string, silence mockprovider.Fault) *hush {
	const rate, calm, trouble = 5.0 * size, 10 * time.Second, 20 * time.Second
	m := s.mock(mockprovider.Config{Endpoints: size + spares})
	h := &hush{stage: s, name: name, m: m, g: s.gateway(m, ""), hole: m.APNsAddrs()[0].String(), cut: make(chan time.Time, 1)}
	h.load = s.offer(h.g, rate, calm+trouble, repeated)
	silence.Service, silence.Endpoint = mockprovider.APNs, h.hole
	silence.From = time.Until(h.load.began.Add(calm))
	h.cut <- s.begin(m, silence).Add(silence.From)
	return h
}

func (h *hush) judge() {
	cut := <-h.cut
	e := gather(h.m, h.load.wait(), cut)
	_, first := h.load.got.Between(cut, cut.Add(8*time.Second)).Visited(h.hole)
	out := never
	if opened := h.g.since(cut, "ejected", h.hole); len(opened) > 0 {
		out = opened[0].Time.Sub(cut)
	}
	late := e.after.Count(func(s *loadtest.Sample) bool { return e.accepted[s.ID] == 0 || len(s.Attempts) > 2 })
	atMost(&h.card, h.name+": first attempts into the hole", first, 13)
	atMost(&h.card, "out", out, 2500*time.Millisecond)
	h.none("not by attempt 2", late)
	h.none("duplicates", e.duplicates())
	h.dials(h.g, h.m, mockprovider.APNs)
}
