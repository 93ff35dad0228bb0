// SPDX-License-Identifier: Apache-2.0

package rest_test

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/sluice-push/sluice/push"
	"github.com/sluice-push/sluice/rest"
)

// pipes is a listener whose connections need no network, so that they keep to the bubble's time.
type pipes struct {
	conns chan net.Conn
	once  sync.Once
	shut  chan struct{}
}

func (p *pipes) Accept() (net.Conn, error) {
	select {
	case c := <-p.conns:
		return c, nil
	case <-p.shut:
		return nil, net.ErrClosed
	}
}

func (p *pipes) Close() error {
	p.once.Do(func() { close(p.shut) })
	return nil
}

func (p *pipes) Addr() net.Addr { return &net.UnixAddr{Name: "pipe"} }

// caller is one connection to a served door.
type caller struct {
	net.Conn
	t  *testing.T
	in *bufio.Reader
}

// serve runs the door's server until the test ends, and connects.
func (d *door) serve(t *testing.T) *caller {
	listener := &pipes{conns: make(chan net.Conn), shut: make(chan struct{})}
	server := rest.Server(d, nil)
	var running sync.WaitGroup
	running.Go(func() { _ = server.Serve(listener) })
	ours, theirs := net.Pipe()
	listener.conns <- theirs
	t.Cleanup(func() {
		_, _ = ours.Close(), server.Close()
		running.Wait()
	})
	return &caller{ours, t, bufio.NewReader(ours)}
}

func (c *caller) say(text string) {
	if _, err := io.WriteString(c, text); err != nil {
		c.t.Errorf("the server does not listen: %v", err)
	}
}

// head begins a request whose body is of the given length, or chunked if that is negative.
func (c *caller) head(path string, length int, headers ...string) {
	framing := "Transfer-Encoding: chunked"
	if length >= 0 {
		framing = fmt.Sprintf("Content-Length: %d", length)
	}
	c.say(fmt.Sprintf("POST %s HTTP/1.1\r\nHost: gateway\r\nAuthorization: Bearer %s\r\n%s\r\n%s\r\n", path, sendKey, framing,
		strings.Join(append(headers, ""), "\r\n")))
}

func (c *caller) chunk(text string) { c.say(fmt.Sprintf("%x\r\n%s\r\n", len(text), text)) }

func (c *caller) answer() *http.Response {
	answer, err := http.ReadResponse(c.in, nil)
	if err != nil {
		c.t.Fatal(err)
	}
	return answer
}

// served runs a test with a caller, on the bubble's time.
func served(t *testing.T, test func(t *testing.T, d *door, c *caller)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		d := open(t)
		test(t, d, d.serve(t))
	})
}

func slowly(d time.Duration) func(context.Context, *push.Notification) push.Receipt {
	return func(ctx context.Context, n *push.Notification) push.Receipt {
		select {
		case <-time.After(d):
			return accepted(n)
		case <-ctx.Done():
			return push.Receipt{ID: n.ID, Outcome: push.Outcome{Verdict: push.Abandoned}}
		}
	}
}

func TestABodyThatDoesNotComeIsNotWaitedForLong(t *testing.T) {
	served(t, func(t *testing.T, d *door, c *caller) {
		start := time.Now()
		c.head(single, 100)
		c.say(`{"platform"`)
		if answer := c.answer(); answer.StatusCode != 408 || time.Since(start) != 15*time.Second || d.count() != 0 {
			t.Errorf("%d after %v", answer.StatusCode, time.Since(start))
		}
	})
}

func TestACallerWithoutAKeyCannotHoldAConnectionOpen(t *testing.T) {
	served(t, func(t *testing.T, _ *door, c *caller) {
		start := time.Now()
		c.say("POST " + single + " HTTP/1.1\r\nHost: gateway\r\nContent-Length: 1000\r\n\r\n")
		answer := c.answer()
		_, _ = io.Copy(io.Discard, answer.Body)
		if _, err := c.in.ReadByte(); err == nil || answer.StatusCode != 401 || time.Since(start) > 16*time.Second {
			t.Errorf("%d after %v, %v", answer.StatusCode, time.Since(start), err)
		}
	})
}

func TestHeadersThatDoNotComeAndIdleConnectionsEnd(t *testing.T) {
	served(t, func(t *testing.T, _ *door, c *caller) {
		start := time.Now()
		c.say("GET /livez HTTP/1.1\r\nHost:")
		if _, err := io.ReadAll(c.in); err != nil || time.Since(start) != 2*time.Minute {
			t.Errorf("after %v: %v", time.Since(start), err)
		}
	})
	served(t, func(t *testing.T, _ *door, c *caller) {
		start := time.Now()
		c.say("GET /livez HTTP/1.1\r\nHost: gateway\r\n\r\n")
		if _, err := io.ReadAll(c.in); err != nil || time.Since(start) != 2*time.Minute {
			t.Errorf("after %v: %v", time.Since(start), err)
		}
	})
}

