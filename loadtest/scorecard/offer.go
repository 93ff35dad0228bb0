// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"fmt"
	"time"

	"github.com/sluice-push/sluice/loadtest"
	"github.com/sluice-push/sluice/mockprovider"
	"github.com/sluice-push/sluice/push"
)

// The load and the pool that reliability rows are about, unless a row says otherwise.
const (
	rate     = 2000.0 // notifications a second
	size     = 8      // endpoints of the pool
	spares   = 2      // further addresses of the service
	deadline = 10 * time.Second

	calm    = 17 * time.Second // of which the first two are not counted
	warmUp  = 2 * time.Second
	trouble = 25 * time.Second
)

// healthy is how the service answers: log-normal, median 50 ms, one in a hundred above 200 ms.
var healthy = mockprovider.Fault{Service: mockprovider.APNs, Delay: 50 * time.Millisecond, P99: 200 * time.Millisecond}

// mock starts the services, healthy ones.
func (s *stage) mock(cfg mockprovider.Config) *mockprovider.Mock {
	if len(cfg.Script.Faults) == 0 {
		cfg.Script = script(healthy)
	}
	return mockprovider.Start(s, cfg)
}

func script(faults ...mockprovider.Fault) mockprovider.Script {
	return mockprovider.Script{Faults: faults}
}

// play replaces the script, and returns when.
func (s *stage) play(m *mockprovider.Mock, faults ...mockprovider.Fault) time.Time {
	now := time.Now()
	s.need(m.Play(script(faults...)))
	return now
}

// begin makes the faults begin, before which healthy stands behind, and returns when.
func (s *stage) begin(m *mockprovider.Mock, faults ...mockprovider.Fault) time.Time {
	return s.play(m, append(faults, healthy)...)
}

// The notifications.

func toDevice(i int) *push.Notification {
	return &push.Notification{Platform: push.APNs, Target: push.Target{Token: fmt.Sprintf("5a%062x", i)}, Title: "Your parcel is on its way"}
}

// repeated is toDevice for those who prefer two to none: an attempt whose end is unknown is followed by another.
func repeated(i int) *push.Notification {
	n := toDevice(i)
	n.OnUnknown = push.RepeatAlways
	return n
}

func toRegistration(i int) *push.Notification {
	return &push.Notification{Platform: push.FCM, Target: push.Target{Token: fmt.Sprintf("fid%08d:APA91b%032x", i, i)}, Title: "Your parcel is on its way"}
}

// in is compose with every notification in that lane.
func in(lane push.Lane, compose func(int) *push.Notification) func(int) *push.Notification {
	return func(i int) *push.Notification {
		n := compose(i)
		n.Lane = lane
		return n
	}
}

// load is what is being offered.
type load struct {
	stage *stage
	began time.Time
	done  chan struct{}
	got   loadtest.Results
	err   error
}

// offer begins to offer so many notifications a second for that long.
func (s *stage) offer(g *gateway, rate float64, during time.Duration, compose func(int) *push.Notification) *load {
	return s.start(g, loadtest.Load{Rate: rate, Count: int(rate * during.Seconds()), Compose: compose})
}

// start begins any load for the app shop, unless it names another.
func (s *stage) start(g *gateway, l loadtest.Load) *load {
	l.URL, l.Key = g.address(), key
	if l.App == "" {
		l.App = shop
	}
	running := &load{stage: s, began: time.Now(), done: make(chan struct{})}
	ctx, cancel := context.WithCancel(s.ctx)
	go func() {
		defer close(running.done)
		running.got, running.err = l.Run(ctx)
	}()
	s.Cleanup(func() {
		cancel()
		<-running.done
	})
	return running
}

// at waits until the load has gone on for that long.
func (l *load) at(d time.Duration) { l.stage.sleep(time.Until(l.began.Add(d))) }

// wait waits for the end of the load.
func (l *load) wait() loadtest.Results {
	select {
	case <-l.done:
	case <-l.stage.ctx.Done():
		l.stage.Fatalf("the load did not end: %v", l.stage.ctx.Err())
	}
	if l.err != nil {
		l.stage.note("%v", l.err)
	}
	return l.got
}
