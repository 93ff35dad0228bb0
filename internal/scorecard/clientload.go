// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"sync"
	"time"

	"github.com/sluice-push/sluice/client"
	"github.com/sluice-push/sluice/internal/scorecard/load"
	"github.com/sluice-push/sluice/pool"
	"github.com/sluice-push/sluice/push"
)

// clientLoad simulates the backend of an app in one zone. It makes single calls with the Go client
// on a fixed schedule.
type clientLoad struct {
	scenario *scenario
	client   *client.Client
	started  time.Time
	done     chan struct{}

	mu            sync.Mutex
	results       load.Results
	gatewaysTried []int // by notification, if more than one gateway was tried or none responded
	events        []pool.Event
}

// newClientLoad opens a client and waits until it is connected to all gateways.
func (s *scenario) newClientLoad(zone string, gateways []*gateway) *clientLoad {
	var urls []string
	for _, g := range gateways {
		urls = append(urls, g.baseURL())
	}
	c := &clientLoad{scenario: s}
	opened, err := client.Open(client.Config{Gateways: urls, App: shopApp, Key: key, Zone: zone, Logger: s.newLogger("client-" + zone), Observe: func(e pool.Event) {
		c.mu.Lock()
		defer c.mu.Unlock()
		c.events = append(c.events, e)
	}})
	s.noError(err)
	s.Cleanup(func() { _ = opened.Close() })
	c.client = opened
	s.eventually("waiting for connections to all gateways", 15*time.Second, func() bool {
		live := 0
		for _, e := range opened.Status().Endpoints {
			live += min(e.Connections, 1)
		}
		return live == len(gateways)
	})
	return c
}

// newLogger returns a logger to a file in the log directory, or nil if there is no such directory.
func (s *scenario) newLogger(name string) *slog.Logger {
	if s.logs == "" {
		return nil
	}
	file, err := os.Create(filepath.Join(s.logs, fmt.Sprintf("%s-%s.log", s.ID, name)))
	s.noError(err)
	s.Cleanup(func() { _ = file.Close() })
	return slog.New(slog.NewTextHandler(file, nil))
}

// start starts rate calls per second for the given duration.
func (c *clientLoad) start(rate float64, duration time.Duration, newNotification func(int) *push.Notification) {
	n := int(rate * duration.Seconds())
	c.started, c.done = time.Now(), make(chan struct{})
	c.results = load.Results{Started: c.started, Samples: make(load.Samples, n)}
	c.gatewaysTried = make([]int, n)
	ctx, cancel := context.WithCancel(c.scenario.ctx)
	go func() {
		defer close(c.done)
		var wg sync.WaitGroup
		for i := range n {
			due := time.Duration(float64(i) / rate * float64(time.Second))
			select {
			case <-time.After(time.Until(c.started.Add(due))):
			case <-ctx.Done():
			}
			wg.Go(func() { c.send(ctx, i, due, newNotification(i)) })
		}
		wg.Wait()
	}()
	c.scenario.Cleanup(func() {
		cancel()
		<-c.done
	})
}

func (c *clientLoad) send(ctx context.Context, i int, due time.Duration, n *push.Notification) {
	receipt, err := c.client.Send(ctx, n)
	s := load.Sample{ID: receipt.ID, Due: due, Latency: time.Since(c.started) - due, Status: string(receipt.Status()), Reason: receipt.Reason}
	if problem, ok := errors.AsType[*client.Error](err); ok {
		c.gatewaysTried[i] = len(problem.Attempts)
	}
	c.results.Samples[i] = s
}

// waitUntil waits until d after the start of the load.
func (c *clientLoad) waitUntil(d time.Duration) { c.scenario.sleep(time.Until(c.started.Add(d))) }

// wait waits for the end of the load and returns its results.
func (c *clientLoad) wait() load.Results {
	select {
	case <-c.done:
	case <-c.scenario.ctx.Done():
		c.scenario.Fatalf("the calls did not end: %v", c.scenario.ctx.Err())
	}
	return c.results
}

// abandonedAfter returns the time from the fault until the client has stopped using all of these
// gateways.
func (c *clientLoad) abandonedAfter(gateways []*gateway, faultStart time.Time) (last time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, g := range gateways {
		abandoned := never
		for _, e := range c.events {
			if "http://"+e.Endpoint == g.baseURL() && (e.Kind == pool.EventConnLost || e.Kind == pool.EventEjected) && e.Time.After(faultStart) {
				abandoned = min(abandoned, e.Time.Sub(faultStart))
			}
		}
		last = max(last, abandoned)
	}
	return last
}
