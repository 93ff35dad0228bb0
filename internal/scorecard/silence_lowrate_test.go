// SPDX-License-Identifier: Apache-2.0

package scorecard

import (
	"time"

	"github.com/sluice-push/sluice/internal/load"
	"github.com/sluice-push/sluice/mockprovider"
)

// silentAtLowRate is S01b. It sends five requests per second to each endpoint, and one endpoint
// stops responding: on one gateway while it still reads, on another without reading, so that writes
// block. Both run at the same time because the load is low.
func silentAtLowRate(s *scenario) {
	stalled := s.startSilence("stalled", mockprovider.Fault{Stall: &mockprovider.Stall{}})
	blocked := s.startSilence("blocked", mockprovider.Fault{Blackhole: true})
	stalled.check()
	blocked.check()
}

// silentRun is one of the two kinds of silence.
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
	const rate, before, during = 5.0 * poolSize, 10 * time.Second, 20 * time.Second
	m := s.startMock(mockprovider.Config{Endpoints: poolSize + spareEndpoints})
	r := &silentRun{scenario: s, name: name, mock: m, gateway: s.startAPNsGateway(m, ""), silentAddr: m.APNsAddrs()[0].String(), faultStart: make(chan time.Time, 1)}
	r.run = s.offerRate(r.gateway, rate, before+during, repeatableNotification)
	silence.Service, silence.Endpoint = mockprovider.APNs, r.silentAddr
	silence.From = time.Until(r.run.started.Add(before))
	r.faultStart <- s.injectFaults(m, silence).Add(silence.From)
	return r
}

func (r *silentRun) check() {
	faultStart := <-r.faultStart // bounded by the start of the run, which has sent it
	e := collectEvidence(r.mock, r.run.wait(), faultStart)
	_, first := r.run.results.Between(faultStart, faultStart.Add(8*time.Second)).AttemptsOn(r.silentAddr)
	ejectedAfter := never
	if ejections := r.gateway.eventsSince(faultStart, "ejected", r.silentAddr); len(ejections) > 0 {
		ejectedAfter = ejections[0].Time.Sub(faultStart)
	}
	late := e.after.Count(func(s *load.Sample) bool { return e.accepted[s.ID] == 0 || len(s.Attempts) > 2 })
	atMost(&r.rowResult, r.name+": first attempts at the silent endpoint", first, 13)
	atMost(&r.rowResult, "out of rotation after", ejectedAfter, 2500*time.Millisecond)
	r.expectZero("not delivered by attempt 2", late)
	r.expectZero("duplicates", e.duplicates())
	r.expectDialBudget(r.gateway, r.mock, mockprovider.APNs)
}
