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
	"github.com/sluice-push/sluice/loadtest"
	"github.com/sluice-push/sluice/pool"
	"github.com/sluice-push/sluice/push"
)

// callers are an app's backend in one zone: single calls through the client, each at its own time whatever becomes of the
// others.
type callers struct {
	stage *stage
	c     *client.Client
	began time.Time
	done  chan struct{}

	mu     sync.Mutex
	got    loadtest.Results
	asked  []int // gateways, by notification, where more than one was or none answered
	events []pool.Event
}

// callers connect to the gateways.
func (s *stage) callers(zone string, gateways []*gateway) *callers {
	var urls []string
	for _, g := range gateways {
		urls = append(urls, g.address())
	}
	c := &callers{stage: s}
	opened, err := client.Open(client.Config{Gateways: urls, App: shop, Key: key, Zone: zone, Logger: s.logger("callers" + zone), Observe: func(e pool.Event) {
		c.mu.Lock()
		defer c.mu.Unlock()
		c.events = append(c.events, e)
	}})
	s.need(err)
	s.Cleanup(func() { _ = opened.Close() })
	c.c = opened
	s.eventually("the client is connected to all gateways", 15*time.Second, func() bool {
		live := 0
		for _, e := range opened.Status().Endpoints {
			live += min(e.Connections, 1)
		}
		return live == len(gateways)
	})
	return c
}

// logger writes to a file beside the gateways' logs, where these are kept.
func (s *stage) logger(name string) *slog.Logger {
	if s.logs == "" {
		return nil
	}
	file, err := os.Create(filepath.Join(s.logs, fmt.Sprintf("%s-%s.log", s.ID, name)))
	s.need(err)
	s.Cleanup(func() { _ = file.Close() })
	return slog.New(slog.NewTextHandler(file, nil))
}

// offer begins to call, so many times a second for that long.
func (c *callers) offer(rate float64, during time.Duration, compose func(int) *push.Notification) {
	n := int(rate * during.Seconds())
	c.began, c.done = time.Now(), make(chan struct{})
	c.got = loadtest.Results{Began: c.began, Samples: make(loadtest.Samples, n)}
	c.asked = make([]int, n)
	ctx, cancel := context.WithCancel(c.stage.ctx)
	go func() {
		defer close(c.done)
		var calling sync.WaitGroup
		for i := range n {
			due := time.Duration(float64(i) / rate * float64(time.Second))
			select {
			case <-time.After(time.Until(c.began.Add(due))):
			case <-ctx.Done():
			}
			calling.Go(func() { c.send(ctx, i, due, compose(i)) })
		}
		calling.Wait()
	}()
	c.stage.Cleanup(func() {
		cancel()
		<-c.done
	})
}

func (c *callers) send(ctx context.Context, i int, due time.Duration, n *push.Notification) {
	receipt, err := c.c.Send(ctx, n)
	s := loadtest.Sample{ID: receipt.ID, Due: due, Latency: time.Since(c.began) - due, Status: string(receipt.Status()), Reason: receipt.Reason}
	if problem, ok := errors.AsType[*client.Error](err); ok {
		c.asked[i] = len(problem.Attempts)
	}
	c.got.Samples[i] = s
}

// at waits until the load has gone on for that long.
func (c *callers) at(d time.Duration) { c.stage.sleep(time.Until(c.began.Add(d))) }

// wait waits for the end of the load.
func (c *callers) wait() loadtest.Results {
	select {
	case <-c.done:
	case <-c.stage.ctx.Done():
		c.stage.Fatalf("the calls did not end: %v", c.stage.ctx.Err())
	}
	return c.got
}

// lost is when the last of these gateways was given up after the cut.
func (c *callers) lost(gateways []*gateway, cut time.Time) (last time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, g := range gateways {
		found := never
		for _, e := range c.events {
			if "http://"+e.Endpoint == g.address() && (e.Kind == pool.EventConnLost || e.Kind == pool.EventEjected) && e.Time.After(cut) {
				found = min(found, e.Time.Sub(cut))
			}
		}
		last = max(last, found)
	}
	return last
}
