// SPDX-License-Identifier: Apache-2.0

package scorecard

import (
	"cmp"
	"flag"
	"fmt"
	"math/rand/v2"
	"os"
	"time"

	"github.com/sluice-push/sluice/mockprovider"
)

var (
	seeds = flag.Int("seeds", 5, "`number` of small queues in S17, in addition to the large one")
	kills = flag.Int("kills", 5, "`number` of kills during calls with keys in S17")
)

// killRecoveryTime returns how much longer S17 may take for its queues and kills.
func killRecoveryTime() time.Duration { return time.Duration(*seeds+*kills) * time.Minute }

// killRecovery is S17. It kills gateways at random moments and restarts them with the same
// directory: first a gateway with 100,000 queued notifications, where it compares the drain rate
// before and after a kill, then small ones repeatedly, then one whose callers repeat their calls.
func killRecovery(s *scenario) {
	s.largeQueue(rand.New(rand.NewPCG(17, 0)))
	var all deliveryCounts
	total := 0
	for seed := range *seeds {
		c, accepted := s.smallQueue(rand.New(rand.NewPCG(17, uint64(seed+1))))
		all.lost, all.inDoubt, all.duplicates, all.forbiddenRepeats = all.lost+c.lost, all.inDoubt+c.inDoubt, all.duplicates+c.duplicates, all.forbiddenRepeats+c.forbiddenRepeats
		total += accepted
		if c.lost > 0 {
			s.note("seed %d lost %d", seed+1, c.lost)
		}
	}
	s.expect(fmt.Sprintf("%d small queues: accepted", *seeds), fmt.Sprint(total), true)
	s.expectDelivery(all, *seeds*killsPerSeed)
	s.keyedCalls(rand.New(rand.NewPCG(17, 1<<32)), *kills)
}

// expectDelivery records the delivery of acknowledged notifications after the given number of
// kills.
func (s *scenario) expectDelivery(c deliveryCounts, kills int) {
	s.expectZero("lost", c.lost)
	atMost(&s.rowResult, "duplicates", c.duplicates, kills*queueInFlight)
	s.expectZero("duplicates with on_unknown never", c.forbiddenRepeats)
	atMost(&s.rowResult, "in doubt", c.inDoubt, kills*queueInFlight)
}

// writeQueueConfig writes a configuration with a queue in a new directory.
func (s *scenario) writeQueueConfig(m *mockprovider.Mock) (config string) {
	// Without a large reserve: the directories of all queues exist until the end of the row.
	return s.writeConfig(fmt.Sprintf("queue: {dir: %q, reserve: 1MiB}", s.newTempDir()), app{shopApp, apnsBlock(m, s.writeMockFiles(m), "")})
}

// mockWithDelay configures services with this median response time and four times that as 99th
// percentile.
func mockWithDelay(delay time.Duration) mockprovider.Config {
	return mockprovider.Config{
		Endpoints: poolSize, Script: script(mockprovider.Fault{Service: mockprovider.APNs, Delay: delay, P99: 4 * delay}), LedgerSize: 1 << 20,
	}
}

