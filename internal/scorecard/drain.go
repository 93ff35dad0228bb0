// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/sluice-push/sluice/internal/scorecard/load"
	"github.com/sluice-push/sluice/mockprovider"
)

// drainGrace is drain.grace where the file does not say.
const drainGrace = 30 * time.Second

// gracefulShutdown is S24: a gateway is told to end with ten thousand notifications at the service; and two gateways of one
// three-node cluster are replaced one after the other under load.
func gracefulShutdown(s *scenario) {
	s.rollingRestart()
	s.drainUnderFullLoad()
}

// drainUnderFullLoad has every answer take ten seconds, so that all are on their way at once.
func (s *scenario) drainUnderFullLoad() {
	const count = 10_000
	m := s.startMock(mockprovider.Config{
		Endpoints: poolSize, Streams: mockprovider.Streams{Start: 2 * count / poolSize, Max: 2 * count / poolSize},
	})
	g := s.startAPNsGateway(m, fmt.Sprintf("  in_flight: %d\npool: {in_flight: %d}\nretry: {attempt_timeout: 20s}", 2*count, 2*count/poolSize))
	s.startLoad(g, load.Generator{Count: 100, NewNotification: apnsNotification}).wait() // a connection's first request goes alone
	s.playFaults(m, mockprovider.Fault{Service: mockprovider.APNs, Delay: 10 * time.Second})
	l := s.startLoad(g, load.Generator{Count: count, NewNotification: apnsNotification})
	most := 0
	s.eventually("all are in flight", time.Minute, func() bool { most = max(most, g.status().inFlight()); return most == count || g.exited() })
	took, clean := g.terminate()
	got := l.wait()
	s.expect("in flight at SIGTERM", fmt.Sprint(most), most == count)
	s.expectZero("not accepted", s.countFailed(got.Samples, m.Ledger().AcceptedByID()))
	s.expectZero("duplicates", countDuplicates(m))
	s.expect("call ended without error", fmt.Sprint(l.err == nil), l.err == nil)
	atMost(&s.rowResult, "exit after", took, drainGrace)
	s.expect("clean exit", fmt.Sprint(clean), clean)
}

// countDuplicates counts the acceptances beyond each one's first.
func countDuplicates(m *mockprovider.Mock) (n int) {
	for _, times := range m.Ledger().AcceptedByID() {
		n += times - 1
	}
	return n
}

// terminate tells the gateway to end, and waits until it has: how long that took, and whether it says that nothing was cut.
func (g *gateway) terminate() (took time.Duration, clean bool) {
	began := time.Now()
	_ = g.cmd.Process.Signal(syscall.SIGTERM)
	<-g.done
	return time.Since(began), g.cmd.ProcessState != nil && g.cmd.ProcessState.Success()
}

// loadBalancer are gateways behind what stands for a load balancer: it asks each /readyz every 50 ms, and calls go in turn to
// those that say yes.
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

// checkReady asks all of them once.
func (b *loadBalancer) checkReady() {
	b.mu.Lock()
	all := append([]*gateway(nil), b.gateways...)
	b.mu.Unlock()
	var ready []*gateway
	for _, g := range all {
		if !g.exited() && g.ready() {
			ready = append(ready, g)
		}
	}
	b.mu.Lock()
	b.ready = ready
	b.mu.Unlock()
}

// rollingRestart replaces both gateways while callers make 200 calls a second, every other one for later.
func (s *scenario) rollingRestart() {
	m := s.startMock(mockprovider.Config{Endpoints: poolSize})
	urls := s.startCluster()
	configs := make([]string, 2)
	files := s.writeMockFiles(m)
	b := &loadBalancer{}
	for i := range configs {
		configs[i] = s.writeConfig(fmt.Sprintf("drain: {delay: 500ms}\nqueue: {nats: {url: %q, replicas: 3}}\nhistory: {dir: %q}", urls, s.newTempDir()),
			app{shopApp, apnsBlock(m, files, "")})
		b.gateways = append(b.gateways, s.startUntilServing(configs[i]))
	}
	s.eventually("both are ready", time.Minute, func() bool { b.checkReady(); return len(b.ready) == 2 })
	t := s.startTraffic(b)
	s.sleep(3 * time.Second)
	var slowest time.Duration
	clean := true
	for i, config := range configs {
		took, ok := b.gateways[i].terminate()
		slowest, clean = max(slowest, took), clean && ok
		g := s.startAndServe(config)
		s.eventually("the new one is ready", time.Minute, g.ready)
		b.replace(i, g)
		s.sleep(3 * time.Second)
	}
	t.stop()
	s.checkRollingRestart(m, b, t)
	atMost(&s.rowResult, "exit after", slowest, drainGrace)
	s.expect("clean exit", fmt.Sprint(clean), clean)
}

