// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bytes"
	"fmt"
	"net/http"
	"os"
	"sync"
	"time"

	"github.com/sluice-push/sluice/loadtest"
	"github.com/sluice-push/sluice/mockprovider"
	"github.com/sluice-push/sluice/push"
)

// overload is S22: three times as much is offered as the service's endpoints bear, one in ten of it critical; and then one
// of two apps that share a credential offers ten times what it did, more than the endpoints bear, and the other does not.
// Every answer takes 150 ms, and an endpoint bears twelve at a time. The load are single calls, for the items of a batch
// wait for room where a call is shed.
func overload(s *stage) {
	const work, each = 150 * time.Millisecond, 12
	m := s.mock(mockprovider.Config{Endpoints: size, Script: script(mockprovider.Fault{Delay: work})})
	block := apnsTo(m, s.files(m), fmt.Sprintf(", pool: {in_flight: %d}", each))
	g := s.serve("", app{shop, block}, app{noisy, block})
	capacity := s.capacity(g, 2*size*each)
	s.note("capacity %.0f a second, of %.0f that the answers' time allows", capacity, size*each/work.Seconds())
	s.flood(g, m, capacity)
	s.sleep(3 * time.Second)
	s.neighbours(g, capacity)
	atMost(&s.card, "memory, MiB", g.mostMemory()>>20, 256)
	s.dials(g, m, mockprovider.APNs)
}

const noisy = "noisy" // the other app

// capacity is how many notifications a second the gateway delivers when there are always more waiting.
func (s *stage) capacity(g *gateway, window int) float64 {
	const count = 4000
	s.start(g, loadtest.Load{Count: count / 4, Window: window, Compose: toDevice}).wait() // the process warms up
	got := s.start(g, loadtest.Load{Count: count, Window: window, Compose: toDevice}).wait()
	var end time.Duration
	for _, sample := range got.Samples {
		end = max(end, sample.Due+sample.Latency)
	}
	return float64(count-got.Samples.Count(notAccepted)) / end.Seconds()
}

// flood offers half of the capacity, then three times the capacity, and half again.
func (s *stage) flood(g *gateway, m *mockprovider.Mock, capacity float64) {
	const calm, during, after = 10 * time.Second, 20 * time.Second, 6 * time.Second
	critical := in(push.LaneCritical, toDevice)
	usual := s.call(g, shop, 0.45*capacity, calm+during+after, toDevice)
	few := s.call(g, shop, 0.05*capacity, calm, critical).wait()
	from := time.Now()
	excess, many := s.call(g, shop, 2.25*capacity, during, toDevice), s.call(g, shop, 0.3*capacity, during, critical)
	until := from.Add(during)
	first, flooded, whole := many.wait(), excess.wait(), usual.wait()

	accepted := requestsOf(m, mockprovider.APNs).accepted
	atLeast(&s.card, "goodput, of the capacity", accepted.rate(from.Add(time.Second), until, capacity), 0.95)
	atLeast(&s.card, "critical delivered", shareOf(len(first.Samples)-s.unaccepted(first.Samples), len(first.Samples)), 0.999)
	before := few.Between(few.Began.Add(warmUp), from)
	atMost(&s.card, "critical p99", first.Samples.Latency(0.99), 2*before.Latency(0.99))
	shed := append(shedOf(flooded.Samples), shedOf(whole.Between(from, until))...)
	s.must("shed", fmt.Sprint(len(shed)), len(shed) > 0)
	atMost(&s.card, "told within, p99", shed.Latency(0.99), 10*time.Millisecond)
	s.note("of the shed, half were told within %s, and all within %s", write(shed.Latency(0.5)), write(shed.Latency(1)))
	s.none("told otherwise than by 429 or 503 and Retry-After", usual.wrong()+excess.wrong()+many.wrong())
	atMost(&s.card, "recovered", recovered(whole, until, whole.Began.Add(calm+during+after), 0.999), 2*time.Second)
}

func shedOf(samples loadtest.Samples) (shed loadtest.Samples) {
	for i := range samples {
		if notAccepted(&samples[i]) {
			shed = append(shed, samples[i])
		}
	}
	return shed
}

// neighbours is two apps with one credential, of which one becomes noisy.
func (s *stage) neighbours(g *gateway, capacity float64) {
	const calm, during = 12 * time.Second, 12 * time.Second
	quiet := s.call(g, shop, 0.15*capacity, calm+during, toDevice)
	s.call(g, noisy, 0.15*capacity, calm, toDevice).wait()
	from := time.Now()
	loud := s.call(g, noisy, 1.5*capacity, during, toDevice).wait()
	got := quiet.wait()
	s.must("an app at ten times its load: shed", fmt.Sprint(len(shedOf(loud.Samples))), len(shedOf(loud.Samples)) > 0)
	before, beside := got.Between(got.Began.Add(warmUp), from), got.Between(from, from.Add(during))
	s.moved("p99 of the other", before.Latency(0.99), beside.Latency(0.99), 0.1)
	s.none("of the other not accepted", s.unaccepted(got.Samples))
}

// calls are single calls, each at its time whatever becomes of the others.
type calls struct {
	*load
	verdicts []verdict
}

// call begins to make so many a second.
func (s *stage) call(g *gateway, app string, rate float64, during time.Duration, compose func(int) *push.Notification) *calls {
	count := int(rate * during.Seconds())
	c := &calls{load: &load{stage: s, began: time.Now(), done: make(chan struct{})}, verdicts: make([]verdict, count)}
	c.got = loadtest.Results{Began: c.began, Samples: make(loadtest.Samples, count)}
	go func() {
		defer close(c.done)
		var all sync.WaitGroup
		defer all.Wait()
		for i := range count {
			due := time.Duration(float64(i) / rate * float64(time.Second))
			time.Sleep(time.Until(c.began.Add(due)))
			all.Go(func() { c.one(g, app, i, due, compose(i)) })
		}
	}()
	s.Cleanup(func() { <-c.done })
	return c
}

func (c *calls) one(g *gateway, app string, i int, due time.Duration, n *push.Notification) {
	v, err := g.post(app, n)
	sample := loadtest.Sample{Due: due, Latency: time.Since(c.began) - due, Status: "accepted"}
	if err != nil || v.code != http.StatusOK {
		sample.Status, sample.Reason = fmt.Sprint(v.code), v.problem.Receipt.Reason
	}
	c.got.Samples[i], c.verdicts[i] = sample, v
}

// wrong counts the answers that neither accept nor say when to come back.
func (c *calls) wrong() (n int) {
	for _, v := range c.verdicts {
		shed := v.code == http.StatusTooManyRequests || v.code == http.StatusServiceUnavailable
		if v.code != http.StatusOK && (!shed || v.retryAfter == "") {
			n++
		}
	}
	return n
}

// mostMemory is the most that the gateway's process had in memory at any time, in bytes. It needs Linux.
func (g *gateway) mostMemory() int {
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", g.cmd.Process.Pid))
	g.stage.need(err)
	var kib int
	if _, after, ok := bytes.Cut(text, []byte("VmHWM:")); ok {
		_, err = fmt.Sscan(string(after), &kib)
		g.stage.need(err)
	}
	return kib << 10
}
