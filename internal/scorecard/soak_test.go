// SPDX-License-Identifier: Apache-2.0

package scorecard

import (
	"cmp"
	"flag"
	"fmt"
	"math/rand/v2"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/sluice-push/sluice/mockprovider"
	"github.com/sluice-push/sluice/push"
)

var soakTime = flag.Duration("soak", 6*time.Minute, "`duration` of S25; 24h is a day of faults")

// soakPeriods returns how many faults S25 has, and the time for one with the recovery after it.
func soakPeriods() (count int, period time.Duration) {
	period = min(30*time.Second, *soakTime/6)
	return int(*soakTime / period), period
}

// soak is S25. In each period, a random fault affects synchronous and queued notifications for half of
// the time. Afterwards, the results are compared with the ledger, and the memory, goroutines and file
// descriptors of the gateway are counted. They must not grow.
func soak(s *scenario) {
	m := s.startMock(mockprovider.Config{Endpoints: poolSize})
	config := s.writeConfig(fmt.Sprintf("queue: {dir: %q}\nhistory: {max_age: 1h, max_bytes: 64MiB}\npool: {size: 8}", s.newTempDir()), app{shopApp, apnsBlock(m, s.writeMockFiles(m), "")})
	s.replaceInFile(config, "level: debug", "level: info")
	g := s.startFull(poolSize, config)
	t := &soakTotals{}
	periods, period := soakPeriods()
	var used []usage
	for i := range periods {
		s.soakPeriod(g, m, config, i, period, t)
		used = append(used, s.usage(g))
	}
	s.expect("periods", fmt.Sprint(periods), len(used) >= 6)
	s.expect("notifications", fmt.Sprint(t.sent), t.sent > 0)
	s.expectZero("lost", t.lost)
	s.expectZero("sent twice", t.repeated)
	s.expectZero("receipts that contradict the ledger", t.wrong)
	s.expectZero("device tokens and keys in the log and the metrics", t.leaked)
	s.note("%d ended as unknown or in doubt, %d were not accepted", t.unknown, t.failed)
	if len(used) < 6 {
		return
	}
	warm := used[len(used)/3:] // the first third fills pools, caches and buffers
	before, after := medianUsage(warm[:len(warm)/2]), medianUsage(warm[len(warm)/2:])
	atMost(&s.rowResult, "goroutines", after.goroutines, before.goroutines+5)
	atMost(&s.rowResult, "file descriptors", after.descriptors, before.descriptors+5)
	atMost(&s.rowResult, "memory, MiB", after.memory>>20, (before.memory+before.memory/10)>>20+8)
	s.note("at first %+v, at the end %+v", before, after)
	exitTime, clean := g.terminate()
	atMost(&s.rowResult, "exit after", exitTime, drainGrace)
	s.expect("clean exit", fmt.Sprint(clean), clean)
	lost, problem := s.runAudit(config)
	s.expectZero("lost according to the audit", lost)
	s.expect("audit", cmp.Or(problem, "clean"), problem == "")
}

// soakTotals are the results of all periods.
type soakTotals struct{ sent, lost, repeated, wrong, unknown, failed, leaked int }