// startUntilServing launches a gateway until one serves: it ends at once while its cluster has no leader yet, and who runs it starts
// another.
func (s *scenario) startUntilServing(config string) (g *gateway) {
	s.eventually("a gateway serves", time.Minute, func() bool {
		g = s.startProcess(config)
		for g.baseURL() == "" && !g.exited() {
			s.sleep(10 * time.Millisecond)
		}
		return !g.exited()
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

// traffic is calls at an even rate.
type traffic struct {
	acknowledged                    // what was answered by 202, or by a receipt that it was accepted
	calls, connErrors, otherAnswers atomic.Int64
	stop                            func()
}

// startTraffic begins; end ends it and waits for the last answer.
func (s *scenario) startTraffic(b *loadBalancer) *traffic {
	t, over := &traffic{}, make(chan struct{})
	var all sync.WaitGroup
	all.Go(func() {
		for probing := time.Tick(50 * time.Millisecond); ; {
			select {
			case <-probing:
				b.checkReady()
			case <-over:
				return
			}
		}
	})
	all.Go(func() {
		for i, calling := 0, time.Tick(5*time.Millisecond); ; i++ {
			select {
			case <-calling:
				all.Go(func() { t.call(s, b, i) })
			case <-over:
				return
			}
		}
	})
	t.stop = sync.OnceFunc(func() { close(over); all.Wait() })
	s.Cleanup(t.stop)
	return t
}

func (t *traffic) call(s *scenario, b *loadBalancer, i int) {
	t.calls.Add(1)
	g := b.next()
	body, err := json.Marshal(apnsNotification(i))
	if g == nil || err != nil {
		t.connErrors.Add(1)
		return
	}
	request, err := http.NewRequestWithContext(s.ctx, http.MethodPost, g.baseURL()+"/v1/apps/"+shopApp+"/notifications", bytes.NewReader(body))
	if err != nil {
		t.connErrors.Add(1)
		return
	}
	request.Header.Set("Authorization", "Bearer "+key)
	request.Header.Set("Content-Type", "application/json")
	request.GetBody = nil // or the client would hide a lost connection by another try
	want := http.StatusOK
	if i%2 == 0 {
		want = http.StatusAccepted
		request.Header.Set("Prefer", "respond-async")
	}
	answer, err := noTimeoutClient.Do(request)
	if err != nil {
		t.connErrors.Add(1)
		return
	}
	defer func() { _ = answer.Body.Close() }()
	var receipt batchReceipt
	text, err := io.ReadAll(answer.Body)
	if err != nil || answer.StatusCode != want || json.Unmarshal(text, &receipt) != nil {
		t.otherAnswers.Add(1)
		return
	}
	t.add(receipt.ID, false)
}

// startCluster starts three servers of a JetStream cluster, each a process that is this binary, and returns where they are.
func (s *scenario) startCluster() (urls string) {
	ports := make([]string, 2*clusterSize)
	for i := range ports {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		s.noError(err)
		defer func() { _ = l.Close() }() // all at the end, so that no port comes twice
		_, ports[i], err = net.SplitHostPort(l.Addr().String())
		s.noError(err)
	}
	self, err := os.Executable()
	s.noError(err)
	for i := range clusterSize {
		urls += ",nats://127.0.0.1:" + ports[i]
		s.startClusterMember(self, fmt.Sprintf("%d %s %s", i, strings.Join(ports, " "), s.newTempDir()))
	}
	return urls[1:]
}
