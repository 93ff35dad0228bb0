// SPDX-License-Identifier: Apache-2.0

package scorecard

import (
	"fmt"
	"net/http"
	"sync"
	"sync/atomic"
	"time"

	"github.com/sluice-push/sluice/internal/jetstream/jetstreamtest"
	"github.com/sluice-push/sluice/internal/load"
	"github.com/sluice-push/sluice/mockprovider"
)

// drainGrace is the default of drain.grace.
const drainGrace = 30 * time.Second

// gracefulShutdown is S24. It replaces two gateways that share a NATS cluster one after the other
// under load, and it stops a gateway with ten thousand notifications in flight.
func gracefulShutdown(s *scenario) {
	s.rollingRestart()
	s.drainUnderFullLoad()
}

// drainUnderFullLoad uses responses of ten seconds, so that all notifications are in flight at the
// same time.
func (s *scenario) drainUnderFullLoad() {
	const count = 10_000
	m := s.startMock(mockprovider.Config{
		Endpoints: poolSize, Streams: mockprovider.Streams{Start: 2 * count / poolSize, Max: 2 * count / poolSize},
	})
	g := s.startAPNsGateway(m, fmt.Sprintf("  in_flight: %d\npool: {in_flight: %d}\nretry: {attempt_timeout: 20s}", 2*count, 2*count/poolSize))
	s.startLoad(g, load.Generator{Count: 100}, apnsNotification).wait() // the first request on each connection is sent alone
	s.playFaults(m, mockprovider.Fault{Service: mockprovider.APNs, Delay: 10 * time.Second})
	run := s.startLoad(g, load.Generator{Count: count}, apnsNotification)
	maxInFlight := 0
	s.eventually("waiting until all are in flight", time.Minute, func() bool {
		maxInFlight = max(maxInFlight, g.status().inFlight())
		return maxInFlight == count || g.Exited()
	})
	exitTime, clean := g.terminate()
	got := run.wait()
	s.expect("in flight at SIGTERM", fmt.Sprint(maxInFlight), maxInFlight == count)
	s.expectZero("not accepted", s.countFailed(got.Samples, m.Ledger().AcceptedByID()))
	s.expectZero("duplicates", countDuplicates(m))
	s.expect("call ended without error", fmt.Sprint(run.err == nil), run.err == nil)
	atMost(&s.rowResult, "exit after", exitTime, drainGrace)
	s.expect("clean exit", fmt.Sprint(clean), clean)
}

// countDuplicates returns the number of acceptances beyond the first of each notification.
func countDuplicates(m *mockprovider.Mock) (n int) {
	for _, times := range m.Ledger().AcceptedByID() {
		n += times - 1
	}
	return n
}

// terminate sends SIGTERM and waits for the end. It returns how long that took and whether the exit
// status is 0. It kills a gateway that takes twice as long as it may.
func (g *gateway) terminate() (exitTime time.Duration, clean bool) {
	began := time.Now()
	clean = g.Stop(2 * drainGrace)
	return time.Since(began), clean
}

// loadBalancer simulates a load balancer. It checks /readyz of each gateway every 50 ms and
// distributes calls round robin to the ready ones.
type loadBalancer struct {
	mu        sync.Mutex
	gateways  []*gateway
	ready     []*gateway
	nextIndex int
}

func (b *loadBalancer) next() *gateway {
	b.mu.Lock()
	defer b.mu.Unlock()
	if len(b.ready) == 0 {
		return nil
	}
	b.nextIndex++
	return b.ready[b.nextIndex%len(b.ready)]
}

func (b *loadBalancer) replace(i int, g *gateway) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.gateways[i] = g
}

// checkReady checks all gateways once.
func (b *loadBalancer) checkReady() {
	b.mu.Lock()
	all := append([]*gateway(nil), b.gateways...)
	b.mu.Unlock()
	var ready []*gateway
	for _, g := range all {
		if !g.Exited() && g.ready() {
			ready = append(ready, g)
		}
	}
	b.mu.Lock()
	b.ready = ready
	b.mu.Unlock()
}

