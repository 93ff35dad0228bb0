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

	"github.com/sluice-push/sluice/loadtest"
	"github.com/sluice-push/sluice/mockprovider"
)

// grace is drain.grace where the file does not say.
const grace = 30 * time.Second

// drained is S24: a gateway is told to end with ten thousand notifications at the service; and two gateways of one
// three-node cluster are replaced one after the other under load.
func drained(s *stage) {
	s.rolling()
	s.brimful()
}

// brimful has every answer take ten seconds, so that all are on their way at once.
func (s *stage) brimful() {
	const count = 10_000
	m := s.mock(mockprovider.Config{
		Endpoints: size, Streams: mockprovider.Streams{Start: 2 * count / size, Max: 2 * count / size},
	})
	g := s.gateway(m, fmt.Sprintf("  in_flight: %d\npool: {in_flight: %d}\nretry: {attempt_timeout: 20s}", 2*count, 2*count/size))
	s.start(g, loadtest.Load{Count: 100, Compose: toDevice}).wait() // a connection's first request goes alone
	s.play(m, mockprovider.Fault{Service: mockprovider.APNs, Delay: 10 * time.Second})
	l := s.start(g, loadtest.Load{Count: count, Compose: toDevice})
	most := 0
	s.eventually("all are in flight", time.Minute, func() bool { most = max(most, g.status().inFlight()); return most == count || g.over() })
	took, clean := g.leave()
	got := l.wait()
	s.must("in flight at SIGTERM", fmt.Sprint(most), most == count)
	s.none("not accepted", s.failed(got.Samples, m.Ledger().AcceptedByID()))
	s.none("duplicates", doubled(m))
	s.must("call ended in order", fmt.Sprint(l.err == nil), l.err == nil)
	atMost(&s.card, "exit after", took, grace)
	s.must("in order", fmt.Sprint(clean), clean)
}

// doubled counts the acceptances beyond each one's first.
func doubled(m *mockprovider.Mock) (n int) {
	for _, times := range m.Ledger().AcceptedByID() {
		n += times - 1
	}
	return n
}

// leave tells the gateway to end, and waits until it has: how long that took, and whether it says that nothing was cut.
func (g *gateway) leave() (took time.Duration, clean bool) {
	began := time.Now()
	_ = g.cmd.Process.Signal(syscall.SIGTERM)
	<-g.ended
	return time.Since(began), g.cmd.ProcessState != nil && g.cmd.ProcessState.Success()
}

// balanced are gateways behind what stands for a load balancer: it asks each /readyz every 50 ms, and calls go in turn to
// those that say yes.
type balanced struct {
	mu       sync.Mutex
	gateways []*gateway
	ready    []*gateway
	turn     int
}

func (b *balanced) next() *gateway {
	b.mu.Lock()
	defer b.mu.Unlock()
	if len(b.ready) == 0 {
		return nil
	}
	b.turn++
	return b.ready[b.turn%len(b.ready)]
}

func (b *balanced) replace(i int, g *gateway) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.gateways[i] = g
}

// probe asks all of them once.
func (b *balanced) probe() {
	b.mu.Lock()
	all := append([]*gateway(nil), b.gateways...)
	b.mu.Unlock()
	var ready []*gateway
	for _, g := range all {
		if !g.over() && g.ready() {
			ready = append(ready, g)
		}
	}
	b.mu.Lock()
	b.ready = ready
	b.mu.Unlock()
}

