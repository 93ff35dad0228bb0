// SPDX-License-Identifier: Apache-2.0

package scorecard

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
	"github.com/sluice-push/sluice/internal/load"
	"github.com/sluice-push/sluice/pool"
	"github.com/sluice-push/sluice/push"
)

// clientLoad simulates the backend of an app in one zone. It makes single calls with the Go client
// on a fixed schedule.
type clientLoad struct {
	*loadRun // after start
	scenario *scenario
	client   *client.Client

	mu            sync.Mutex
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
	c.client = s.openClient(client.Config{Gateways: urls, Zone: zone, Logger: s.newLogger("client-" + zone), Observe: func(e pool.Event) {
		c.mu.Lock()
		defer c.mu.Unlock()
		c.events = append(c.events, e)
	}})
	s.eventually("waiting for connections to all gateways", 15*time.Second, func() bool {
		live := 0
		for _, e := range c.client.Status().Endpoints {
			live += min(e.Connections, 1)
		}
		return live == len(gateways)
	})
	return c
}

// openClient opens a client for the app shopApp, which closes at the end of the row.
func (s *scenario) openClient(cfg client.Config) *client.Client {
	cfg.App, cfg.Key = shopApp, key
	c, err := client.Open(cfg)
	s.noError(err)
	s.Cleanup(func() { _ = c.Close() })
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
	c.gatewaysTried = make([]int, n)
	c.loadRun = c.scenario.run(load.Generator{Rate: rate, Count: n, Send: func(ctx context.Context, i int) load.Result {
		receipt, err := c.client.Send(ctx, newNotification(i))
		if problem, ok := errors.AsType[*client.Error](err); ok {
			c.gatewaysTried[i] = len(problem.Attempts)
		}
		return load.Result{ID: []byte(receipt.ID), Status: string(receipt.Status()), Reason: receipt.Reason}
	}})
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
