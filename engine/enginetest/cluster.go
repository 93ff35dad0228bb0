// SPDX-License-Identifier: Apache-2.0

package enginetest

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"path/filepath"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/sluice-push/sluice/engine"
)

const (
	servers = 3
	// accounts are made with the cluster, for the tests that will come.
	accounts = 200
)

// Cluster is three servers in processes of their own, on one folder each.
type Cluster struct {
	servers [servers]*server
	taken   atomic.Int32 // accounts
}

// New starts a cluster that the test can do with as it likes, and that ends with it. It skips the test where the tests do
// not run on clusters: that is more than a test should need. TestMain has to begin with Main.
func New(t testing.TB) *Cluster {
	t.Helper()
	if !OnCluster() {
		t.Skip("starts three servers: make cluster runs it")
	}
	the.mu.Lock()
	the.ran[nameOf(t)] = true
	the.mu.Unlock()
	c, err := begin(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(c.end)
	return c
}

// begin starts a cluster and returns once all of it is well. A port that somebody has taken in the meantime is no reason to
// give up.
func begin(folder string) (c *Cluster, err error) {
	for range 3 {
		c = &Cluster{}
		if err = c.begin(folder); err == nil {
			return c, nil
		}
		c.end()
	}
	return nil, fmt.Errorf("enginetest: the cluster does not start: %w", err)
}

func (c *Cluster) begin(folder string) error {
	ports, err := freePorts(3 * servers)
	if err != nil {
		return err
	}
	clients, routes, health := ports[:servers], ports[servers:2*servers], ports[2*servers:]
	for i := range c.servers {
		c.servers[i] = &server{
			dir: filepath.Join(folder, strconv.Itoa(i)), name: fmt.Sprint("server", i), clients: clients[i], route: routes[i], health: health[i],
		}
		if err := c.servers[i].write(routes); err != nil {
			return err
		}
		if err := c.servers[i].start(); err != nil {
			return err
		}
	}
	ctx, done := context.WithTimeout(context.Background(), patience)
	defer done()
	for _, s := range c.servers {
		if err := s.well(ctx); err != nil {
			return err
		}
	}
	return nil
}

func (c *Cluster) end() {
	for _, s := range c.servers {
		if s != nil {
			s.kill()
		}
	}
}

// Account is how an engine comes to an account of its own, which sees nothing of the others.
func (c *Cluster) Account(t testing.TB) engine.Config {
	t.Helper()
	n := int(c.taken.Add(1))
	if n > accounts {
		t.Fatalf("a cluster has %d accounts", accounts)
	}
	urls := make([]string, servers)
	for i, s := range c.servers {
		urls[i] = fmt.Sprintf("nats://%[1]s:%[1]s@127.0.0.1:%[2]d", account(n), s.clients)
	}
	return engine.Config{URL: strings.Join(urls, ","), Replicas: servers}
}

// account is the name of the nth, of its user, and that user's password.
func account(n int) string { return fmt.Sprint("test", n) }

// Kill kills a server, by its number, as a power cut would: it says goodbye to nobody.
func (c *Cluster) Kill(i int) {
	c.servers[i].kill()
	the.mu.Lock()
	defer the.mu.Unlock()
	the.kills++
}

// Start starts a server again that was killed, and returns once it knows all that the others know.
func (c *Cluster) Start(i int) error {
	if err := c.servers[i].start(); err != nil {
		return err
	}
	ctx, done := context.WithTimeout(context.Background(), patience)
	defer done()
	return c.servers[i].well(ctx)
}

// freePorts returns ports that are free at this moment. They lie below those that systems give to whoever does not mind,
// so that a server that was killed finds its own again.
func freePorts(count int) (ports []int, err error) {
	var held []net.Listener
	defer func() {
		for _, l := range held {
			err = errors.Join(err, l.Close())
		}
	}()
	for tries := 100 * count; len(ports) < count; tries-- {
		port := 10_000 + rand.IntN(20_000)
		l, err := net.Listen("tcp", fmt.Sprintf("127.0.0.1:%d", port))
		switch {
		case err == nil:
			held, ports = append(held, l), append(ports, port)
		case tries == 0:
			return nil, err
		}
	}
	return ports, nil
}
