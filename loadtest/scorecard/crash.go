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

// killed is S17: a gateway is killed at random moments, and started again on the same folder. First one with 100,000
// accepted, whose drain is measured before a kill and after it; then small ones, again and again.
func killed(s *stage) {
	ctx, stop := context.WithTimeout(context.WithoutCancel(s.ctx), 8*time.Minute+time.Duration(*seeds)*time.Minute)
	defer stop()
	s.ctx = ctx
	s.great(rand.New(rand.NewPCG(17, 0)))
	var all came
	total := 0
	for seed := range *seeds {
		c, accepted := s.small(rand.New(rand.NewPCG(17, uint64(seed+1))))
		all.lost, all.doubt, all.twice, all.broken = all.lost+c.lost, all.doubt+c.doubt, all.twice+c.twice, all.broken+c.broken
		total += accepted
		if c.lost > 0 {
			s.note("seed %d lost %d", seed+1, c.lost)
		}
	}
	s.must(fmt.Sprintf("%d small ones: accepted", *seeds), fmt.Sprint(total), true)
	s.tell(all, *seeds*smallKills)
}

// tell enters what became of promises after so many kills.
func (s *stage) tell(c came, kills int) {
	s.none("lost", c.lost)
	atMost(&s.card, "duplicates", c.twice, kills*inFlight)
	s.none("of those that must not be repeated", c.broken)
	atMost(&s.card, "in doubt", c.doubt, kills*inFlight)
}

// queued writes a configuration with a queue in a folder of its own.
func (s *stage) queued(m *mockprovider.Mock) (config string) {
	return s.configuration(fmt.Sprintf("queue: {dir: %q}", s.folder()), app{shop, apnsTo(m, s.files(m), "")})
}

// answering plays services that answer after so long, one in a hundred after four times that.
func answering(delay time.Duration) mockprovider.Config {
	return mockprovider.Config{
		Endpoints: size, Script: script(mockprovider.Fault{Service: mockprovider.APNs, Delay: delay, P99: 4 * delay}), LedgerSize: 1 << 20,
	}
}

// great has a hundred thousand accepted while the gateway dies three times at random, kills it once more amid the drain, and
// compares the drain before that and after it. The service is slow enough for most to wait still when all are accepted.
func (s *stage) great(chance *rand.Rand) {
	const count, lot, kills = 100_000, 2_000, 3
	m := s.mock(answering(50 * time.Millisecond))
	config, p := s.queued(m), &promises{}
	g := s.up(config)
	for death := range kills + 1 {
		for p.count() < (death+1)*count/(kills+1) {
			_, err := s.promise(g, p, lot)
			s.need(err)
		}
		if death < kills {
			s.dieWhileAccepting(g, p, lot, time.Duration(chance.Int64N(int64(300*time.Millisecond))))
			g = s.up(config)
		}
	}
	before := s.pace(m, p)
	left := p.count() - len(m.Ledger().AcceptedByID())
	g.kill()
	from := m.Ledger().Summary().Services[mockprovider.APNs].Requests
	g = s.launch(config)
	s.eventually("it sends again", time.Minute, func() bool { return m.Ledger().Summary().Services[mockprovider.APNs].Requests > from })
	first := time.Since(g.born)
	s.eventually("it serves", time.Minute, func() bool { return g.address() != "" })
	s.sleep(time.Second)
	after := s.pace(m, p)
	s.note("%d waited when it was killed amid the drain; it sent %.0f a second before and %.0f after", left, before, after)
	c := s.settle(g, m, p, 2*time.Minute)
	s.must("accepted", fmt.Sprint(p.count()), p.count() >= count)
	s.must("waiting at the last kill", fmt.Sprint(left), left > 0)
	s.tell(c, kills+1)
	atMost(&s.card, "replay begins after start", first, time.Second)
	atLeast(&s.card, "drain, of the rate before", share(after/max(before, 1)), 0.8)
	g.stop()
	complaint := s.audit(config)
	s.must("audit", cmp.Or(complaint, "clean"), complaint == "")
}

// dieWhileAccepting kills g after a while, and has it accept until then.
func (s *stage) dieWhileAccepting(g *gateway, p *promises, lot int, after time.Duration) {
	death := time.AfterFunc(after, func() { _ = g.cmd.Process.Kill() })
	defer death.Stop()
	for !g.over() {
		_, _ = s.promise(g, p, lot) // the receipts that came count
	}
}

// pace is how many arrive in a second, over four seconds or until a quarter of what waits has arrived.
func (s *stage) pace(m *mockprovider.Mock, p *promises) float64 {
	arrived := func() int { return len(m.Ledger().AcceptedByID()) }
	from, began := arrived(), time.Now()
	enough := from + (p.count()-from)/4
	for time.Since(began) < 4*time.Second && arrived() < enough {
		s.sleep(100 * time.Millisecond)
	}
	return float64(arrived()-from) / time.Since(began).Seconds()
}

const smallKills = 3

// small kills a gateway with a few thousand accepted at random moments of its first two seconds.
func (s *stage) small(chance *rand.Rand) (c came, accepted int) {
	keep := len(s.cleanups)
	defer func() { // this one's services and folders go before the next one's come
		for len(s.cleanups) > keep {
			last := len(s.cleanups) - 1
			s.cleanups[last]()
			s.cleanups = s.cleanups[:last]
		}
	}()
	m := s.mock(answering(5 * time.Millisecond))
	config, p := s.queued(m), &promises{}
	for range smallKills {
		g := s.launch(config)
		death := time.AfterFunc(200*time.Millisecond+time.Duration(chance.Int64N(int64(1800*time.Millisecond))), func() { _ = g.cmd.Process.Kill() })
		for !g.over() {
			if g.address() == "" || p.count() > 20_000 {
				s.sleep(time.Millisecond)
				continue
			}
			_, _ = s.promise(g, p, 1+chance.IntN(200)) // what it says of the rest does not count
		}
		death.Stop()
	}
	g := s.up(config)
	c = s.settle(g, m, p, time.Minute)
	g.stop()
	if complaint := s.audit(config); complaint != "" {
		s.note("audit: %s", complaint)
		c.lost++
	}
	return c, p.count()
}