// rollingRestart replaces both gateways while callers make 200 calls per second, half of them
// asynchronous.
func (s *scenario) rollingRestart() {
	m := s.startMock(mockprovider.Config{Endpoints: poolSize})
	urls := jetstreamtest.StartCluster(s.t).Account(s.t).URL
	configs := make([]string, 2)
	files := s.writeMockFiles(m)
	b := &loadBalancer{}
	for i := range configs {
		configs[i] = s.writeConfig(fmt.Sprintf("drain: {delay: 500ms}\nqueue: {nats: {url: %q, replicas: 3}}\nhistory: {dir: %q}", urls, s.newTempDir()),
			app{shopApp, apnsBlock(m, files, "")})
		b.gateways = append(b.gateways, s.startUntilServing(configs[i]))
	}
	s.eventually("waiting until both gateways are ready", time.Minute, func() bool { b.checkReady(); return len(b.ready) == 2 })
	t := s.startTraffic(b)
	s.sleep(3 * time.Second)
	var slowest time.Duration
	clean := true
	for i, config := range configs {
		exitTime, ok := b.gateways[i].terminate()
		slowest, clean = max(slowest, exitTime), clean && ok
		g := s.startAndServe(config)
		s.eventually("waiting until the new gateway is ready", time.Minute, g.ready)
		b.replace(i, g)
		s.sleep(3 * time.Second)
	}
	t.stop()
	s.checkRollingRestart(m, b, t)
	atMost(&s.rowResult, "exit after", slowest, drainGrace)
	s.expect("clean exit", fmt.Sprint(clean), clean)
}

// startUntilServing starts gateways until one serves. A gateway exits while its cluster has no
// leader, and an operator would restart it.
func (s *scenario) startUntilServing(config string) (g *gateway) {
	s.eventually("waiting for a gateway to serve", time.Minute, func() bool {
		g = s.startProcess(config)
		for g.baseURL() == "" && !g.Exited() {
			s.sleep(10 * time.Millisecond)
		}
		return !g.Exited()
	})
	return g
}

func (s *scenario) checkRollingRestart(m *mockprovider.Mock, b *loadBalancer, t *traffic) {
	c := s.awaitOutcomes(b.next(), m, &t.acknowledged, time.Minute)
	s.expect("a rolling restart: calls", fmt.Sprint(t.calls.Load()), t.calls.Load() > 0)
	s.expectZero("connection errors", int(t.connErrors.Load()))
	s.expectZero("other responses", int(t.otherAnswers.Load()))
	s.expectZero("lost", c.lost)
	s.expectZero("in doubt", c.inDoubt)
	s.expectZero("duplicates", c.duplicates)
}

// traffic is a constant rate of calls.
type traffic struct {
	acknowledged                    // the calls with response 200 or 202
	calls, connErrors, otherAnswers atomic.Int64
	stop                            func()
}

// startTraffic starts the calls. stop ends them and waits for the last response.
func (s *scenario) startTraffic(b *loadBalancer) *traffic {
	t, done := &traffic{}, make(chan struct{})
	var all sync.WaitGroup
	all.Go(func() {
		for ticker := time.Tick(50 * time.Millisecond); ; {
			select {
			case <-ticker:
				b.checkReady()
			case <-done:
				return
			}
		}
	})
	all.Go(func() {
		for i, ticker := 0, time.Tick(5*time.Millisecond); ; i++ {
			select {
			case <-ticker:
				all.Go(func() { t.call(s, b, i) })
			case <-done:
				return
			}
		}
	})
	t.stop = sync.OnceFunc(func() { close(done); all.Wait() })
	s.Cleanup(t.stop)
	return t
}

func (t *traffic) call(s *scenario, b *loadBalancer, i int) {
	t.calls.Add(1)
	g := b.next()
	if g == nil {
		t.connErrors.Add(1)
		return
	}
	request, want := s.request(http.MethodPost, g.baseURL()+notificationsPath(shopApp), encode(apnsNotification(i))), http.StatusOK
	request.GetBody = nil // otherwise the client retries after a lost connection
	if i%2 == 0 {
		want = http.StatusAccepted
		request.Header.Set("Prefer", "respond-async")
	}
	resp, err := s.do(request)
	switch {
	case err != nil && resp.code == 0:
		t.connErrors.Add(1)
	case err != nil || resp.code != want || resp.receipt.ID == "":
		t.otherAnswers.Add(1)
	default:
		t.add(resp.receipt.ID, false)
	}
}
