// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"fmt"
	"time"

	"github.com/sluice-push/sluice/internal/scorecard/load"
	"github.com/sluice-push/sluice/mockprovider"
	"github.com/sluice-push/sluice/push"
)

// The load and the pool that reliability rows are about, unless a row says otherwise.
const (
	loadRate         = 2000.0 // notifications a second
	poolSize         = 8      // endpoints of the pool
	spareEndpoints   = 2      // further addresses of the service
	deliveryDeadline = 10 * time.Second

	beforeFault   = 17 * time.Second // of which the first two are not counted
	warmUp        = 2 * time.Second
	faultDuration = 25 * time.Second
)

// healthyResponse is how the service answers: log-normal, median 50 ms, one in a hundred above 200 ms.
var healthyResponse = mockprovider.Fault{Service: mockprovider.APNs, Delay: 50 * time.Millisecond, P99: 200 * time.Millisecond}

// startMock starts the services, healthy ones.
func (s *scenario) startMock(cfg mockprovider.Config) *mockprovider.Mock {
	if len(cfg.Script.Faults) == 0 {
		cfg.Script = script(healthyResponse)
	}
	return mockprovider.Start(s, cfg)
}

func script(faults ...mockprovider.Fault) mockprovider.Script {
	return mockprovider.Script{Faults: faults}
}

// playFaults replaces the script, and returns when.
func (s *scenario) playFaults(m *mockprovider.Mock, faults ...mockprovider.Fault) time.Time {
	now := time.Now()
	s.noError(m.Play(script(faults...)))
	return now
}

// injectFaults makes the faults begin, before which healthy stands behind, and returns when.
func (s *scenario) injectFaults(m *mockprovider.Mock, faults ...mockprovider.Fault) time.Time {
	return s.playFaults(m, append(faults, healthyResponse)...)
}

// The notifications.

func apnsNotification(i int) *push.Notification {
	return &push.Notification{Platform: push.APNs, Target: push.Target{Token: fmt.Sprintf("5a%062x", i)}, Title: "Your parcel is on its way"}
}

// repeatableNotification is toDevice for those who prefer two to none: an attempt whose end is unknown is followed by another.
func repeatableNotification(i int) *push.Notification {
	n := apnsNotification(i)
	n.OnUnknown = push.RepeatAlways
	return n
}

func fcmNotification(i int) *push.Notification {
	return &push.Notification{Platform: push.FCM, Target: push.Target{Token: fmt.Sprintf("fid%08d:APA91b%032x", i, i)}, Title: "Your parcel is on its way"}
}

// withLane is compose with every notification in that lane.
func withLane(lane push.Lane, compose func(int) *push.Notification) func(int) *push.Notification {
	return func(i int) *push.Notification {
		n := compose(i)
		n.Lane = lane
		return n
	}
}

// loadRun is what is being offered.
type loadRun struct {
	scenario *scenario
	started  time.Time
	done     chan struct{}
	results  load.Results
	err      error
}

// offerRate begins to offer so many notifications a second for that long.
func (s *scenario) offerRate(g *gateway, rate float64, during time.Duration, compose func(int) *push.Notification) *loadRun {
	return s.startLoad(g, load.Generator{Rate: rate, Count: int(rate * during.Seconds()), NewNotification: compose})
}

// startLoad begins any load for the app shop, unless it names another.
func (s *scenario) startLoad(g *gateway, l load.Generator) *loadRun {
	l.URL, l.Key = g.baseURL(), key
	if l.App == "" {
		l.App = shopApp
	}
	running := &loadRun{scenario: s, started: time.Now(), done: make(chan struct{})}
	ctx, cancel := context.WithCancel(s.ctx)
	go func() {
		defer close(running.done)
		running.results, running.err = l.Run(ctx)
	}()
	s.Cleanup(func() {
		cancel()
		<-running.done
	})
	return running
}

// waitUntil waits until the load has gone on for that long.
func (l *loadRun) waitUntil(d time.Duration) { l.scenario.sleep(time.Until(l.started.Add(d))) }

// wait waits for the end of the load.
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