// largeQueue queues a hundred thousand notifications while it kills the gateway three times at
// random. It kills the gateway again during the drain and compares the drain rate before and after.
// The service is slow enough that most notifications are still waiting when all are queued.
func (s *scenario) largeQueue(rng *rand.Rand) {
	const count, batch, kills = 100_000, 2_000, 3
	m := s.startMock(mockWithDelay(50 * time.Millisecond))
	config, p := s.writeQueueConfig(m), &acknowledged{}
	g := s.startAndServe(config)
	for kill := range kills + 1 {
		for p.count() < (kill+1)*count/(kills+1) {
			_, err := s.enqueue(g, p, batch)
			s.noError(err)
		}
		if kill < kills {
			s.killWhileEnqueuing(g, p, batch, time.Duration(rng.Int64N(int64(300*time.Millisecond))))
			g = s.startAndServe(config)
		}
	}
	before := s.drainRate(m, p)
	waiting := p.count() - len(m.Ledger().AcceptedByID())
	g.Kill()
	requestsBefore := m.Ledger().Summary().Services[mockprovider.APNs].Requests
	g = s.startProcess(config)
	s.eventually("waiting for the first request after the restart", time.Minute, func() bool { return m.Ledger().Summary().Services[mockprovider.APNs].Requests > requestsBefore })
	firstRequest := time.Since(g.startedAt)
	s.eventually("waiting for the gateway to serve", time.Minute, func() bool { return g.baseURL() != "" })
	s.sleep(time.Second)
	after := s.drainRate(m, p)
	s.note("%d were waiting at the kill during the drain; drain rate %.0f/s before and %.0f/s after", waiting, before, after)
	c := s.awaitOutcomes(g, m, p, 2*time.Minute)
	s.expect("accepted", fmt.Sprint(p.count()), p.count() >= count)
	s.expect("waiting at the last kill", fmt.Sprint(waiting), waiting > 0)
	s.expectDelivery(c, kills+1)
	atMost(&s.rowResult, "first request after the restart", firstRequest, time.Second)
	atLeast(&s.rowResult, "drain rate, relative to before", fraction(after/max(before, 1)), 0.8)
	g.stop()
	_, problem := s.runAudit(config)
	s.expect("audit", cmp.Or(problem, "clean"), problem == "")
}

// killWhileEnqueuing enqueues notifications and kills g after the given time.
func (s *scenario) killWhileEnqueuing(g *gateway, p *acknowledged, batch int, after time.Duration) {
	killTimer := time.AfterFunc(after, func() { _ = g.Signal(os.Kill) })
	defer killTimer.Stop()
	for !g.Exited() {
		_, _ = s.enqueue(g, p, batch) // an error is expected; the receipts that arrived are recorded
	}
}

// drainRate returns the number of notifications delivered per second, measured over four seconds or
// until a quarter of the waiting ones is delivered.
func (s *scenario) drainRate(m *mockprovider.Mock, p *acknowledged) float64 {
	delivered := func() int { return len(m.Ledger().AcceptedByID()) }
	deliveredBefore, start := delivered(), time.Now()
	target := deliveredBefore + (p.count()-deliveredBefore)/4
	for time.Since(start) < 4*time.Second && delivered() < target {
		s.sleep(100 * time.Millisecond)
	}
	return float64(delivered()-deliveredBefore) / time.Since(start).Seconds()
}

const killsPerSeed = 3

// smallQueue kills a gateway with a few thousand queued notifications at random moments in its
// first two seconds.
func (s *scenario) smallQueue(rng *rand.Rand) (c deliveryCounts, accepted int) {
	cleanups := len(s.cleanups)
	defer func() { // stop the services and remove the directories before the next seed
		for len(s.cleanups) > cleanups {
			last := len(s.cleanups) - 1
			s.cleanups[last]()
			s.cleanups = s.cleanups[:last]
		}
	}()
	m := s.startMock(mockWithDelay(5 * time.Millisecond))
	config, p := s.writeQueueConfig(m), &acknowledged{}
	for range killsPerSeed {
		g := s.startProcess(config)
		killTimer := time.AfterFunc(200*time.Millisecond+time.Duration(rng.Int64N(int64(1800*time.Millisecond))), func() { _ = g.Signal(os.Kill) })
		for !g.Exited() {
			if g.baseURL() == "" || p.count() > 20_000 {
				s.sleep(time.Millisecond)
				continue
			}
			_, _ = s.enqueue(g, p, 1+rng.IntN(200)) // an error is expected when the gateway is killed
		}
		killTimer.Stop()
	}
	g := s.startAndServe(config)
	c = s.awaitOutcomes(g, m, p, time.Minute)
	g.stop()
	if _, problem := s.runAudit(config); problem != "" {
		s.note("audit: %s", problem)
		c.lost++
	}
	return c, p.count()
}
