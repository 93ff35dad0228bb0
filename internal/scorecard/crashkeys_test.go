// SPDX-License-Identifier: Apache-2.0

package scorecard

import (
	"bytes"
	"cmp"
	"context"
	"fmt"
	"math/rand/v2"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"time"

	"github.com/sluice-push/sluice/client"
	"github.com/sluice-push/sluice/push"
)

// keyedCalls kills a gateway at random moments while callers repeat each call with its Idempotency-Key
// until it has a response, and while gateway send --file sends files. Every notification has its own
// device token and must not be repeated, so each token may be delivered at most once. One that is not
// delivered must be reported as unknown: a kill leaves its result in doubt.
func (s *scenario) keyedCalls(rng *rand.Rand, kills int) {
	m := s.startMock(mockWithDelay(5 * time.Millisecond))
	c := &keyedCallers{scenario: s, address: s.freeAddress(), stopped: make(chan struct{})}
	config := s.writeConfigAt(c.address, fmt.Sprintf("queue: {dir: %q}", s.newTempDir()), app{shopApp, apnsBlock(m, s.writeMockFiles(m), "")})
	var callers sync.WaitGroup
	for i := range 4 {
		callers.Go(func() { c.repeatSingles(i, i%2 == 0) })
	}
	callers.Go(c.sendFiles)
	for range kills {
		g := s.startProcess(config)
		select {
		case <-g.Done(): // it exited before the kill
		case <-time.After(300*time.Millisecond + time.Duration(rng.Int64N(int64(1700*time.Millisecond)))):
		}
		g.Kill()
	}
	g := s.startAndServe(config)
	close(c.stopped)
	callers.Wait() // bounded by two minutes for a call and for send --file
	s.waitUntilIdle(m)
	unknown := g.endedAsUnknown()
	g.stop()

	delivered, accepted := m.Ledger().AcceptedByToken(), m.Ledger().AcceptedByID()
	missing, twice, inDoubt := 0, 0, 0
	for _, token := range c.tokens {
		switch times := delivered[token]; {
		case times == 0:
			missing++
		case times > 1:
			twice++
		}
	}
	for id := range unknown {
		if accepted[id] == 0 {
			inDoubt++
		}
	}
	s.expect(fmt.Sprintf("%d kills: keyed calls and lines of send --file", kills), fmt.Sprint(len(c.tokens)), len(c.tokens) > 0 && c.files > 0)
	s.expectZero("failed", len(c.failures))
	for _, failure := range c.failures[:min(len(c.failures), 5)] {
		s.note("%s", failure)
	}
	s.expectZero("delivered twice", twice)
	s.expectZero("missing", max(missing-inDoubt, 0))
	atMost(&s.rowResult, "not delivered, reported as unknown", inDoubt, kills*queueInFlight)
	_, problem := s.runAudit(config)
	s.expect("audit", cmp.Or(problem, "clean"), problem == "")
}

// freeAddress returns a local address below the ephemeral ports, so that it stays free while no gateway
// listens.
func (s *scenario) freeAddress() string {
	for {
		address := fmt.Sprintf("127.0.0.1:%d", 20_000+rand.IntN(10_000))
		l, err := net.Listen("tcp", address)
		if err == nil {
			s.noError(l.Close())
			return address
		}
		s.sleep(time.Millisecond)
	}
}

// keyedCallers are the callers of keyedCalls.
type keyedCallers struct {
	*scenario
	address string
	stopped chan struct{} // closed when no further call starts

	mu       sync.Mutex
	tokens   []string // of all notifications
	files    int      // sent completely
	failures []string
}

func (c *keyedCallers) isStopped() bool {
	select {
	case <-c.stopped:
		return true
	default:
		return false
	}
}

func (c *keyedCallers) fail(format string, args ...any) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.failures = append(c.failures, fmt.Sprintf(format, args...))
}

// newNotification returns a notification with a new token.
func (c *keyedCallers) newNotification() *push.Notification {
	c.mu.Lock()
	defer c.mu.Unlock()
	n := apnsNotification(len(c.tokens))
	n.OnUnknown = push.RepeatNever
	c.tokens = append(c.tokens, n.Token)
	return n
}

// repeatSingles makes one call after the other and repeats each until it has a response that says what
// happened.
func (c *keyedCallers) repeatSingles(caller int, async bool) {
	for call := 0; !c.isStopped(); call++ {
		body := encode(c.newNotification())
		name := fmt.Sprintf("caller-%d-%d", caller, call)
		for began := time.Now(); !c.tryCall(body, name, async); {
			if c.ctx.Err() != nil || c.isStopped() && time.Since(began) > 2*time.Minute {
				c.fail("the call with the key %s got no response", name)
				return
			}
			time.Sleep(20 * time.Millisecond)
		}
	}
}

// tryCall makes a call and reports whether the response is final.
func (c *keyedCallers) tryCall(body []byte, name string, async bool) (final bool) {
	request := c.request(http.MethodPost, "http://"+c.address+notificationsPath(shopApp), body, "Idempotency-Key", name)
	if async {
		request.Header.Set("Prefer", "respond-async")
	}
	ctx, cancel := context.WithTimeout(c.ctx, 30*time.Second)
	defer cancel()
	response, err := c.do(request.WithContext(ctx))
	switch response.code {
	case http.StatusOK, http.StatusAccepted, http.StatusGatewayTimeout: // 504: its result is unknown
		return err == nil
	case 0, http.StatusConflict, http.StatusServiceUnavailable, http.StatusTooManyRequests:
		return false
	default:
		c.fail("status %d: %s", response.code, response.body)
		return true
	}
}

// linesPerFile is what send --file sends in a few seconds.
const linesPerFile = 2000

// sendFiles runs gateway send --file for one file after the other. It must survive the kills.
func (c *keyedCallers) sendFiles() {
	for run := 0; !c.isStopped(); run++ {
		var lines bytes.Buffer
		for range linesPerFile {
			lines.Write(append(encode(c.newNotification()), '\n'))
		}
		name := filepath.Join(c.tempDir, fmt.Sprintf("%s-campaign-%d.ndjson", c.ID, run))
		if err := os.WriteFile(name, lines.Bytes(), 0o600); err != nil {
			c.fail("%v", err)
			return
		}
		send := exec.CommandContext(c.ctx, c.binary, "send", "--url", "http://"+c.address, "--app", shopApp, "--file", name, "--timeout", "2m")
		send.Env = append(os.Environ(), "SLUICE_KEY="+key)
		if output, err := send.CombinedOutput(); err != nil {
			c.fail("send --file: %v: %s", err, output[max(0, len(output)-400):])
			return
		}
		c.mu.Lock()
		c.files++
		c.mu.Unlock()
	}
}

// endedAsUnknown returns the IDs of the notifications that ended as unknown after they were stored in the
// queue or sent. It reads the feed from the oldest event until no event arrives for some seconds.
func (g *gateway) endedAsUnknown() (ids map[string]bool) {
	s := g.scenario
	events := s.openClient(client.Config{Gateways: []string{g.baseURL()}})
	ctx, cancel := context.WithCancel(s.ctx)
	defer cancel()
	idle := time.AfterFunc(5*time.Second, cancel)
	ids = map[string]bool{}
	for e, err := range events.Events(ctx, "oldest", push.StatusUnknown) {
		if err != nil && ctx.Err() == nil {
			s.Fatalf("the events: %v", err)
		}
		if idle.Reset(5 * time.Second); err == nil && e.Receipt != nil && e.Receipt.Reason != push.ReasonNotStored {
			ids[e.ID] = true
		}
	}
	return ids
}
