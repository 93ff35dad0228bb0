// SPDX-License-Identifier: Apache-2.0

package main

import (
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"net/http"
	"os/exec"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/sluice-push/sluice/mockprovider"
	"github.com/sluice-push/sluice/push"
)

// acknowledged are the notifications that a gateway has answered for with 202: those whose receipts have come.
type acknowledged struct {
	mu         sync.Mutex
	repeatable map[string]bool // by ID; true if it may be repeated
}

// queueInFlight is queue.in_flight where the file does not say: what a crash can find on its way, for one app and lane.
const queueInFlight = 512

// noTimeoutClient waits for no verdict, and for a kill as long as it takes.
var noTimeoutClient = &http.Client{Transport: &http.Transport{MaxIdleConnsPerHost: 100}}

// enqueue posts lines of so many notifications for later, and keeps the receipts that come. An error says why not all did.
// Every other one may be repeated when nobody can tell whether it arrived.
func (s *scenario) enqueue(g *gateway, p *acknowledged, count int) (taken int, err error) {
	var lines strings.Builder
	for i := range count {
		n := apnsNotification(i)
		if i%2 == 0 {
			n.OnUnknown = push.RepeatAlways
		}
		text, err := json.Marshal(n)
		s.noError(err)
		lines.Write(append(text, '\n'))
	}
	request, err := http.NewRequestWithContext(s.ctx, http.MethodPost, g.baseURL()+"/v1/apps/"+shopApp+"/notifications/batch", strings.NewReader(lines.String()))
	s.noError(err)
	for name, value := range map[string]string{"Authorization": "Bearer " + key, "Content-Type": "application/x-ndjson", "Prefer": "respond-async"} {
		request.Header.Set(name, value)
	}
	answer, err := noTimeoutClient.Do(request)
	if err != nil {
		return 0, err
	}
	defer func() { _ = answer.Body.Close() }()
	if answer.StatusCode != http.StatusAccepted {
		return 0, fmt.Errorf("the batch was answered %s", answer.Status)
	}
	for decoder := json.NewDecoder(answer.Body); taken < count; {
		var one batchReceipt
		if err := decoder.Decode(&one); err != nil {
			return taken, err
		}
		if one.Status != "queued" || one.Index == nil {
			return taken, fmt.Errorf("an item was answered %s %s", one.Status, one.Reason)
		}
		p.add(one.ID, *one.Index%2 == 0)
		taken++
	}
	return taken, nil
}

func (p *acknowledged) add(id string, again bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.repeatable == nil {
		p.repeatable = map[string]bool{}
	}
	p.repeatable[id] = again
}

func (p *acknowledged) count() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return len(p.repeatable)
}

// deliveryCounts is what became of promises.
type deliveryCounts struct {
	lost             int // neither arrived nor said to be unknown
	inDoubt          int // did not arrive, and said to be unknown
	duplicates       int // arrivals beyond the first
	forbiddenRepeats int // of these such as must not be repeated
}

// awaitOutcomes waits until every promise has arrived or ended, and tells what became of them. The service's ledger says what
// arrived; for the others the gateway is asked.
func (s *scenario) awaitOutcomes(g *gateway, m *mockprovider.Mock, p *acknowledged, patience time.Duration) (c deliveryCounts) {
	limit := time.Now().Add(patience)
	open := func() (ids []string) {
		arrived := m.Ledger().AcceptedByID()
		for id := range p.repeatable {
			if arrived[id] == 0 {
				ids = append(ids, id)
			}
		}
		return ids
	}
	for len(open()) > queueInFlight && time.Now().Before(limit) {
		s.sleep(100 * time.Millisecond)
	}
	said := map[string]int{}
	for _, id := range open() {
		switch status := s.awaitEnd(g, id, limit); {
		case status == "unknown":
			c.inDoubt++
		case m.Ledger().AcceptedByID()[id] == 0:
			c.lost++
			said[cmp.Or(status, "nothing")]++
		}
	}
	for _, status := range slices.Sorted(maps.Keys(said)) {
		s.note("%d of the lost are said to be %s", said[status], status)
	}
	s.waitUntilIdle(m)
	for id, times := range m.Ledger().AcceptedByID() {
		if again, kept := p.repeatable[id]; kept && times > 1 {
			c.duplicates += times - 1
			if !again {
				c.forbiddenRepeats++
			}
		}
	}
	return c
}

// waitUntilIdle waits until nothing has come for a second.
func (s *scenario) waitUntilIdle(m *mockprovider.Mock) {
	for before := -1; before != len(m.Ledger().AcceptedByID()); s.sleep(time.Second) {
		before = len(m.Ledger().AcceptedByID())
	}
}

// awaitEnd asks how a notification stands until it has ended, or until a time.
func (s *scenario) awaitEnd(g *gateway, id string, limit time.Time) (status string) {
	for {
		status = s.fetchStatus(g, id)
		switch status {
		case "", "queued", "scheduled", "sending":
		default:
			return status
		}
		if time.Now().After(limit) {
			return status
		}
		s.sleep(50 * time.Millisecond)
	}
}

// fetchStatus asks how a notification stands; nothing is said where the gateway does not answer.
func (s *scenario) fetchStatus(g *gateway, id string) string {
	request, err := http.NewRequestWithContext(s.ctx, http.MethodGet, g.baseURL()+"/v1/apps/"+shopApp+"/notifications/"+id, nil)
	s.noError(err)
	request.Header.Set("Authorization", "Bearer "+key)
	answer, err := noTimeoutClient.Do(request)
	if err != nil {
		return ""
	}
	defer func() { _ = answer.Body.Close() }()
	var receipt batchReceipt
	if json.NewDecoder(answer.Body).Decode(&receipt) != nil {
		return ""
	}
	return receipt.Status
}

// runAudit has the gateway's own proof made, and returns its last words if it does not hold.
func (s *scenario) runAudit(config string) (complaint string) {
	ctx, stop := context.WithTimeout(s.ctx, time.Minute)
	defer stop()
	if text, err := exec.CommandContext(ctx, s.binary, "audit", "-c", config).CombinedOutput(); err != nil {
		return fmt.Sprintf("%v: %s", err, text[max(0, len(text)-400):])
	}
	return ""
}

// kill ends the process as a power cut would, and waits for it.
func (g *gateway) kill() {
	_ = g.cmd.Process.Kill()
	<-g.done
}

// startAndServe launches a gateway and waits until it serves.
func (s *scenario) startAndServe(config string) *gateway {
	g := s.startProcess(config)
	s.eventually("the gateway serves", time.Minute, func() bool {
		if g.exited() {
			s.Fatalf("the gateway ended at once: %s", g.lastLog())
		}
		return g.baseURL() != ""
	})
	return g
}
