// SPDX-License-Identifier: Apache-2.0

package main

import (
	"cmp"
	"context"
	"flag"
	"fmt"
	"math/rand/v2"
	"time"

	"github.com/sluice-push/sluice/mockprovider"
)

// seeds is how many gateways of S17 live through small crashes, besides the one with a hundred thousand.
var seeds = flag.Int("seeds", 5, "how many `times` S17 kills a gateway at moments drawn anew")

// killRecovery is S17: a gateway is killed at random moments, and started again on the same folder. First one with 100,000
// accepted, whose drain is measured before a kill and after it; then small ones, again and again.
func killRecovery(s *scenario) {
	ctx, stop := context.WithTimeout(context.WithoutCancel(s.ctx), 8*time.Minute+time.Duration(*seeds)*time.Minute)
	defer stop()
	s.ctx = ctx
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
}

// expectDelivery enters what became of promises after so many kills.
func (s *scenario) expectDelivery(c deliveryCounts, kills int) {
	s.expectZero("lost", c.lost)
	atMost(&s.rowResult, "duplicates", c.duplicates, kills*queueInFlight)
	s.expectZero("duplicates with on_unknown never", c.forbiddenRepeats)
	atMost(&s.rowResult, "in doubt", c.inDoubt, kills*queueInFlight)
}

// writeQueueConfig writes a configuration with a queue in a folder of its own.
func (s *scenario) writeQueueConfig(m *mockprovider.Mock) (config string) {
	return s.writeConfig(fmt.Sprintf("queue: {dir: %q}", s.newTempDir()), app{shopApp, apnsBlock(m, s.writeMockFiles(m), "")})
}

// mockWithDelay plays services that answer after so long, one in a hundred after four times that.
func mockWithDelay(delay time.Duration) mockprovider.Config {
	return mockprovider.Config{
		Endpoints: poolSize, Script: script(mockprovider.Fault{Service: mockprovider.APNs, Delay: delay, P99: 4 * delay}), LedgerSize: 1 << 20,
	}
}

// largeQueue has a hundred thousand accepted while the gateway dies three times at random, kills it once more amid the drain, and
// compares the drain before that and after it. The service is slow enough for most to wait still when all are accepted.
func (s *scenario) largeQueue(chance *rand.Rand) {
	const count, lot, kills = 100_000, 2_000, 3
	m := s.startMock(mockWithDelay(50 * time.Millisecond))
	config, p := s.writeQueueConfig(m), &acknowledged{}
	g := s.startAndServe(config)
	for death := range kills + 1 {
		for p.count() < (death+1)*count/(kills+1) {
			_, err := s.enqueue(g, p, lot)
			s.noError(err)
		}
		if death < kills {
			s.killWhileEnqueuing(g, p, lot, time.Duration(chance.Int64N(int64(300*time.Millisecond))))
			g = s.startAndServe(config)
		}
	}
	before := s.drainRate(m, p)
	left := p.count() - len(m.Ledger().AcceptedByID())
	g.kill()
	from := m.Ledger().Summary().Services[mockprovider.APNs].Requests
	g = s.startProcess(config)
	s.eventually("it sends again", time.Minute, func() bool { return m.Ledger().Summary().Services[mockprovider.APNs].Requests > from })
	first := time.Since(g.startedAt)
	s.eventually("it serves", time.Minute, func() bool { return g.baseURL() != "" })
	s.sleep(time.Second)
	after := s.drainRate(m, p)
	s.note("%d waited when it was killed amid the drain; it sent %.0f a second before and %.0f after", left, before, after)
	c := s.awaitOutcomes(g, m, p, 2*time.Minute)
	s.expect("accepted", fmt.Sprint(p.count()), p.count() >= count)
	s.expect("waiting at the last kill", fmt.Sprint(left), left > 0)
	s.expectDelivery(c, kills+1)
	atMost(&s.rowResult, "first request after the restart", first, time.Second)
	atLeast(&s.rowResult, "drain rate, relative to before", fraction(after/max(before, 1)), 0.8)
	g.stop()
	complaint := s.runAudit(config)
	s.expect("audit", cmp.Or(complaint, "clean"), complaint == "")
}

// killWhileEnqueuing kills g after a while, and has it accept until then.
func (s *scenario) killWhileEnqueuing(g *gateway, p *acknowledged, lot int, after time.Duration) {
	death := time.AfterFunc(after, func() { _ = g.cmd.Process.Kill() })
	defer death.Stop()
	for !g.exited() {
		_, _ = s.enqueue(g, p, lot) // the receipts that came count
	}
}

// drainRate is how many arrive in a second, over four seconds or until a quarter of what waits has arrived.
func (s *scenario) drainRate(m *mockprovider.Mock, p *acknowledged) float64 {
	arrived := func() int { return len(m.Ledger().AcceptedByID()) }
	from, began := arrived(), time.Now()
	enough := from + (p.count()-from)/4
	for time.Since(began) < 4*time.Second && arrived() < enough {
		s.sleep(100 * time.Millisecond)
	}
	return float64(arrived()-from) / time.Since(began).Seconds()
}

const killsPerSeed = 3

// smallQueue kills a gateway with a few thousand accepted at random moments of its first two seconds.
func (s *scenario) smallQueue(chance *rand.Rand) (c deliveryCounts, accepted int) {
	keep := len(s.cleanups)
	defer func() { // this one's services and folders go before the next one's come
		for len(s.cleanups) > keep {
			last := len(s.cleanups) - 1
			s.cleanups[last]()
			s.cleanups = s.cleanups[:last]
		}
	}()
	m := s.startMock(mockWithDelay(5 * time.Millisecond))
	config, p := s.writeQueueConfig(m), &acknowledged{}
	for range killsPerSeed {
		g := s.startProcess(config)
		death := time.AfterFunc(200*time.Millisecond+time.Duration(chance.Int64N(int64(1800*time.Millisecond))), func() { _ = g.cmd.Process.Kill() })
		for !g.exited() {
			if g.baseURL() == "" || p.count() > 20_000 {
				s.sleep(time.Millisecond)
				continue
			}
			_, _ = s.enqueue(g, p, 1+chance.IntN(200)) // what it says of the rest does not count
		}
		death.Stop()
	}
	g := s.startAndServe(config)
	c = s.awaitOutcomes(g, m, p, time.Minute)
	g.stop()
	if complaint := s.runAudit(config); complaint != "" {
		s.note("audit: %s", complaint)
		c.lost++
	}
	return c, p.count()
}
