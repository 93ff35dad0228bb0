// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bytes"
	"fmt"
	"net/http"
	"os"
	"sync"
	"time"

	"github.com/sluice-push/sluice/internal/scorecard/load"
	"github.com/sluice-push/sluice/mockprovider"
	"github.com/sluice-push/sluice/push"
)

// overload is S22: three times as much is offered as the service's endpoints bear, one in ten of it critical; and then one
// of two apps that share a credential offers ten times what it did, more than the endpoints bear, and the other does not.
// Every answer takes 150 ms, and an endpoint bears twelve at a time. The load are single calls, for the items of a batch
// wait for room where a call is shed.
func overload(s *scenario) {
	const work, each = 150 * time.Millisecond, 12
	m := s.startMock(mockprovider.Config{Endpoints: poolSize, Script: script(mockprovider.Fault{Delay: work})})
	block := apnsBlock(m, s.writeMockFiles(m), fmt.Sprintf(", pool: {in_flight: %d}", each))
	g := s.startGateway("", app{shopApp, block}, app{noisyApp, block})
	capacity := s.measureCapacity(g, 2*poolSize*each)
	s.note("capacity %.0f a second, of %.0f that the answers' time allows", capacity, poolSize*each/work.Seconds())
	s.checkOverload(g, m, capacity)
	s.sleep(3 * time.Second)
	s.checkNoisyNeighbour(g, capacity)
	atMost(&s.rowResult, "memory, MiB", g.maxMemory()>>20, 256)
	s.expectDialBudget(g, m, mockprovider.APNs)
}

const noisyApp = "noisy" // the other app

// measureCapacity is how many notifications a second the gateway delivers when there are always more waiting.
func (s *scenario) measureCapacity(g *gateway, window int) float64 {
	const count = 4000
	s.startLoad(g, load.Generator{Count: count / 4, Window: window, NewNotification: apnsNotification}).wait() // the process warms up
	got := s.startLoad(g, load.Generator{Count: count, Window: window, NewNotification: apnsNotification}).wait()
	var end time.Duration
	for _, sample := range got.Samples {
		end = max(end, sample.Due+sample.Latency)
	}
	return float64(count-got.Samples.Count(notAccepted)) / end.Seconds()
}

// checkOverload offers half of the capacity, then three times the capacity, and half again.
func (s *scenario) checkOverload(g *gateway, m *mockprovider.Mock, capacity float64) {
	const calm, during, after = 10 * time.Second, 20 * time.Second, 6 * time.Second
	critical := withLane(push.LaneCritical, apnsNotification)
	usual := s.startCalls(g, shopApp, 0.45*capacity, calm+during+after, apnsNotification)
	few := s.startCalls(g, shopApp, 0.05*capacity, calm, critical).wait()
	from := time.Now()
	excess, many := s.startCalls(g, shopApp, 2.25*capacity, during, apnsNotification), s.startCalls(g, shopApp, 0.3*capacity, during, critical)
	until := from.Add(during)
	first, flooded, whole := many.wait(), excess.wait(), usual.wait()

	accepted := requestTimes(m, mockprovider.APNs).accepted
	atLeast(&s.rowResult, "goodput, relative to the capacity", accepted.rateFraction(from.Add(time.Second), until, capacity), 0.95)
	atLeast(&s.rowResult, "critical delivered", fractionOf(len(first.Samples)-s.countNotAccepted(first.Samples), len(first.Samples)), 0.999)
	before := few.Between(few.Started.Add(warmUp), from)
	atMost(&s.rowResult, "critical p99", first.Samples.LatencyQuantile(0.99), 2*before.LatencyQuantile(0.99))
	shed := append(rejectedOf(flooded.Samples), rejectedOf(whole.Between(from, until))...)
	s.expect("shed", fmt.Sprint(len(shed)), len(shed) > 0)
	atMost(&s.rowResult, "rejected within, p99", shed.LatencyQuantile(0.99), 10*time.Millisecond)
	s.note("of the shed, half were told within %s, and all within %s", format(shed.LatencyQuantile(0.5)), format(shed.LatencyQuantile(1)))
	s.expectZero("rejected without 429 or 503 and Retry-After", usual.invalidRejections()+excess.invalidRejections()+many.invalidRejections())
	atMost(&s.rowResult, "recovered after", recoveryTime(whole, until, whole.Started.Add(calm+during+after), 0.999), 2*time.Second)
}

