// SPDX-License-Identifier: Apache-2.0

package jetstreamtest

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

	"github.com/sluice-push/sluice/internal/jetstream"
)

const (
	serverCount = 3
	// accountCount are made with the cluster, for the tests that will come.
	accountCount = 200
)

// Cluster is three servers in processes of their own, on one folder each.
type Cluster struct {
	servers      [serverCount]*server
	usedAccounts atomic.Int32 // accounts
}

// NewCluster starts a cluster that the test can do with as it likes, and that ends with it. It skips the test where the tests do
// not run on clusters: that is more than a test should need. TestMain has to begin with Main.
func NewCluster(t testing.TB) *Cluster {
	t.Helper()
	if !OnCluster() {
		t.Skip("starts three servers: make cluster runs it")
	}
	shared.mu.Lock()
	shared.ran[testName(t)] = true
	shared.mu.Unlock()
	c, err := startCluster(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(c.stop)
	return c
}

// startCluster starts a cluster and returns once all of it is well. A port that somebody has taken in the meantime is no reason to
// give up.
func startCluster(folder string) (c *Cluster, err error) {
	for range 3 {
		c = &Cluster{}
		if err = c.startServers(folder); err == nil {
			return c, nil
		}
		c.stop()
	}
	return nil, fmt.Errorf("enginetest: the cluster does not start: %w", err)
}

func (c *Cluster) startServers(folder string) error {
	ports, err := freePorts(3 * serverCount)
	if err != nil {
		return err
	}
	clients, routes, health := ports[:serverCount], ports[serverCount:2*serverCount], ports[2*serverCount:]
	for i := range c.servers {
		c.servers[i] = &server{
			dir: filepath.Join(folder, strconv.Itoa(i)), name: fmt.Sprint("server", i), clients: clients[i], route: routes[i], health: health[i],
		}
		if err := c.servers[i].writeConfig(routes); err != nil {
			return err
		}
		if err := c.servers[i].start(); err != nil {
			return err
		}
	}
	ctx, done := context.WithTimeout(context.Background(), timeout)
	defer done()
	for _, s := range c.servers {
		if err := s.waitHealthy(ctx); err != nil {
			return err
		}
	}
	return nil
}

func (c *Cluster) stop() {
	for _, s := range c.servers {
		if s != nil {
			s.kill()
		}
	}
}

// Account is how an engine comes to an account of its own, which sees nothing of the others.
func (c *Cluster) Account(t testing.TB) jetstream.Config {
	t.Helper()
	n := int(c.usedAccounts.Add(1))
	if n > accountCount {
		t.Fatalf("a cluster has %d accounts", accountCount)
	}
	urls := make([]string, serverCount)
	for i, s := range c.servers {
		urls[i] = fmt.Sprintf("nats://%[1]s:%[1]s@127.0.0.1:%[2]d", accountName(n), s.clients)
	}
	return jetstream.Config{URL: strings.Join(urls, ","), Replicas: serverCount}
}

// accountName is the name of the nth, of its user, and that user's password.
func accountName(n int) string { return fmt.Sprint("test", n) }

// Kill kills a server, by its number, as a power cut would: it says goodbye to nobody.
func (c *Cluster) Kill(i int) {
	c.servers[i].kill()
	shared.mu.Lock()
	defer shared.mu.Unlock()
	shared.kills++
}

// Start starts a server again that was killed, and returns once it knows all that the others know.
func (c *Cluster) Start(i int) error {
	if err := c.servers[i].start(); err != nil {
		return err
	}
	ctx, done := context.WithTimeout(context.Background(), timeout)
	defer done()
	return c.servers[i].waitHealthy(ctx)
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