// rolling replaces both gateways while callers make 200 calls a second, every other one for later.
func (s *stage) rolling() {
	m := s.mock(mockprovider.Config{Endpoints: size})
	urls := s.nats()
	configs := make([]string, 2)
	files := s.files(m)
	b := &balanced{}
	for i := range configs {
		configs[i] = s.configuration(fmt.Sprintf("drain: {delay: 500ms}\nqueue: {nats: {url: %q, replicas: 3}}\nhistory: {dir: %q}", urls, s.folder()),
			app{shop, apnsTo(m, files, "")})
		b.gateways = append(b.gateways, s.again(configs[i]))
	}
	s.eventually("both are ready", time.Minute, func() bool { b.probe(); return len(b.ready) == 2 })
	t := s.traffic(b)
	s.sleep(3 * time.Second)
	var slowest time.Duration
	clean := true
	for i, config := range configs {
		took, ok := b.gateways[i].leave()
		slowest, clean = max(slowest, took), clean && ok
		g := s.up(config)
		s.eventually("the new one is ready", time.Minute, g.ready)
		b.replace(i, g)
		s.sleep(3 * time.Second)
	}
	t.end()
	s.judgeRolling(m, b, t)
	atMost(&s.card, "exit after", slowest, grace)
	s.must("in order", fmt.Sprint(clean), clean)
}

// again launches a gateway until one serves: it ends at once while its cluster has no leader yet, and who runs it starts
// another.
func (s *stage) again(config string) (g *gateway) {
	s.eventually("a gateway serves", time.Minute, func() bool {
		g = s.launch(config)
		for g.address() == "" && !g.over() {
			s.sleep(10 * time.Millisecond)
		}
		return !g.over()
	})
	return g
}

func (s *stage) judgeRolling(m *mockprovider.Mock, b *balanced, t *traffic) {
	c := s.settle(b.next(), m, &t.promises, time.Minute)
	s.must("a rolling restart: calls", fmt.Sprint(t.calls.Load()), t.calls.Load() > 0)
	s.none("connection errors", int(t.cut.Load()))
	s.none("answered otherwise", int(t.refused.Load()))
	s.none("lost", c.lost)
	s.none("in doubt", c.doubt)
	s.none("duplicates", c.twice)
}

// traffic is calls at an even rate.
type traffic struct {
	promises            // what was answered by 202, or by a receipt that it was accepted
	calls, cut, refused atomic.Int64
	end                 func()
}

// traffic begins; end ends it and waits for the last answer.
func (s *stage) traffic(b *balanced) *traffic {
	t, over := &traffic{}, make(chan struct{})
	var all sync.WaitGroup
	all.Go(func() {
		for probing := time.Tick(50 * time.Millisecond); ; {
			select {
			case <-probing:
				b.probe()
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
	t.end = sync.OnceFunc(func() { close(over); all.Wait() })
	s.Cleanup(t.end)
	return t
}

func (t *traffic) call(s *stage, b *balanced, i int) {
	t.calls.Add(1)
	g := b.next()
	body, err := json.Marshal(toDevice(i))
	if g == nil || err != nil {
		t.cut.Add(1)
		return
	}
	request, err := http.NewRequestWithContext(s.ctx, http.MethodPost, g.address()+"/v1/apps/"+shop+"/notifications", bytes.NewReader(body))
	if err != nil {
		t.cut.Add(1)
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
	answer, err := patient.Do(request)
	if err != nil {
		t.cut.Add(1)
		return
	}
	defer func() { _ = answer.Body.Close() }()
	var receipt line
	text, err := io.ReadAll(answer.Body)
	if err != nil || answer.StatusCode != want || json.Unmarshal(text, &receipt) != nil {
		t.refused.Add(1)
		return
	}
	t.keep(receipt.ID, false)
}

// nats starts three servers of a JetStream cluster, each a process that is this binary, and returns where they are.
func (s *stage) nats() (urls string) {
	ports := make([]string, 2*members)
	for i := range ports {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		s.need(err)
		defer func() { _ = l.Close() }() // all at the end, so that no port comes twice
		_, ports[i], err = net.SplitHostPort(l.Addr().String())
		s.need(err)
	}
	self, err := os.Executable()
	s.need(err)
	for i := range members {
		urls += ",nats://127.0.0.1:" + ports[i]
		s.member(self, fmt.Sprintf("%d %s %s", i, strings.Join(ports, " "), s.folder()))
	}
	return urls[1:]
}
