// SPDX-License-Identifier: Apache-2.0

package api_test

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

	"github.com/sluice-push/sluice/internal/api"
	"github.com/sluice-push/sluice/internal/testwait"
	"github.com/sluice-push/sluice/push"
)

// pipeListener is a listener whose connections are pipes. Unlike network connections, they work
// with synctest.
type pipeListener struct {
	conns chan net.Conn
	once  sync.Once
	shut  chan struct{}
}

func (p *pipeListener) Accept() (net.Conn, error) {
	select {
	case c := <-p.conns:
		return c, nil
	case <-p.shut:
		return nil, net.ErrClosed
	}
}

func (p *pipeListener) Close() error {
	p.once.Do(func() { close(p.shut) })
	return nil
}

func (p *pipeListener) Addr() net.Addr { return &net.UnixAddr{Name: "pipe"} }

// rawConn is a client connection to a server.
type rawConn struct {
	net.Conn
	t  *testing.T
	in *bufio.Reader
}

// serve runs a server until the test ends, and connects to it.
func (ts *testAPI) serve(t *testing.T) *rawConn {
	listener := &pipeListener{conns: make(chan net.Conn), shut: make(chan struct{})}
	server := api.NewServer(ts, api.ConnTimeouts{}, nil)
	var running sync.WaitGroup
	running.Go(func() { _ = server.Serve(listener) })
	client, conn := net.Pipe()
	listener.conns <- conn
	t.Cleanup(func() {
		_, _ = client.Close(), server.Close()
		running.Wait()
	})
	return &rawConn{client, t, bufio.NewReader(client)}
}

func (c *rawConn) write(text string) {
	if _, err := io.WriteString(c, text); err != nil {
		c.t.Errorf("write: %v", err)
	}
}

// startRequest sends the headers of a request. The body is chunked if length is negative.
func (c *rawConn) startRequest(path string, length int, headers ...string) {
	framing := "Transfer-Encoding: chunked"
	if length >= 0 {
		framing = fmt.Sprintf("Content-Length: %d", length)
	}
	c.write(fmt.Sprintf("POST %s HTTP/1.1\r\nHost: gateway\r\nAuthorization: Bearer %s\r\n%s\r\n%s\r\n", path, sendKey, framing,
		strings.Join(append(headers, ""), "\r\n")))
}

func (c *rawConn) writeChunk(text string) { c.write(fmt.Sprintf("%x\r\n%s\r\n", len(text), text)) }

func (c *rawConn) readResponse() *http.Response {
	res, err := http.ReadResponse(c.in, nil)
	if err != nil {
		c.t.Fatal(err)
	}
	return res
}

// withServer runs a test with a client connection, in a synctest bubble.
func withServer(t *testing.T, test func(t *testing.T, ts *testAPI, c *rawConn)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		ts := newTestAPI(t)
		test(t, ts, ts.serve(t))
	})
}

func respondAfter(delay time.Duration) func(context.Context, *push.Notification) push.Receipt {
	return func(ctx context.Context, n *push.Notification) push.Receipt {
		select {
		case <-time.After(delay):
			return accepted(n)
		case <-ctx.Done():
			return push.Receipt{ID: n.ID, Outcome: push.Outcome{Verdict: push.Abandoned}}
		}
	}
}

func TestBodyTimeout(t *testing.T) {
	withServer(t, func(t *testing.T, ts *testAPI, c *rawConn) {
		start := time.Now()
		c.startRequest(singlePath, 100)
		c.write(`{"platform"`)
		if res := c.readResponse(); res.StatusCode != 408 || time.Since(start) != 15*time.Second || ts.count() != 0 {
			t.Errorf("%d after %v", res.StatusCode, time.Since(start))
		}
	})
}

func TestUnauthenticatedClientCannotHoldConnection(t *testing.T) {
	withServer(t, func(t *testing.T, _ *testAPI, c *rawConn) {
		start := time.Now()
		c.write("POST " + singlePath + " HTTP/1.1\r\nHost: gateway\r\nContent-Length: 1000\r\n\r\n")
		res := c.readResponse()
		_, _ = io.Copy(io.Discard, res.Body)
		if _, err := c.in.ReadByte(); err == nil || res.StatusCode != 401 || time.Since(start) > 2*time.Second {
			t.Errorf("%d after %v, %v", res.StatusCode, time.Since(start), err)
		}
	})
}

