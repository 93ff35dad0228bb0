// SPDX-License-Identifier: Apache-2.0

package client_test

import (
	"fmt"
	"io"
	"net/http"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/sluice-push/sluice/client"
	"github.com/sluice-push/sluice/internal/jetstream/jetstreamtest"
	"github.com/sluice-push/sluice/internal/testwait"
	"github.com/sluice-push/sluice/mockprovider"
	"github.com/sluice-push/sluice/push"
)

const (
	sharedKeysReport = `max=60, keys="k"`
	throttledNotSent = `{"type":"https://sluice-push.github.io/problems/throttled","status":429,"receipt":{"status":"throttled","attempts":[]}}`
	expiredBody      = `{"id":"1","status":"expired","attempts":[]}`
)

// scriptedResponse is the response of a fake gateway. abortResponse breaks the connection instead.
type scriptedResponse struct {
	status int
	body   string
}

var abortResponse = scriptedResponse{}

func (s scriptedResponse) write(w http.ResponseWriter) {
	if s == abortResponse {
		panic(http.ErrAbortHandler)
	}
	w.WriteHeader(s.status)
	_, _ = io.WriteString(w, s.body)
}

// In TestHedgeReturnsFirstVerdict, the first gateway responds only after the second one has
// received the request.
func TestHedgeReturnsFirstVerdict(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		name          string
		first, second scriptedResponse
		verdict       push.Verdict
	}{
		{"first lost, second accepted", abortResponse, scriptedResponse{200, acceptedBody}, push.Accepted},
		{"first sent nothing, second accepted", scriptedResponse{429, throttledNotSent}, scriptedResponse{200, acceptedBody}, push.Accepted},
		{"first expired, second accepted", scriptedResponse{200, expiredBody}, scriptedResponse{200, acceptedBody}, push.Accepted},
		{"first accepted, second lost", scriptedResponse{200, acceptedBody}, abortResponse, push.Accepted},
		{"first accepted, second sent nothing", scriptedResponse{200, acceptedBody}, scriptedResponse{429, throttledNotSent}, push.Accepted},
		{"neither sent anything", scriptedResponse{429, throttledNotSent}, scriptedResponse{429, throttledNotSent}, push.Throttled},
		{"first lost, second sent nothing", abortResponse, scriptedResponse{429, throttledNotSent}, push.Unknown},
		{"first sent nothing, second lost", scriptedResponse{429, throttledNotSent}, abortResponse, push.Unknown},
		{"first sent nothing, second unknown", scriptedResponse{429, throttledNotSent}, scriptedResponse{504, unknownBody}, push.Unknown},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			var requests atomic.Int32
			var keys sync.Map
			both := make(chan struct{})
			gateway := func(w http.ResponseWriter, r *http.Request) {
				w.Header().Set("Sluice-Gateway", sharedKeysReport)
				keys.Store(r.Header.Get("Idempotency-Key"), true)
				if requests.Add(1) == 1 {
					testwait.For(t, both, "both calls")
					c.first.write(w)
					return
				}
				close(both)
				c.second.write(w)
			}
			cl := newSharingClient(t, client.Config{HedgeAfter: time.Millisecond, Attempts: 1}, gateway, gateway)
			n := testNotification(1)
			n.OnUnknown = push.RepeatNever
			receipt, err := cl.Send(t.Context(), n)
			if receipt.Verdict != c.verdict || (err == nil) != (c.verdict == push.Accepted) {
				t.Errorf("%+v %v", receipt, err)
			}
			count := 0
			keys.Range(func(key, _ any) bool { count++; return key != "" })
			if count != 1 || requests.Load() != 2 {
				t.Errorf("%d gateways got the request, with %d keys", requests.Load(), count)
			}
		})
	}
}

// newSharingClient returns a client of fake gateways that share their keys.
func newSharingClient(t *testing.T, cfg client.Config, gateways ...http.HandlerFunc) *client.Client {
	t.Helper()
	var urls []string
	for _, g := range gateways {
		urls = append(urls, fakeGatewayWithReport(t, sharedKeysReport, g))
	}
	env := &testEnv{t: t, key: "slk_test"}
	cfg.Timeout = 10 * time.Minute // a busy machine must not cause timeouts
	c := env.newClient(cfg, urls...)
	waitConnected(c, len(urls))
	return c
}