func rejectedOf(samples load.Samples) (shed load.Samples) {
	for i := range samples {
		if notAccepted(&samples[i]) {
			shed = append(shed, samples[i])
		}
	}
	return shed
}

// checkNoisyNeighbour is two apps with one credential, of which one becomes noisy.
func (s *scenario) checkNoisyNeighbour(g *gateway, capacity float64) {
	const calm, during = 12 * time.Second, 12 * time.Second
	quiet := s.startCalls(g, shopApp, 0.15*capacity, calm+during, apnsNotification)
	s.startCalls(g, noisyApp, 0.15*capacity, calm, apnsNotification).wait()
	from := time.Now()
	loud := s.startCalls(g, noisyApp, 1.5*capacity, during, apnsNotification).wait()
	got := quiet.wait()
	s.expect("an app at ten times its load: shed", fmt.Sprint(len(rejectedOf(loud.Samples))), len(rejectedOf(loud.Samples)) > 0)
	before, beside := got.Between(got.Started.Add(warmUp), from), got.Between(from, from.Add(during))
	s.expectMaxChange("p99 of the other app", before.LatencyQuantile(0.99), beside.LatencyQuantile(0.99), 0.1)
	s.expectZero("not accepted for the other app", s.countNotAccepted(got.Samples))
}

// calls are single calls, each at its time whatever becomes of the others.
type calls struct {
	*loadRun
	verdicts []response
}

// startCalls begins to make so many a second.
func (s *scenario) startCalls(g *gateway, app string, rate float64, during time.Duration, compose func(int) *push.Notification) *calls {
	count := int(rate * during.Seconds())
	c := &calls{loadRun: &loadRun{scenario: s, started: time.Now(), done: make(chan struct{})}, verdicts: make([]response, count)}
	c.results = load.Results{Started: c.started, Samples: make(load.Samples, count)}
	go func() {
		defer close(c.done)
		var all sync.WaitGroup
		defer all.Wait()
		for i := range count {
			due := time.Duration(float64(i) / rate * float64(time.Second))
			time.Sleep(time.Until(c.started.Add(due)))
			all.Go(func() { c.callOnce(g, app, i, due, compose(i)) })
		}
	}()
	s.Cleanup(func() { <-c.done })
	return c
}

func (c *calls) callOnce(g *gateway, app string, i int, due time.Duration, n *push.Notification) {
	v, err := g.sendOne(app, n)
	sample := load.Sample{Due: due, Latency: time.Since(c.started) - due, Status: "accepted"}
	if err != nil || v.code != http.StatusOK {
		sample.Status, sample.Reason = fmt.Sprint(v.code), v.problem.Receipt.Reason
	}
	c.results.Samples[i], c.verdicts[i] = sample, v
}

// invalidRejections counts the answers that neither accept nor say when to come back.
func (c *calls) invalidRejections() (n int) {
	for _, v := range c.verdicts {
		shed := v.code == http.StatusTooManyRequests || v.code == http.StatusServiceUnavailable
		if v.code != http.StatusOK && (!shed || v.retryAfter == "") {
			n++
		}
	}
	return n
}

// maxMemory is the most that the gateway's process had in memory at any time, in bytes. It needs Linux.
func (g *gateway) maxMemory() int {
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", g.cmd.Process.Pid))
	g.scenario.noError(err)
	var kib int
	if _, after, ok := bytes.Cut(text, []byte("VmHWM:")); ok {
		_, err = fmt.Sscan(string(after), &kib)
		g.scenario.noError(err)
	}
	return kib << 10
}
