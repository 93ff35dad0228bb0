// SPDX-License-Identifier: Apache-2.0

package scorecard

import (
	"bytes"
	"compress/gzip"
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/sluice-push/sluice/internal/sleep"
	"github.com/sluice-push/sluice/mockprovider"
)

// slowCallers is S23. Ten thousand callers keep connections open for half a minute with requests that
// do not end, and connect again when the gateway closes them, while others post bodies that become a
// thousand times larger when they are decompressed. Good callers make single calls. If the gateway has
// too few file descriptors for so many connections, there are fewer callers: at its limit, the gateway
// closes idle connections of good callers, too.
func slowCallers(s *scenario) {
	const rate, attack = 200.0, 30 * time.Second
	m := s.startMock(mockprovider.Config{Endpoints: poolSize})
	config := s.writeConfig("", app{shopApp, apnsBlock(m, s.writeMockFiles(m), "")})
	s.replaceInFile(config, "level: debug", "level: info") // at debug level, each single call would be logged
	g := s.startFull(poolSize, config)
	callers := min(10_000, g.status().Connections.Limit*9/10)
	bomb := s.newBomb(256 << 20)
	run := s.startCalls(g, shopApp, rate, beforeFault+attack, apnsNotification)
	run.waitUntil(beforeFault)
	faultStart, memory := time.Now(), g.maxMemory()
	a := s.startAttack(g, callers, attack)
	refused, bombs := 0, 0
	for ; time.Since(faultStart) < attack-time.Second; bombs++ {
		resp, err := s.do(s.request(http.MethodPost, g.baseURL()+notificationsPath(shopApp)+[]string{"", "/batch"}[bombs%2], bomb, "Content-Encoding", "gzip"))
		if err == nil && resp.code == http.StatusUnsupportedMediaType {
			refused++
		}
		s.sleep(100 * time.Millisecond)
	}
	a.callers.Wait() // bounded by the end of the attack
	e := collectEvidence(m, run.wait(), faultStart)
	atLeast(&s.rowResult, "connections of slow callers at a time", int(a.mostOpen.Load()), callers*9/10)
	s.expect("cut by the gateway", fmt.Sprint(a.cut.Load()), int(a.cut.Load()) > callers)
	atMost(&s.rowResult, "longest connection without a whole request", time.Duration(a.longest.Load()), 17*time.Second)
	s.expectZero("decompression bombs without 415", bombs-refused)
	s.expectZero("failed", s.countFailed(append(e.before, e.after...), e.accepted))
	s.expectZero("duplicates", e.duplicates())
	s.expectMaxChange("p99", e.before.LatencyQuantile(0.99), e.after.LatencyQuantile(0.99), 0.1)
	atMost(&s.rowResult, "more memory, MiB", (g.maxMemory()-memory)>>20, 200)
}

// newBomb returns a gzip file of zeros that becomes size bytes long.
func (s *scenario) newBomb(size int64) []byte {
	var b bytes.Buffer
	w := gzip.NewWriter(&b)
	_, err := io.CopyN(w, zeros{}, size)
	s.noError(err)
	s.noError(w.Close())
	return b.Bytes()
}

type zeros struct{}

// Read implements io.Reader.
func (zeros) Read(p []byte) (int, error) { clear(p); return len(p), nil }

// attack is what slow callers have seen.
type attack struct {
	callers        sync.WaitGroup
	open, mostOpen atomic.Int64
	cut            atomic.Int64 // connections that the gateway has closed
	longest        atomic.Int64 // time until it closed one
}

// slowRequest is a request that does not end: its first part, and what is repeated after it.
type slowRequest struct {
	start, more string
	pause       time.Duration
}

// slowRequests are of seven kinds in ten headers that grow slowly, two bodies, and one headers without end.
func slowRequests() (all [10]slowRequest) {
	path := "POST " + notificationsPath(shopApp)
	for i := range all {
		switch {
		case i < 7:
			all[i] = slowRequest{path + " HTTP/1.1\r\n", "X-Slow: 1\r\n", time.Second}
		case i < 8:
			all[i] = slowRequest{path + " HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer " + key + "\r\nContent-Type: application/json\r\nContent-Length: 1000\r\n\r\n", " ", time.Second}
		case i < 9:
			all[i] = slowRequest{path + "/batch HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer wrong\r\nContent-Type: application/x-ndjson\r\nContent-Length: 1000\r\n\r\n", "\n", time.Second}
		default:
			all[i] = slowRequest{path + " HTTP/1.1\r\n", "X-Endless: " + strings.Repeat("x", 1000) + "\r\n", 50 * time.Millisecond}
		}
	}
	return all
}

// startAttack starts slow callers, spread over five seconds. They end after d.
func (s *scenario) startAttack(g *gateway, count int, d time.Duration) *attack {
	a, requests, address := &attack{}, slowRequests(), strings.TrimPrefix(g.baseURL(), "http://")
	ctx, stop := context.WithTimeout(s.ctx, d)
	s.Cleanup(stop)
	for i := range count {
		a.callers.Go(func() {
			sleep.For(ctx, 5*time.Second*time.Duration(i)/time.Duration(count))
			for ctx.Err() == nil {
				a.call(ctx, address, &requests[i%len(requests)])
				sleep.For(ctx, time.Second)
			}
		})
	}
	return a
}

// call opens a connection, and writes until the gateway closes it or ctx ends.
func (a *attack) call(ctx context.Context, address string, r *slowRequest) {
	dialer := net.Dialer{Timeout: 5 * time.Second}
	conn, err := dialer.DialContext(ctx, "tcp", address)
	if err != nil {
		return
	}
	defer func() { _ = conn.Close() }()
	began := time.Now()
	for open, most := a.open.Add(1), a.mostOpen.Load(); open > most && !a.mostOpen.CompareAndSwap(most, open); most = a.mostOpen.Load() {
	}
	defer a.open.Add(-1)
	response := make([]byte, 512)
	for text := r.start; ctx.Err() == nil; text = r.more {
		_, err := io.WriteString(conn, text)
		for next := time.Now().Add(r.pause); err == nil; { // until it is time to write more
			_ = conn.SetReadDeadline(next)
			_, err = conn.Read(response)
		}
		if timeout, ok := err.(net.Error); ok && timeout.Timeout() {
			continue
		}
		a.cut.Add(1)
		took := int64(time.Since(began))
		for longest := a.longest.Load(); took > longest && !a.longest.CompareAndSwap(longest, took); longest = a.longest.Load() {
		}
		return
	}
}
