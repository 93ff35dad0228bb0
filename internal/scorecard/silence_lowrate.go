// SPDX-License-Identifier: Apache-2.0

package main

import (
	"time"

	"github.com/sluice-push/sluice/internal/scorecard/load"
	"github.com/sluice-push/sluice/mockprovider"
)

// silentAtLowRate is S01b: five requests a second to each endpoint, and one of them falls silent; once it reads all the same, and
// once nothing reads, so that writes block. Both at once, on a gateway each: it is little load.
func silentAtLowRate(s *scenario) {
	stalled := s.startSilence("stalled", mockprovider.Fault{Stall: &mockprovider.Stall{}})
	blocked := s.startSilence("blocked", mockprovider.Fault{Blackhole: true})
	stalled.check()
	blocked.check()
}

// silentRun is one of the two silences.
type silentRun struct {
	*scenario
	name       string
	mock       *mockprovider.Mock
	gateway    *gateway
	run        *loadRun
	silentAddr string
	faultStart chan time.Time
}

func (s *scenario) startSilence(name string, silence mockprovider.Fault) *silentRun {
	const rate, calm, trouble = 5.0 * poolSize, 10 * time.Second, 20 * time.Second
	m := s.startMock(mockprovider.Config{Endpoints: poolSize + spareEndpoints})
	h := &silentRun{scenario: s, name: name, mock: m, gateway: s.startAPNsGateway(m, ""), silentAddr: m.APNsAddrs()[0].String(), faultStart: make(chan time.Time, 1)}
	h.run = s.offerRate(h.gateway, rate, calm+trouble, repeatableNotification)
	silence.Service, silence.Endpoint = mockprovider.APNs, h.silentAddr
	silence.From = time.Until(h.run.started.Add(calm))
	h.faultStart <- s.injectFaults(m, silence).Add(silence.From)
	return h
}

func (h *silentRun) check() {
	cut := <-h.faultStart
	e := collectEvidence(h.mock, h.run.wait(), cut)
	_, first := h.run.results.Between(cut, cut.Add(8*time.Second)).AttemptsOn(h.silentAddr)
	out := never
	if opened := h.gateway.eventsSince(cut, "ejected", h.silentAddr); len(opened) > 0 {
		out = opened[0].Time.Sub(cut)
	}
	late := e.after.Count(func(s *load.Sample) bool { return e.accepted[s.ID] == 0 || len(s.Attempts) > 2 })
	atMost(&h.rowResult, h.name+": first attempts at the silent endpoint", first, 13)
	atMost(&h.rowResult, "out of rotation after", out, 2500*time.Millisecond)
	h.expectZero("not delivered by attempt 2", late)
	h.expectZero("duplicates", e.duplicates())
	h.expectDialBudget(h.gateway, h.mock, mockprovider.APNs)
}
