// SPDX-License-Identifier: Apache-2.0

package scorecard

import (
	"context"
	"encoding/json"
	"fmt"
	"time"

	"github.com/sluice-push/sluice/internal/load"
	"github.com/sluice-push/sluice/mockprovider"
	"github.com/sluice-push/sluice/push"
)

// Default parameters of the load and the pool.
const (
	loadRate         = 2000.0 // notifications per second
	poolSize         = 8      // endpoints in the pool
	spareEndpoints   = 2      // additional addresses of the service
	deliveryDeadline = 10 * time.Second

	beforeFault   = 17 * time.Second // includes warmUp, which is not counted
	warmUp        = 2 * time.Second
	faultDuration = 25 * time.Second
)

// healthyResponse is the response time of a healthy service: log-normal, median 50 ms, 99th
// percentile 200 ms.
var healthyResponse = mockprovider.Fault{Service: mockprovider.APNs, Delay: 50 * time.Millisecond, P99: 200 * time.Millisecond}

// startMock starts mock services, by default with healthy responses.
func (s *scenario) startMock(cfg mockprovider.Config) *mockprovider.Mock {
	if len(cfg.Script.Faults) == 0 {
		cfg.Script = script(healthyResponse)
	}
	return mockprovider.Start(s, cfg)
}

func script(faults ...mockprovider.Fault) mockprovider.Script {
	return mockprovider.Script{Faults: faults}
}

// playFaults replaces the fault script and returns the time.
func (s *scenario) playFaults(m *mockprovider.Mock, faults ...mockprovider.Fault) time.Time {
	start := time.Now()
	s.noError(m.SetScript(script(faults...)))
	return start
}

// injectFaults starts faults and returns the time. Requests without a fault get healthy responses.
func (s *scenario) injectFaults(m *mockprovider.Mock, faults ...mockprovider.Fault) time.Time {
	return s.playFaults(m, append(faults, healthyResponse)...)
}

// apnsNotification returns an APNs notification to device i.
func apnsNotification(i int) *push.Notification {
	return &push.Notification{Platform: push.APNs, Target: push.Target{Token: fmt.Sprintf("5a%062x", i)}, Title: "Your parcel is on its way"}
}

// repeatableNotification is apnsNotification with on_unknown set to always: an attempt with an
// unknown result is repeated.
func repeatableNotification(i int) *push.Notification {
	n := apnsNotification(i)
	n.OnUnknown = push.RepeatAlways
	return n
}

func fcmNotification(i int) *push.Notification {
	return &push.Notification{Platform: push.FCM, Target: push.Target{Token: fmt.Sprintf("fid%08d:APA91b%032x", i, i)}, Title: "Your parcel is on its way"}
}

// withLane returns a function that sets the lane of the notifications of another function.
func withLane(lane push.Lane, newNotification func(int) *push.Notification) func(int) *push.Notification {
	return func(i int) *push.Notification {
		n := newNotification(i)
		n.Lane = lane
		return n
	}
}

// loadRun is a load in progress.
type loadRun struct {
	scenario *scenario
	started  time.Time
	done     chan struct{}
	results  load.Results
	err      error
}

// offerRate starts to offer rate notifications per second for the given duration.
func (s *scenario) offerRate(g *gateway, rate float64, duration time.Duration, newNotification func(int) *push.Notification) *loadRun {
	return s.startLoad(g, load.Generator{Rate: rate, Count: int(rate * duration.Seconds())}, newNotification)
}

// startLoad starts a load of one streamed batch. The default app is shopApp.
func (s *scenario) startLoad(g *gateway, l load.Generator, newNotification func(int) *push.Notification) *loadRun {
	l.Stream = true
	return s.run(s.generator(g, l, newNotification))
}

// generator returns a generator of load for a gateway.
func (s *scenario) generator(g *gateway, l load.Generator, newNotification func(int) *push.Notification) load.Generator {
	l.URL, l.Key, l.Timeout = g.baseURL(), key, 10*time.Minute
	if l.Apps == nil {
		l.Apps = []string{shopApp}
	}
	l.Append = func(b []byte, i int) []byte { return append(b, encode(newNotification(i))...) }
	return l
}

// encode returns a notification as JSON.
func encode(n *push.Notification) []byte {
	text, err := json.Marshal(n)
	if err != nil {
		panic(err) // no notification of a row has raw JSON, which alone can be invalid
	}
	return text
}

// run runs a generator in the background.
func (s *scenario) run(l load.Generator) *loadRun {
	run := &loadRun{scenario: s, started: time.Now(), done: make(chan struct{})}
	ctx, cancel := context.WithCancel(s.ctx)
	go func() {
		defer close(run.done)
		run.results, run.err = l.Collect(ctx)
	}()
	s.Cleanup(func() {
		cancel()
		<-run.done
	})
	return run
}

// waitUntil waits until d after the start of the load.
func (l *loadRun) waitUntil(d time.Duration) { l.scenario.sleep(time.Until(l.started.Add(d))) }

// wait waits for the end of the load and returns its results.
func (l *loadRun) wait() load.Results {
	select {
	case <-l.done:
	case <-l.scenario.ctx.Done():
		l.scenario.Fatalf("the load did not end: %v", l.scenario.ctx.Err())
	}
	if l.err != nil {
		l.scenario.note("%v", l.err)
	}
	return l.results
}
