// SPDX-License-Identifier: Apache-2.0

package scorecard

import (
	"fmt"
	"io"
	"os"
	"strings"
	"time"

	"github.com/sluice-push/sluice/mockprovider"
)

// reloadStorm is S26. Under load, the size of the pools changes fifty times, so that each reload
// replaces all pools. The last size is the first one again. SIGTERM follows with notifications in
// flight.
func reloadStorm(s *scenario) {
	const reloads, settled = 50, 20 * time.Second
	m := s.startMock(mockprovider.Config{Endpoints: poolSize})
	config := s.writeConfig("pool: {size: 8}", app{shopApp, apnsBlock(m, s.writeMockFiles(m), "")})
	g := s.startFull(poolSize, config)
	s.startBurst(g, 3000).wait() // afterwards, the gateway has all the idle batch workers that it keeps
	conns, goroutines := openConns(m), s.fewestGoroutines(g)
	run := s.offerRate(g, loadRate, faultDuration+beforeFault, apnsNotification)
	applied := 0
	for i := range reloads {
		s.replaceInFile(config, fmt.Sprintf("size: %d", poolSize-i%2), fmt.Sprintf("size: %d", poolSize-1+i%2))
		s.eventually("waiting for a reload", 10*time.Second, func() bool {
			applied = len(g.eventsSince(g.startedAt, "configuration reloaded", ""))
			return applied > i || g.Exited()
		})
	}
	underLoad := time.Since(run.started) < faultDuration+beforeFault
	results := run.wait()
	s.expect("reloads", fmt.Sprint(applied), applied == reloads && underLoad)
	s.expectZero("failed", s.countFailed(results.Samples, m.Ledger().AcceptedByID()))
	s.expectZero("duplicates", countDuplicates(m))
	connsAfter, goroutinesAfter := 0, 0
	for deadline := time.Now().Add(settled); time.Now().Before(deadline); s.sleep(100 * time.Millisecond) {
		if connsAfter, goroutinesAfter = openConns(m), s.fewestGoroutines(g); connsAfter == conns && goroutinesAfter <= goroutines {
			break
		}
	}
	s.expect("connections afterwards", fmt.Sprintf("%d (== %d)", connsAfter, conns), connsAfter == conns)
	atMost(&s.rowResult, "goroutines afterwards", goroutinesAfter, goroutines)
	last := s.startBurst(g, 500)
	s.eventually("waiting until notifications are in flight", 10*time.Second, func() bool { return g.status().inFlight() > 0 })
	exitTime, clean := g.terminate()
	s.expectZero("not accepted at SIGTERM", s.countFailed(last.wait().Samples, m.Ledger().AcceptedByID()))
	atMost(&s.rowResult, "exit after", exitTime, drainGrace)
	s.expect("clean exit", fmt.Sprint(clean), clean)
}

// openConns returns the number of open connections to the mock's APNs.
func openConns(m *mockprovider.Mock) int {
	return m.Ledger().Summary().Services[mockprovider.APNs].Open
}

// fewestGoroutines returns the lowest of several counts of the goroutines of a gateway without load,
// because its own connections and timers come and go.
func (s *scenario) fewestGoroutines(g *gateway) int {
	fewest := 0
	for range 20 {
		httpClient.CloseIdleConnections()
		s.sleep(50 * time.Millisecond)
		text, count := g.adminText("/debug/pprof/goroutine?debug=1"), 0
		if _, err := fmt.Sscanf(text, "goroutine profile: total %d", &count); err != nil {
			s.Fatalf("the goroutine profile: %v", err)
		}
		if fewest == 0 || count < fewest {
			fewest = count
		}
	}
	return fewest
}

// adminText returns the response to a GET of the admin listener.
func (g *gateway) adminText(path string) string {
	resp, err := httpClient.Get(g.adminURL() + path)
	g.scenario.noError(err)
	defer func() { _ = resp.Body.Close() }()
	text, err := io.ReadAll(resp.Body)
	g.scenario.noError(err)
	return string(text)
}

// replaceInFile replaces the first occurrence of a text in a file, which must contain it.
func (s *scenario) replaceInFile(name, from, to string) {
	text := string(s.readFile(name))
	if !strings.Contains(text, from) {
		s.Fatalf("%s does not contain %q", name, from)
	}
	s.noError(os.WriteFile(name+".new", []byte(strings.Replace(text, from, to, 1)), 0o600))
	s.noError(os.Rename(name+".new", name))
}
