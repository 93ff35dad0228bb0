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

// promises are the notifications that a gateway has answered for with 202: those whose receipts have come.
type promises struct {
	mu   sync.Mutex
	kept map[string]bool // by ID; true if it may be repeated
}

// inFlight is queue.in_flight where the file does not say: what a crash can find on its way, for one app and lane.
const inFlight = 512

// patient waits for no verdict, and for a kill as long as it takes.
var patient = &http.Client{Transport: &http.Transport{MaxIdleConnsPerHost: 100}}

// promise posts lines of so many notifications for later, and keeps the receipts that come. An error says why not all did.
// Every other one may be repeated when nobody can tell whether it arrived.
func (s *stage) promise(g *gateway, p *promises, count int) (taken int, err error) {
	var lines strings.Builder
	for i := range count {
		n := toDevice(i)
		if i%2 == 0 {
			n.OnUnknown = push.RepeatAlways
		}
		text, err := json.Marshal(n)
		s.need(err)
		lines.Write(append(text, '\n'))
	}
	request, err := http.NewRequestWithContext(s.ctx, http.MethodPost, g.address()+"/v1/apps/"+shop+"/notifications/batch", strings.NewReader(lines.String()))
	s.need(err)
	for name, value := range map[string]string{"Authorization": "Bearer " + key, "Content-Type": "application/x-ndjson", "Prefer": "respond-async"} {
		request.Header.Set(name, value)
	}
	answer, err := patient.Do(request)
	if err != nil {
		return 0, err
	}
	defer func() { _ = answer.Body.Close() }()
	if answer.StatusCode != http.StatusAccepted {
		return 0, fmt.Errorf("the batch was answered %s", answer.Status)
	}
	for decoder := json.NewDecoder(answer.Body); taken < count; {
		var one line
		if err := decoder.Decode(&one); err != nil {
			return taken, err
		}
		if one.Status != "queued" || one.Index == nil {
			return taken, fmt.Errorf("an item was answered %s %s", one.Status, one.Reason)
		}
		p.keep(one.ID, *one.Index%2 == 0)
		taken++
	}
	return taken, nil
}

func (p *promises) keep(id string, again bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.kept == nil {
		p.kept = map[string]bool{}
	}
	p.kept[id] = again
}

func (p *promises) count() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return len(p.kept)
}

// came is what became of promises.
type came struct {
	lost   int // neither arrived nor said to be unknown
	doubt  int // did not arrive, and said to be unknown
	twice  int // arrivals beyond the first
	broken int // of these such as must not be repeated
}

// settle waits until every promise has arrived or ended, and tells what became of them. The service's ledger says what
// arrived; for the others the gateway is asked.
func (s *stage) settle(g *gateway, m *mockprovider.Mock, p *promises, patience time.Duration) (c came) {
	limit := time.Now().Add(patience)
	open := func() (ids []string) {
		arrived := m.Ledger().AcceptedByID()
		for id := range p.kept {
			if arrived[id] == 0 {
				ids = append(ids, id)
			}
		}
		return ids
	}
	for len(open()) > inFlight && time.Now().Before(limit) {
		s.sleep(100 * time.Millisecond)
	}
	said := map[string]int{}
	for _, id := range open() {
		switch status := s.ended(g, id, limit); {
		case status == "unknown":
			c.doubt++
		case m.Ledger().AcceptedByID()[id] == 0:
			c.lost++
			said[cmp.Or(status, "nothing")]++
		}
	}
	for _, status := range slices.Sorted(maps.Keys(said)) {
		s.note("%d of the lost are said to be %s", said[status], status)
	}
	s.quiet(m)
	for id, times := range m.Ledger().AcceptedByID() {
		if again, kept := p.kept[id]; kept && times > 1 {
			c.twice += times - 1
			if !again {
				c.broken++
			}
		}
	}
	return c
}

// quiet waits until nothing has come for a second.
func (s *stage) quiet(m *mockprovider.Mock) {
	for before := -1; before != len(m.Ledger().AcceptedByID()); s.sleep(time.Second) {
		before = len(m.Ledger().AcceptedByID())
	}
}

// ended asks how a notification stands until it has ended, or until a time.
func (s *stage) ended(g *gateway, id string, limit time.Time) (status string) {
	for {
		status = s.standing(g, id)
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

// standing asks how a notification stands; nothing is said where the gateway does not answer.
func (s *stage) standing(g *gateway, id string) string {
	request, err := http.NewRequestWithContext(s.ctx, http.MethodGet, g.address()+"/v1/apps/"+shop+"/notifications/"+id, nil)
	s.need(err)
	request.Header.Set("Authorization", "Bearer "+key)
	answer, err := patient.Do(request)
	if err != nil {
		return ""
	}
	defer func() { _ = answer.Body.Close() }()
	var receipt line
	if json.NewDecoder(answer.Body).Decode(&receipt) != nil {
		return ""
	}
	return receipt.Status
}

// audit has the gateway's own proof made, and returns its last words if it does not hold.
func (s *stage) audit(config string) (complaint string) {
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
	<-g.ended
}

// up launches a gateway and waits until it serves.
func (s *stage) up(config string) *gateway {
	g := s.launch(config)
	s.eventually("the gateway serves", time.Minute, func() bool {
		if g.over() {
			s.Fatalf("the gateway ended at once: %s", g.lastWords())
		}
		return g.address() != ""
	})
	return g
}