func TestHedgeCancelsSlowerCall(t *testing.T) {
	t.Parallel()
	canceled, first := make(chan struct{}), make(chan struct{}, 1)
	first <- struct{}{}
	gateway := func(w http.ResponseWriter, r *http.Request) {
		select {
		case <-first:
			<-r.Context().Done()
			close(canceled)
		default:
			_, _ = io.WriteString(w, acceptedBody)
		}
	}
	c := newSharingClient(t, client.Config{HedgeAfter: time.Millisecond}, gateway, gateway)
	if _, err := c.Send(t.Context(), testNotification(1)); err != nil {
		t.Error(err)
	}
	testwait.For(t, canceled, "the cancellation")
}

func TestHedgeBudget(t *testing.T) {
	t.Parallel()
	const n = 60
	for _, c := range []struct {
		name   string
		report string // of the second gateway; the first reports keys="k"
		ratio  float64
		floor  float64
	}{
		{"shared keys", `keys="k"`, 0.05, 0.1},
		{"different keys", `keys="m"`, 0, 0},
		{"the second reports no keys", "max=600", 0, 0},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			var requests atomic.Int32
			gateway := func(w http.ResponseWriter, _ *http.Request) {
				requests.Add(1)
				time.Sleep(2 * time.Millisecond) // usually longer than HedgeAfter
				_, _ = io.WriteString(w, acceptedBody)
			}
			env := &testEnv{t: t, key: "slk_test"}
			cl := env.newClient(client.Config{HedgeAfter: time.Millisecond, Timeout: 10 * time.Minute}, fakeGatewayWithReport(t, `keys="k"`, gateway), fakeGatewayWithReport(t, c.report, gateway))
			waitConnected(cl, 2)
			start := time.Now()
			for i := range n {
				if _, err := cl.Send(t.Context(), testNotification(i)); err != nil {
					t.Fatal(err)
				}
			}
			granted := c.ratio*n + c.floor*(time.Since(start)+10*time.Second).Seconds()
			if hedged := requests.Load() - n; float64(hedged) > granted {
				t.Errorf("%d of %d sends were hedged, the budget allows %.1f", hedged, n, granted)
			}
		})
	}
}

// TestHedgedSendReachesProviderOnce has two gateways of a cluster. A third of the calls take much
// longer than HedgeAfter. Later one gateway runs, but its clients do not receive its responses.
func TestHedgedSendReachesProviderOnce(t *testing.T) {
	t.Parallel()
	const n = 40
	env := newTestEnv(t, mockprovider.Config{Script: mockprovider.Script{Faults: []mockprovider.Fault{
		{Service: mockprovider.APNs, Delay: 20 * time.Millisecond, Share: 0.3},
	}}})
	shared := fmt.Sprintf("queue: {nats: {url: '%s', replicas: 1}}\n", jetstreamtest.StartServer(t))
	proxy := newTestProxy(t, env.startGateway(anyPort, shared+"zone: a\n").address)
	urls := []string{proxy.url(), env.startGateway(anyPort, shared+"zone: b\n").url()}
	far, near := env.newClient(client.Config{HedgeAfter: time.Millisecond}, urls...), env.newClient(client.Config{HedgeAfter: time.Millisecond, Zone: "a"}, urls...)
	waitConnected(far, 2)
	waitConnected(near, 2)
	var verdicts [n + 1]push.Verdict
	send := func(c *client.Client, i int) {
		receipt, err := c.Send(t.Context(), testNotification(i))
		if verdicts[i] = receipt.Verdict; err != nil {
			t.Log(err) // on a busy machine there may be no verdict
		}
	}
	var sending sync.WaitGroup
	for caller := range 4 {
		sending.Go(func() {
			for i := caller; i < n; i += 4 {
				send(far, i)
			}
		})
	}
	testwait.Call(t, sending.Wait, "the end of all sends")
	proxy.freeze()
	send(near, n) // tries the unreachable gateway, and then the other one
	requests, _ := env.counts()
	for i, verdict := range verdicts {
		if got := requests[token(i)]; got > 1 || verdict == push.Accepted && got != 1 {
			t.Errorf("notification %d: verdict %s, but the provider got %d requests", i, verdict, got)
		}
	}
}