// soakPeriod sends during a random fault, waits until everything has ended, and clears the ledger.
func (s *scenario) soakPeriod(g *gateway, m *mockprovider.Mock, config string, i int, period time.Duration, t *soakTotals) {
	const rate, queued = 200.0, 1000
	random := rand.New(rand.NewPCG(25, uint64(i)))
	run, start := s.offerRate(g, rate, period*2/3, apnsNotification), time.Now()
	s.sleep(period / 12)
	name, faults := randomFault(m, random)
	s.injectFaults(m, faults...)
	if random.IntN(4) == 0 { // a reload replaces all pools
		from, to := "size: 8", "size: 7"
		if !strings.Contains(string(s.readFile(config)), from) {
			from, to = to, from
		}
		s.replaceInFile(config, from, to)
	}
	p := &acknowledged{}
	accepted, err := s.enqueue(g, p, queued)
	if err != nil || accepted != queued {
		s.note("period %d, %s: %d queued: %v", i, name, accepted, err)
	}
	s.sleep(time.Until(start.Add(period / 2)))
	s.injectFaults(m)
	results := run.wait()
	c := s.awaitOutcomes(g, m, p, 3*time.Minute)
	t.sent, t.lost, t.repeated, t.unknown = t.sent+len(results.Samples)+accepted, t.lost+c.lost, t.repeated+c.forbiddenRepeats, t.unknown+c.inDoubt
	delivered := m.Ledger().AcceptedByID()
	for _, sample := range results.Samples {
		times := delivered[sample.ID]
		t.repeated += max(0, times-1)
		switch push.Status(sample.Status) {
		case push.StatusAccepted:
			if times == 0 {
				t.wrong++
			}
		case push.StatusUnknown:
			t.unknown++
		default:
			if t.failed++; times > 0 {
				t.wrong++
			}
		}
	}
	for _, text := range []string{g.Output(), g.adminText("/metrics")} {
		if strings.Contains(text, "5a000000") || strings.Contains(text, key) {
			t.leaked++
		}
	}
	m.Ledger().Clear()
}

// randomFault returns a fault and its name.
func randomFault(m *mockprovider.Mock, random *rand.Rand) (string, []mockprovider.Fault) {
	endpoints := m.APNsAddrs()
	one := endpoints[random.IntN(len(endpoints))].String()
	fault := func(name string, f mockprovider.Fault) (string, []mockprovider.Fault) {
		f.Service = mockprovider.APNs
		return name, []mockprovider.Fault{f}
	}
	switch random.IntN(9) {
	case 0:
		return fault("an endpoint does not respond", mockprovider.Fault{Endpoint: one, Stall: &mockprovider.Stall{}})
	case 1:
		return fault("an endpoint answers 500", mockprovider.Fault{Endpoint: one, Status: 500})
	case 2:
		return fault("an endpoint loses responses", mockprovider.Fault{Endpoint: one, DropResponse: true})
	case 3:
		return fault("503 for a tenth", mockprovider.Fault{Share: 0.1, Status: 503})
	case 4:
		return fault("an endpoint is slow", mockprovider.Fault{Endpoint: one, Delay: time.Second})
	case 5:
		return fault("an endpoint stops reading", mockprovider.Fault{Endpoint: one, Blackhole: true})
	case 6:
		return fault("GOAWAY", mockprovider.Fault{GoAway: &mockprovider.GoAway{Every: 200}, Delay: healthyResponse.Delay})
	case 7:
		return fault("429 for a tenth", mockprovider.Fault{Share: 0.1, Status: 429, RetryAfter: time.Second})
	default:
		return fault("streams are refused", mockprovider.Fault{Share: 0.1, RST: "REFUSED_STREAM"})
	}
}

// usage is what the gateway uses without load.
type usage struct{ goroutines, descriptors, memory int }

// usage returns what a gateway uses now. It needs Linux.
func (s *scenario) usage(g *gateway) (u usage) {
	u.goroutines = s.fewestGoroutines(g)
	descriptors, err := os.ReadDir(fmt.Sprintf("/proc/%d/fd", g.PID()))
	s.noError(err)
	u.descriptors = len(descriptors)
	for line := range strings.Lines(string(s.readFile(fmt.Sprintf("/proc/%d/status", g.PID())))) {
		if size, found := strings.CutPrefix(line, "VmRSS:"); found {
			_, err := fmt.Sscan(size, &u.memory)
			s.noError(err)
		}
	}
	u.memory <<= 10
	return u
}

// medianUsage returns the medians.
func medianUsage(all []usage) (median usage) {
	of := func(value func(usage) int) int {
		var values []int
		for _, u := range all {
			values = append(values, value(u))
		}
		slices.Sort(values)
		return values[len(values)/2]
	}
	return usage{of(func(u usage) int { return u.goroutines }), of(func(u usage) int { return u.descriptors }), of(func(u usage) int { return u.memory })}
}
