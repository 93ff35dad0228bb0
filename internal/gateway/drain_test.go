// SPDX-License-Identifier: Apache-2.0

package gateway_test

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/sluice-push/sluice/internal/gateway"
	"github.com/sluice-push/sluice/internal/testwait"
	"github.com/sluice-push/sluice/mockprovider"
)

// slowAPNs returns a mock whose APNs delays every response.
func slowAPNs(d time.Duration) mockprovider.Config {
	return mockprovider.Config{Script: mockprovider.Script{Faults: []mockprovider.Fault{{Service: mockprovider.APNs, Delay: d}}}}
}

// inFlight returns the number of attempts that wait for the provider.
func (h testGateway) inFlight() (n int) {
	for _, s := range h.gw.Status().Services {
		n += s.Pool.InFlight
	}
	return n
}

func TestShutdownCompletesRequestsInFlight(t *testing.T) {
	const n = 100
	s := newMockEnv(t, slowAPNs(300*time.Millisecond))
	h := s.start(t, listenConfig+slowTimeouts+"drain: {grace: 10m}\napps:\n"+s.appBlock("shop", s.apnsBlock()))
	var sending sync.WaitGroup
	var responded atomic.Int64
	for range n {
		sending.Go(func() {
			defer responded.Add(1)
			if status, receipt := h.post("shop", apnsNotification(deviceToken)); status != 200 || receipt["status"] != "accepted" {
				t.Errorf("%d %v", status, receipt)
			}
		})
	}
	testwait.Until(t, func() bool { return int(responded.Load())+h.inFlight() >= n }, "all requests are in flight")
	if err := h.stop(); err != nil {
		t.Error(err)
	}
	testwait.Call(t, sending.Wait, "the end of all sends")
}

func TestDrainingGatewayIsNotReadyBeforeItStopsListening(t *testing.T) {
	for delay := 300 * time.Millisecond; ; delay *= 2 {
		wrong, inTime := probeDrain(t, delay)
		if inTime || delay > 30*time.Second {
			for _, problem := range wrong {
				t.Error(problem)
			}
			return
		}
	}
}

// probeDrain sends requests to a draining gateway with a drain.delay. It returns what is wrong, and
// whether all requests were sent within the delay.
func probeDrain(t *testing.T, delay time.Duration) (wrong []string, inTime bool) {
	s := newMockEnv(t)
	h := s.start(t, listenConfig+fmt.Sprintf("drain: {delay: %s}\napps:\n", delay)+s.appBlock("shop", s.apnsBlock()))
	h.post("shop", apnsNotification(deviceToken))
	if status, text := h.get(h.url + "/readyz"); status != 200 {
		t.Fatalf("%d %s", status, text)
	}
	expect := func(ok bool, format string, args ...any) {
		if !ok {
			wrong = append(wrong, fmt.Sprintf(format, args...))
		}
	}
	call := func(method, path, body string) (status int, text string, closes bool) {
		request, err := http.NewRequest(method, h.url+path, strings.NewReader(body))
		if err != nil {
			t.Fatal(err)
		}
		request.Header.Set("Authorization", "Bearer "+h.key)
		response, err := http.DefaultClient.Do(request)
		if err != nil {
			return 0, err.Error(), false
		}
		defer response.Body.Close()
		read, _ := io.ReadAll(response.Body)
		return response.StatusCode, string(read), response.Close
	}
	started, ended := time.Now(), make(chan error, 1)
	go func() { ended <- h.stop() }()
	testwait.Until(t, func() bool { return h.gw.Status().Draining }, "the gateway drains")
	status, text, _ := call("GET", "/readyz", "")
	expect(status == 503 && strings.Contains(text, "draining"), "readyz: %d %s", status, text)
	status, text, _ = call("POST", "/v1/apps/shop/notifications", apnsNotification(deviceToken))
	expect(status == 200, "a late request: %d %s", status, text)
	status, text, closes := call("GET", "/livez", "")
	expect(status == 200 && closes, "the response does not close the connection: %d %s", status, text)
	inTime = time.Since(started) < delay
	if err := testwait.For(t, ended, "the end"); err != nil {
		t.Error(err)
	}
	return wrong, inTime
}

func TestRequestPastDrainGraceIsAborted(t *testing.T) {
	s := newMockEnv(t, slowAPNs(time.Minute))
	cfg := parse(t, listenConfig+"drain: {grace: 100ms}\nretry: {attempt_timeout: 2m}\napps:\n"+s.appBlock("shop", s.apnsBlock()))
	g, err := gateway.New(cfg, nil)
	if err != nil {
		t.Fatal(err)
	}
	if err := g.Listen(); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- g.Run(ctx) }()
	h := testGateway{t: t, key: s.key, url: "http://" + g.Addr().String(), gw: g}
	result := make(chan error, 1)
	go func() {
		request, _ := http.NewRequest(http.MethodPost, h.url+"/v1/apps/shop/notifications", strings.NewReader(apnsNotification(deviceToken)))
		request.Header.Set("Authorization", "Bearer "+s.key)
		response, err := http.DefaultClient.Do(request)
		if err == nil {
			err = response.Body.Close()
		}
		result <- err
	}()
	testwait.Until(t, func() bool { return h.inFlight() == 1 }, "the request is in flight")
	cancel()
	if err := testwait.For(t, ended, "the end"); err == nil || !strings.Contains(err.Error(), "requests aborted after 100ms (raise drain.grace)") {
		t.Errorf("Run: %v", err)
	}
	if err := testwait.For(t, result, "result"); err == nil {
		t.Error("the request was completed, not aborted")
	}
	http.DefaultClient.CloseIdleConnections()
}