func TestHeaderAndIdleTimeouts(t *testing.T) {
	withServer(t, func(t *testing.T, _ *testAPI, c *rawConn) {
		start := time.Now()
		c.write("GET /livez HTTP/1.1\r\nHost:")
		if _, err := io.ReadAll(c.in); err != nil || time.Since(start) != 10*time.Second {
			t.Errorf("incomplete header: after %v: %v", time.Since(start), err)
		}
	})
	withServer(t, func(t *testing.T, _ *testAPI, c *rawConn) {
		start := time.Now()
		if _, err := io.ReadAll(c.in); err != nil || time.Since(start) != 10*time.Second {
			t.Errorf("no header: after %v: %v", time.Since(start), err)
		}
	})
	withServer(t, func(t *testing.T, _ *testAPI, c *rawConn) {
		start := time.Now()
		c.write("GET /livez HTTP/1.1\r\nHost: gateway\r\n\r\n")
		if _, err := io.ReadAll(c.in); err != nil || time.Since(start) != 11*time.Minute {
			t.Errorf("idle: after %v: %v", time.Since(start), err)
		}
	})
}

func TestHeaderSizeLimit(t *testing.T) {
	withServer(t, func(t *testing.T, _ *testAPI, c *rawConn) {
		var writing sync.WaitGroup
		defer writing.Wait()
		writing.Go(func() {
			_, _ = io.WriteString(c, "GET /livez HTTP/1.1\r\nHost: gateway\r\nX-Large: "+strings.Repeat("x", 64<<10)+"\r\n\r\n")
		})
		if res := c.readResponse(); res.StatusCode != 431 {
			t.Error(res.StatusCode)
		}
	})
}

func TestSendMayTakeLongerThanBodyTimeout(t *testing.T) {
	for path, media := range map[string]string{singlePath: "application/json", batchPath: "application/x-ndjson"} {
		withServer(t, func(t *testing.T, ts *testAPI, c *rawConn) {
			ts.respond = respondAfter(20 * time.Second)
			for range 2 { // on one connection
				c.startRequest(path, len(validBody), "Content-Type: "+media)
				c.write(validBody)
				res := c.readResponse()
				text, err := io.ReadAll(res.Body)
				if err != nil || res.StatusCode != 200 || !strings.Contains(string(text), `"accepted"`) {
					t.Errorf("%s: %d %s %v", path, res.StatusCode, text, err)
				}
			}
		})
	}
}

func TestSlowBatchIsNotCutOff(t *testing.T) {
	withServer(t, func(t *testing.T, ts *testAPI, c *rawConn) {
		c.startRequest(batchPath, -1, ndjson)
		const items = 500
		var writing sync.WaitGroup
		writing.Go(func() {
			for range items {
				c.writeChunk(validBody + "\n")
				time.Sleep(14 * time.Second)
			}
			c.write("0\r\n\r\n")
		})
		got := receipts(t, c.readResponse().Body)
		writing.Wait() // bounded by the bubble
		if len(got) != items || ts.count() != items {
			t.Errorf("%d receipts", len(got))
		}
	})
}

func TestStalledBatchEndsAfterItemsInFlight(t *testing.T) {
	withServer(t, func(t *testing.T, ts *testAPI, c *rawConn) {
		ts.respond = respondAfter(20 * time.Second)
		start := time.Now()
		c.startRequest(batchPath, -1, ndjson)
		c.writeChunk(validBody + "\n" + `{"half`)
		got := receipts(t, c.readResponse().Body)
		if len(got) != 2 || got[0].Status != "accepted" || got[1].Reason != "BodyTimeout" || time.Since(start) > 21*time.Second {
			t.Errorf("after %v: %+v", time.Since(start), got)
		}
	})
}

func TestClientThatDoesNotReadReceiptsIsDisconnected(t *testing.T) {
	withServer(t, func(t *testing.T, ts *testAPI, c *rawConn) {
		var mu sync.Mutex
		verdicts := map[push.Verdict]int{}
		ts.respond = func(ctx context.Context, n *push.Notification) push.Receipt {
			wait := time.Second
			if n.Title == "slow" {
				wait = time.Hour
			}
			r := respondAfter(wait)(ctx, n)
			mu.Lock()
			defer mu.Unlock()
			verdicts[r.Verdict]++
			return r
		}
		c.startRequest(batchPath, -1, ndjson)
		c.writeChunk(validBody + "\n" + `{"platform":"apns","token":"00","title":"slow"}` + "\n")
		c.write("0\r\n\r\n")
		time.Sleep(32 * time.Second)
		mu.Lock()
		defer mu.Unlock()
		if verdicts[push.Accepted] != 1 || verdicts[push.Abandoned] != 1 {
			t.Errorf("%v", verdicts)
		}
	})
}

