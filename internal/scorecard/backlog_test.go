// SPDX-License-Identifier: Apache-2.0

package scorecard

import (
	"time"

	"github.com/sluice-push/sluice/mockprovider"
)

// backlogOfOutage is S33. The provider answers only 503 while notifications are accepted for later.
func backlogOfOutage(s *scenario) {
	const count, outage = 200_000, 45 * time.Second
	cfg := mockWithDelay(5 * time.Millisecond)
	healthy := cfg.Script.Faults[0]
	m := s.startMock(cfg)
	config, p := s.writeQueueConfig(m), &acknowledged{}
	s.replaceInFile(config, "level: debug", "level: info")
	g := s.startFull(poolSize, config)
	enqueue := func() {
		_, err := s.enqueue(g, p, 2_000)
		s.noError(err)
	}
	enqueue()
	s.eventually("waiting for the first notifications", time.Minute, func() bool { return len(m.Ledger().AcceptedByID()) == p.count() })

	failing := healthy
	failing.Status = 503
	faultStart := s.playFaults(m, failing)
	for p.count() < count {
		enqueue()
	}
	s.note("%d queued within %s of the outage", count, format(time.Since(faultStart)))
	s.sleep(max(0, time.Until(faultStart.Add(outage))))
	faultEnd := s.playFaults(m, healthy)
	c := s.awaitOutcomes(g, m, p, 2*time.Minute)

	accepted, refused := requestTimes(m, mockprovider.APNs).accepted, requestTimes(m, mockprovider.APNs).refused
	after := accepted.between(faultEnd, time.Now())
	if len(after) == 0 {
		s.Fatalf("nothing was delivered after the outage")
	}
	atMost(&s.rowResult, "requests per notification during the outage", float64(len(refused))/count, 0.02)
	atMost(&s.rowResult, "delivered again after", after[0].Sub(faultEnd), 6*time.Second)
	atMost(&s.rowResult, "all delivered after", after[len(after)-1].Sub(faultEnd), 30*time.Second)
	s.expectZero("lost", c.lost)
	s.expectZero("sent twice", c.duplicates)
	s.expectZero("in doubt", c.inDoubt)
	atMost(&s.rowResult, "memory, MiB", g.maxMemory()>>20, 180)
}
