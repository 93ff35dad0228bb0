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
	"github.com/sluice-push/sluice/mockprovider"
	"github.com/sluice-push/sluice/push"
)

const (
	sharedKeysReport = `max=60, keys="k"`
	throttledNotSent = `{"type":"https://sluice-push.github.io/problems/throttled","status":429,"receipt":{"status":"throttled","attempts":[]}}`
	expiredBody      = `{"id":"1","status":"expired","attempts":[]}`
)

// scriptedResponse is what a gateway answers; hangUp breaks the connection.
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

// TestHedgeReturnsFirstVerdict has the first gateway answer only once the second has been asked, and where
// the first is to be heard first, the second only once the first has answered.
func TestHedgeReturnsFirstVerdict(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		name          string
		first, second scriptedResponse
		verdict       push.Verdict
	}{
		{"the first is lost, and the second knows", abortResponse, scriptedResponse{200, acceptedBody}, push.Accepted},
		{"the first sent nothing, and the second did", scriptedResponse{429, throttledNotSent}, scriptedResponse{200, acceptedBody}, push.Accepted},
		{"the first was too late, and the second was not", scriptedResponse{200, expiredBody}, scriptedResponse{200, acceptedBody}, push.Accepted},
		{"the first knows, and the second is lost", scriptedResponse{200, acceptedBody}, abortResponse, push.Accepted},
		{"the first knows, and the second sent nothing", scriptedResponse{200, acceptedBody}, scriptedResponse{429, throttledNotSent}, push.Accepted},
		{"neither sent anything", scriptedResponse{429, throttledNotSent}, scriptedResponse{429, throttledNotSent}, push.Throttled},
		{"the second sent nothing, and the first may have", abortResponse, scriptedResponse{429, throttledNotSent}, push.Unknown},
		{"the first sent nothing, and the second may have", scriptedResponse{429, throttledNotSent}, abortResponse, push.Unknown},
		{"the first sent nothing, and the second cannot tell", scriptedResponse{429, throttledNotSent}, scriptedResponse{504, unknownBody}, push.Unknown},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			var asked atomic.Int32
			var keys sync.Map
			both := make(chan struct{})
			gateway := func(w http.ResponseWriter, r *http.Request) {
				w.Header().Set("Sluice-Gateway", sharedKeysReport)
				keys.Store(r.Header.Get("Idempotency-Key"), true)
				if asked.Add(1) == 1 {
					<-both
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
			if count != 1 || asked.Load() != 2 {
				t.Errorf("%d gateways were asked, with %d keys", asked.Load(), count)
			}
		})
	}
}

// newSharingClient opens a client of played gateways, and has it hear their signals.
func newSharingClient(t *testing.T, cfg client.Config, gateways ...http.HandlerFunc) *client.Client {
	t.Helper()
	var urls []string
	for _, g := range gateways {
		urls = append(urls, fakeGatewayWithReport(t, sharedKeysReport, g))
	}
	tn := &testEnv{t: t, key: "slk_test"}
	cfg.Timeout = 10 * time.Minute // a busy machine is no reason
	c := tn.newClient(cfg, urls...)
	waitConnected(c, len(urls))
	return c
}

func TestHedgeCancelsSlowerCall(t *testing.T) {
	t.Parallel()
	left, first := make(chan struct{}), make(chan struct{}, 1)
	first <- struct{}{}
	gateway := func(w http.ResponseWriter, r *http.Request) {
		select {
		case <-first:
			<-r.Context().Done()
			close(left)
		default:
			_, _ = io.WriteString(w, acceptedBody)
		}
	}
	c := newSharingClient(t, client.Config{HedgeAfter: time.Millisecond}, gateway, gateway)
	if _, err := c.Send(t.Context(), testNotification(1)); err != nil {
		t.Error(err)
	}
	<-left
}

func TestHedgeBudget(t *testing.T) {
	t.Parallel()
	const n = 60
	for _, c := range []struct {
		name  string
		told  string // by the second gateway; the first says keys="k"
		ratio float64
		floor float64
	}{
		{"they share their keys", `keys="k"`, 0.05, 0.1},
		{"each has others", `keys="m"`, 0, 0},
		{"the other tells nothing", "max=600", 0, 0},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			var asked atomic.Int32
			gateway := func(w http.ResponseWriter, _ *http.Request) {
				asked.Add(1)
				time.Sleep(2 * time.Millisecond) // longer than HedgeAfter, most of the time
				_, _ = io.WriteString(w, acceptedBody)
			}
			tn := &testEnv{t: t, key: "slk_test"}
			cl := tn.newClient(client.Config{HedgeAfter: time.Millisecond, Timeout: 10 * time.Minute}, fakeGatewayWithReport(t, `keys="k"`, gateway), fakeGatewayWithReport(t, c.told, gateway))
			waitConnected(cl, 2)
			began := time.Now()
			for i := range n {
				if _, err := cl.Send(t.Context(), testNotification(i)); err != nil {
					t.Fatal(err)
				}
			}
			granted := c.ratio*n + c.floor*(time.Since(began)+10*time.Second).Seconds()
			if more := asked.Load() - n; float64(more) > granted {
				t.Errorf("%d were asked twice, of %d, and %.1f may be", more, n, granted)
			}
		})
	}
}

// TestHedgedSendReachesProviderOnce has two gateways of one cluster, a third of whose calls take far longer than HedgeAfter, and
// one of which then cannot be heard by its callers, while it lives on.
func TestHedgedSendReachesProviderOnce(t *testing.T) {
	t.Parallel()
	const n = 40
	tn := newTestEnv(t, mockprovider.Config{Script: mockprovider.Script{Faults: []mockprovider.Fault{
		{Service: mockprovider.APNs, Delay: 20 * time.Millisecond, Share: 0.3},
	}}})
	shared := fmt.Sprintf("queue: {nats: {url: '%s', replicas: 1}}\n", jetstreamtest.StartServer(t))
	cable := newTestProxy(t, tn.startGateway(anyPort, shared+"zone: a\n").address)
	urls := []string{cable.url(), tn.startGateway(anyPort, shared+"zone: b\n").url()}
	far, near := tn.newClient(client.Config{HedgeAfter: time.Millisecond}, urls...), tn.newClient(client.Config{HedgeAfter: time.Millisecond, Zone: "a"}, urls...)
	waitConnected(far, 2)
	waitConnected(near, 2)
	var told [n + 1]push.Verdict
	send := func(c *client.Client, i int) {
		receipt, err := c.Send(t.Context(), testNotification(i))
		if told[i] = receipt.Verdict; err != nil {
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
	sending.Wait()
	cable.freeze()
	send(near, n) // asks the one that cannot be heard, and then the other
	requests, _ := tn.counts()
	for i, verdict := range told {
		if got := requests[token(i)]; got > 1 || verdict == push.Accepted && got != 1 {
			t.Errorf("notification %d: its end is %s, and the service got %d requests", i, verdict, got)
		}
	}
}