func TestDisconnectCancelsItemsInFlight(t *testing.T) {
	for name, body := range map[string]string{"before the end of the body": "", "after the end of the body": "0\r\n\r\n"} {
		withServer(t, func(t *testing.T, ts *testAPI, c *rawConn) {
			verdicts := make(chan push.Verdict, 1)
			ts.respond = func(ctx context.Context, n *push.Notification) push.Receipt {
				r := respondAfter(time.Hour)(ctx, n)
				verdicts <- r.Verdict
				return r
			}
			start := time.Now()
			c.startRequest(batchPath, -1, ndjson)
			c.writeChunk(validBody + "\n")
			c.write(body)
			synctest.Wait()
			if err := c.Close(); err != nil {
				t.Error(err)
			}
			if verdict := testwait.For(t, verdicts, "a verdict"); verdict != push.Abandoned || time.Since(start) != 0 {
				t.Errorf("%s: %v after %v", name, verdict, time.Since(start))
			}
		})
	}
}

// TestDisconnectLetsAttemptEnd disconnects while an attempt is in flight. The waits of the send end
// immediately, and the attempt may go on until the send timeout.
func TestDisconnectLetsAttemptEnd(t *testing.T) {
	for name, start := range map[string]func(c *rawConn){
		"single": func(c *rawConn) {
			c.startRequest(singlePath, len(validBody))
			c.write(validBody)
		},
		"batch": func(c *rawConn) {
			c.startRequest(batchPath, -1, ndjson)
			c.writeChunk(validBody + "\n")
		},
	} {
		withServer(t, func(t *testing.T, ts *testAPI, c *rawConn) {
			type times struct{ waits, attempt time.Duration }
			ended := make(chan times, 1)
			began := time.Now()
			ts.respond = func(ctx context.Context, n *push.Notification) push.Receipt {
				var at times
				<-ctx.Done()
				at.waits = time.Since(began)
				<-push.AttemptContext(ctx).Done()
				at.attempt = time.Since(began)
				ended <- at
				return accepted(n)
			}
			start(c)
			synctest.Wait()
			time.Sleep(time.Second)
			if err := c.Close(); err != nil {
				t.Error(err)
			}
			if got := testwait.For(t, ended, "the end of the send"); got != (times{time.Second, 25 * time.Second}) {
				t.Errorf("%s: the waits ended after %v, the attempt after %v", name, got.waits, got.attempt)
			}
		})
	}
}

// TestIdleConnectionOutlivesLoadBalancer uses a connection after an idle time as long as that of
// common load balancers, which keep connections for the next request of any client.
func TestIdleConnectionOutlivesLoadBalancer(t *testing.T) {
	withServer(t, func(t *testing.T, _ *testAPI, c *rawConn) {
		for range 3 {
			c.write("GET /livez HTTP/1.1\r\nHost: gateway\r\n\r\n")
			res := c.readResponse()
			if _, err := io.Copy(io.Discard, res.Body); err != nil || res.StatusCode != http.StatusOK {
				t.Error(res.Status, err)
			}
			time.Sleep(10*time.Minute + 30*time.Second)
		}
	})
}

// TestUnauthorizedBodiesDoNotHoldConnection sends requests that nothing authorizes, whose bodies do
// not arrive.
func TestUnauthorizedBodiesDoNotHoldConnection(t *testing.T) {
	for request, status := range map[string]int{
		"POST " + singlePath:           401,
		"POST " + batchPath:            401,
		"GET /livez":                   200,
		"POST /livez":                  405,
		"POST /":                       404,
		"GET " + feedPath:              401,
		"DELETE " + singlePath + "/id": 401,
	} {
		withServer(t, func(t *testing.T, _ *testAPI, c *rawConn) {
			start := time.Now()
			c.write(request + " HTTP/1.1\r\nHost: gateway\r\nContent-Length: 1000\r\n\r\n")
			res := c.readResponse()
			_, _ = io.Copy(io.Discard, res.Body)
			if _, err := c.in.ReadByte(); err == nil || res.StatusCode != status || time.Since(start) > 2*time.Second {
				t.Errorf("%s: %d after %v, %v", request, res.StatusCode, time.Since(start), err)
			}
		})
	}
}