func TestHeadersThatAreTooLargeAreRefused(t *testing.T) {
	served(t, func(t *testing.T, _ *door, c *caller) {
		var writing sync.WaitGroup
		defer writing.Wait()
		writing.Go(func() {
			_, _ = io.WriteString(c, "GET /livez HTTP/1.1\r\nHost: gateway\r\nX-Large: "+strings.Repeat("x", 64<<10)+"\r\n\r\n")
		})
		if answer := c.answer(); answer.StatusCode != 431 {
			t.Error(answer.StatusCode)
		}
	})
}

func TestAVerdictMayTakeLongerThanABodyMay(t *testing.T) {
	for path, media := range map[string]string{single: "application/json", batch: "application/x-ndjson"} {
		served(t, func(t *testing.T, d *door, c *caller) {
			d.play = slowly(20 * time.Second)
			for range 2 { // on one connection
				c.head(path, len(good), "Content-Type: "+media)
				c.say(good)
				answer := c.answer()
				text, err := io.ReadAll(answer.Body)
				if err != nil || answer.StatusCode != 200 || !strings.Contains(string(text), `"accepted"`) {
					t.Errorf("%s: %d %s %v", path, answer.StatusCode, text, err)
				}
			}
		})
	}
}

func TestABatchMayGoOnForHoursIfItDoesNotStandStill(t *testing.T) {
	served(t, func(t *testing.T, d *door, c *caller) {
		c.head(batch, -1, ndjson)
		const items = 500
		var writing sync.WaitGroup
		writing.Go(func() {
			for range items {
				c.chunk(good + "\n")
				time.Sleep(14 * time.Second)
			}
			c.say("0\r\n\r\n")
		})
		got := receipts(t, c.answer().Body)
		writing.Wait()
		if len(got) != items || d.count() != items {
			t.Errorf("%d receipts", len(got))
		}
	})
}

func TestABatchThatStandsStillEndsButNotWhatIsInFlight(t *testing.T) {
	served(t, func(t *testing.T, d *door, c *caller) {
		d.play = slowly(20 * time.Second)
		start := time.Now()
		c.head(batch, -1, ndjson)
		c.chunk(good + "\n" + `{"half`)
		got := receipts(t, c.answer().Body)
		if len(got) != 2 || got[0].Status != "accepted" || got[1].Reason != "BodyTimeout" || time.Since(start) > 21*time.Second {
			t.Errorf("after %v: %+v", time.Since(start), got)
		}
	})
}

func TestACallerWhoTakesNoReceiptsIsCutOff(t *testing.T) {
	served(t, func(t *testing.T, d *door, c *caller) {
		var mu sync.Mutex
		verdicts := map[push.Verdict]int{}
		d.play = func(ctx context.Context, n *push.Notification) push.Receipt {
			wait := time.Second
			if n.Title == "slow" {
				wait = time.Hour
			}
			r := slowly(wait)(ctx, n)
			mu.Lock()
			defer mu.Unlock()
			verdicts[r.Verdict]++
			return r
		}
		c.head(batch, -1, ndjson)
		c.chunk(good + "\n" + `{"platform":"apns","token":"00","title":"slow"}` + "\n")
		c.say("0\r\n\r\n")
		time.Sleep(32 * time.Second)
		mu.Lock()
		defer mu.Unlock()
		if verdicts[push.Accepted] != 1 || verdicts[push.Abandoned] != 1 {
			t.Errorf("%v", verdicts)
		}
	})
}

func TestACallerWhoHangsUpEndsWhatIsInFlight(t *testing.T) {
	for name, body := range map[string]string{"in the middle": "", "behind its last notification": "0\r\n\r\n"} {
		served(t, func(t *testing.T, d *door, c *caller) {
			ended := make(chan push.Verdict, 1)
			d.play = func(ctx context.Context, n *push.Notification) push.Receipt {
				r := slowly(time.Hour)(ctx, n)
				ended <- r.Verdict
				return r
			}
			start := time.Now()
			c.head(batch, -1, ndjson)
			c.chunk(good + "\n")
			c.say(body)
			synctest.Wait()
			if err := c.Close(); err != nil {
				t.Error(err)
			}
			if verdict := <-ended; verdict != push.Abandoned || time.Since(start) != 0 {
				t.Errorf("%s: %v after %v", name, verdict, time.Since(start))
			}
		})
	}
}

func TestAConnectionToSpareServesItsFirstRequestLate(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := open(t).serve(t)
		time.Sleep(90 * time.Second) // as long as Go's clients keep one
		c.say("GET /livez HTTP/1.1\r\nHost: gateway\r\n\r\n")
		if answer := c.answer(); answer.StatusCode != http.StatusOK {
			t.Error(answer.Status)
		}
	})
}
