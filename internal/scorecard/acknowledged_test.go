// SPDX-License-Identifier: Apache-2.0

package scorecard

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"net/http"
	"os/exec"
	"slices"
	"sync"
	"time"

	"github.com/sluice-push/sluice/internal/load"
	"github.com/sluice-push/sluice/mockprovider"
	"github.com/sluice-push/sluice/push"
)

// acknowledged holds the notifications for which a receipt with status queued or scheduled has arrived.
type acknowledged struct {
	mu         sync.Mutex
	repeatable map[string]bool // by ID; true if on_unknown is always
}

// queueInFlight is the default of queue.in_flight. It limits the notifications in flight per app,
// platform and lane that a crash can interrupt.
const queueInFlight = 512

// enqueue sends count notifications in one asynchronous batch call and records the receipts that
// arrive. An error says why some are missing. Every second notification has on_unknown set to
// always.
func (s *scenario) enqueue(g *gateway, p *acknowledged, count int) (queued int, err error) {
	return s.enqueueAt(g, p, count, time.Time{})
}

// enqueueAt is enqueue for notifications that are due at a time, or immediately if it is zero.
func (s *scenario) enqueueAt(g *gateway, p *acknowledged, count int, due time.Time) (queued int, err error) {
	results, err := s.generator(g, load.Generator{Stream: true, Async: true, Count: count}, func(i int) *push.Notification {
		n := apnsNotification(i)
		n.SendAt = due
		if i%2 == 0 {
			n.OnUnknown = push.RepeatAlways
		}
		return n
	}).Collect(s.ctx)
	for i := range results.Samples {
		switch end := &results.Samples[i]; end.Status {
		case "queued", "scheduled":
			p.add(end.ID, i%2 == 0)
			queued++
		case load.Lost:
		default:
			err = cmp.Or(err, fmt.Errorf("the receipt of an item has status %s, reason %s", end.Status, end.Reason))
		}
	}
	return queued, err
}

func (p *acknowledged) add(id string, repeatable bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.repeatable == nil {
		p.repeatable = map[string]bool{}
	}
	p.repeatable[id] = repeatable
}

func (p *acknowledged) count() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return len(p.repeatable)
}

// deliveryCounts is the result of the acknowledged notifications.
type deliveryCounts struct {
	lost             int // neither delivered nor reported as unknown
	inDoubt          int // not delivered and reported as unknown
	duplicates       int // deliveries beyond the first
	forbiddenRepeats int // duplicates with on_unknown never
}

// awaitOutcomes waits until every acknowledged notification is delivered or has ended and counts
// the results. The ledger of the service shows the deliveries; the gateway reports the status of
// the others.
func (s *scenario) awaitOutcomes(g *gateway, m *mockprovider.Mock, p *acknowledged, timeout time.Duration) (c deliveryCounts) {
	limit := time.Now().Add(timeout)
	open := func() (ids []string) {
		delivered := m.Ledger().AcceptedByID()
		for id := range p.repeatable {
			if delivered[id] == 0 {
				ids = append(ids, id)
			}
		}
		return ids
	}
	for len(open()) > queueInFlight && time.Now().Before(limit) {
		s.sleep(100 * time.Millisecond)
	}
	statuses := map[string]int{}
	for _, id := range open() {
		switch status := s.awaitEnd(g, id, limit); {
		case status == "unknown":
			c.inDoubt++
		case m.Ledger().AcceptedByID()[id] == 0:
			c.lost++
			statuses[cmp.Or(status, "nothing")]++
		}
	}
	for _, status := range slices.Sorted(maps.Keys(statuses)) {
		s.note("%d of the lost have status %s", statuses[status], status)
	}
	s.waitUntilIdle(m)
	for id, times := range m.Ledger().AcceptedByID() {
		if repeatable, kept := p.repeatable[id]; kept && times > 1 {
			c.duplicates += times - 1
			if !repeatable {
				c.forbiddenRepeats++
			}
		}
	}
	return c
}

// waitUntilIdle waits until the service has accepted nothing for a second.
func (s *scenario) waitUntilIdle(m *mockprovider.Mock) {
	for before := -1; before != len(m.Ledger().AcceptedByID()); s.sleep(time.Second) {
		before = len(m.Ledger().AcceptedByID())
	}
}

// awaitEnd polls the status of a notification until it has ended or until limit.
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

// fetchStatus returns the status of a notification, or "" if the gateway does not respond.
func (s *scenario) fetchStatus(g *gateway, id string) string {
	resp, err := s.do(s.request(http.MethodGet, g.baseURL()+notificationsPath(shopApp)+"/"+id, nil))
	if err != nil {
		return ""
	}
	return resp.receipt.Status
}

// runAudit runs gateway audit and returns the number of notifications that it reports as lost, and the
// end of its output if the audit is not clean.
func (s *scenario) runAudit(config string) (lost int, problem string) {
	ctx, stop := context.WithTimeout(s.ctx, time.Minute)
	defer stop()
	var log bytes.Buffer
	audit := exec.CommandContext(ctx, s.binary, "audit", "--json", "-c", config)
	audit.Stderr = &log
	output, err := audit.Output()
	var report struct{ Lost int }
	if err = cmp.Or(err, json.Unmarshal(output, &report)); err != nil {
		text := append(output, log.Bytes()...)
		problem = fmt.Sprintf("%v: %s", err, text[max(0, len(text)-400):])
	}
	return report.Lost, problem
}

// startAndServe starts a gateway and waits until it serves.
func (s *scenario) startAndServe(config string) *gateway {
	g := s.startProcess(config)
	s.eventually("waiting for the gateway to serve", time.Minute, func() bool {
		if g.Exited() {
			s.Fatalf("the gateway exited: %s", g.lastLog())
		}
		return g.baseURL() != ""
	})
	return g
}
