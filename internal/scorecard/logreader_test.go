// SPDX-License-Identifier: Apache-2.0

package scorecard

import (
	"context"
	"fmt"
	"net/http"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/sluice-push/sluice/mockprovider"
)

// lostLogReader is S29. The gateway logs at debug level, and many calls of /livez keep its log busy.
// The reader of the log stalls, long enough for a busy machine to fill the buffers, and then ends.
func lostLogReader(s *scenario) {
	const stall, gone = faultDuration, 15 * time.Second
	m := s.startMock(mockprovider.Config{Endpoints: poolSize})
	config := s.writeConfig("", app{shopApp, apnsBlock(m, s.writeMockFiles(m), "")})
	g := s.startFull(poolSize, config)
	calls := s.callLivez(g)
	run := s.offerRate(g, loadRate, beforeFault+stall+gone, apnsNotification)
	run.waitUntil(beforeFault)
	faultStart := time.Now()
	g.stallLog.Store(true)
	s.eventually("waiting until the log is dropped", stall, func() bool { return s.droppedLog(g) > 0 })
	droppedAfter := time.Since(faultStart)
	run.waitUntil(beforeFault + stall)
	stalled := s.droppedLog(g)
	g.closeLog()
	e := collectEvidence(m, run.wait(), faultStart)
	ended := s.droppedLog(g)
	failedCalls := calls()
	s.expect("records dropped while the reader stalled", fmt.Sprint(stalled), stalled > 0)
	s.expect("after it had ended", fmt.Sprint(ended-stalled), ended > stalled)
	s.expectZero("failed", s.countFailed(e.after, e.accepted))
	s.expectP99(e, 20*time.Millisecond)
	s.expectZero("duplicates", e.duplicates())
	s.expectZero("calls of /livez without an answer", failedCalls)
	exitTime, clean := g.terminate()
	atMost(&s.rowResult, "exit after", exitTime, drainGrace)
	s.expect("clean exit", fmt.Sprint(clean), clean)
	s.note("the first record was dropped after %s", format(droppedAfter))
}

// livezRate is the number of calls of /livez per second. Each logs a record of about 200 bytes, so
// that the pipe and the buffer of the gateway are full after a few seconds.
const livezRate = 1000

// callLivez calls /livez until the returned function is called, which returns the number of calls
// that failed.
func (s *scenario) callLivez(g *gateway) (stop func() (failed int)) {
	ctx, cancel := context.WithCancel(s.ctx)
	var callers sync.WaitGroup
	var failed atomic.Int64
	const count = 16
	for range count {
		callers.Go(func() {
			ticks := time.NewTicker(time.Second * count / livezRate)
			defer ticks.Stop()
			for {
				select {
				case <-ctx.Done():
					return
				case <-ticks.C:
				}
				resp, err := httpClient.Get(g.baseURL() + "/livez")
				if err != nil {
					failed.Add(1)
					continue
				}
				_ = resp.Body.Close()
				if resp.StatusCode != http.StatusOK {
					failed.Add(1)
				}
			}
		})
	}
	s.Cleanup(cancel)
	return func() int {
		cancel()
		callers.Wait() // bounded by the timeout of a call
		return int(failed.Load())
	}
}

// droppedLog returns the number of log records that the gateway has dropped.
func (s *scenario) droppedLog(g *gateway) int {
	for line := range strings.Lines(g.adminText("/metrics")) {
		if value, found := strings.CutPrefix(line, "sluice_log_dropped_total "); found {
			n, err := strconv.ParseFloat(strings.TrimSpace(value), 64)
			s.noError(err)
			return int(n)
		}
	}
	s.Fatalf("the gateway has no metric sluice_log_dropped_total")
	return 0
}
