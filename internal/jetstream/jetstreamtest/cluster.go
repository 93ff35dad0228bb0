// SPDX-License-Identifier: Apache-2.0

package jetstreamtest

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/sluice-push/sluice/internal/jetstream"
)

const (
	serverCount = 3
	// accountCount accounts are created with the cluster, one for each test directory.
	accountCount = 200
)

// Cluster is a NATS cluster of three server processes.
type Cluster struct {
	servers      [serverCount]*server
	usedAccounts atomic.Int32
}

// NewCluster starts a cluster for one test, which may kill its servers. The cluster stops when the
// test ends. NewCluster skips the test unless the tests run on a cluster. TestMain must call Main
// first.
func NewCluster(t testing.TB) *Cluster {
	t.Helper()
	requireCluster(t)
	return StartCluster(t)
}

// StartCluster is like NewCluster, but never skips the test.
func StartCluster(t testing.TB) *Cluster {
	t.Helper()
	return newCluster(t, startCluster)
}

// NewStartingCluster is like NewCluster, but does not wait until the servers have started.
func NewStartingCluster(t testing.TB) *Cluster {
	t.Helper()
	requireCluster(t)
	return newCluster(t, func(dir string) (*Cluster, error) {
		c := &Cluster{}
		return c, c.launch(dir)
	})
}

// requireCluster skips the test unless the tests run on a cluster, and counts it as one of those.
func requireCluster(t testing.TB) {
	t.Helper()
	if !OnCluster() {
		t.Skip("starts three servers: make cluster runs it")
	}
	shared.mu.Lock()
	shared.ran[testName(t)] = true
	shared.mu.Unlock()
}

func newCluster(t testing.TB, start func(dir string) (*Cluster, error)) *Cluster {
	t.Helper()
	c, err := start(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(c.Stop)
	return c
}

// startCluster starts a cluster and waits until all servers are healthy. It tries again with other
// ports if a server does not start, because another process may have taken a port.
func startCluster(dir string) (c *Cluster, err error) {
	for range 3 {
		c = &Cluster{}
		if err = c.startServers(dir); err == nil {
			return c, nil
		}
		c.Stop()
	}
	return nil, fmt.Errorf("jetstreamtest: the cluster does not start: %w", err)
}

// startServers starts the servers and waits until all are healthy.
func (c *Cluster) startServers(dir string) error {
	if err := c.launch(dir); err != nil {
		return err
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

// launch starts the servers.
func (c *Cluster) launch(dir string) error {
	ports, err := freePorts(3 * serverCount)
	if err != nil {
		return err
	}
	clients, routes, health := ports[:serverCount], ports[serverCount:2*serverCount], ports[2*serverCount:]
	for i := range c.servers {
		c.servers[i] = &server{
			dir: filepath.Join(dir, strconv.Itoa(i)), name: fmt.Sprint("server", i), clients: clients[i], route: routes[i], health: health[i],
		}
		if err := c.servers[i].writeConfig(routes); err != nil {
			return err
		}
		if err := c.servers[i].start(); err != nil {
			return err
		}
	}
	return nil
}

// Stop kills the servers.
func (c *Cluster) Stop() {
	for _, s := range c.servers {
		if s != nil {
			s.kill()
		}
	}
}

// Account returns the configuration of an unused account. Accounts do not see each other's streams.
func (c *Cluster) Account(t testing.TB) jetstream.Config {
	t.Helper()
	id := int(c.usedAccounts.Add(1))
	if id > accountCount {
		t.Fatalf("the cluster has only %d accounts", accountCount)
	}
	urls := make([]string, serverCount)
	for i, s := range c.servers {
		urls[i] = fmt.Sprintf("nats://%[1]s:%[1]s@127.0.0.1:%[2]d", accountName(id), s.clients)
	}
	return jetstream.Config{URL: strings.Join(urls, ","), Replicas: serverCount}
}

// accountName returns the name of account n, which is also the name and password of its user.
func accountName(n int) string { return fmt.Sprint("test", n) }

// Index returns the index of the server with a name, as the API of NATS reports it.
func (c *Cluster) Index(name string) int {
	return slices.IndexFunc(c.servers[:], func(s *server) bool { return s.name == name })
}

// Kill kills server i without a shutdown.
func (c *Cluster) Kill(i int) {
	c.servers[i].kill()
	shared.mu.Lock()
	defer shared.mu.Unlock()
	shared.kills++
}

// Signal sends a signal to the process of server i, for instance to suspend it.
func (c *Cluster) Signal(i int, signal os.Signal) {
	_ = c.servers[i].process.Signal(signal) // it runs
}

// Start restarts server i after Kill, and returns when the server has caught up with the others.
func (c *Cluster) Start(i int) error {
	if err := c.servers[i].start(); err != nil {
		return err
	}
	ctx, done := context.WithTimeout(context.Background(), timeout)
	defer done()
	return c.servers[i].waitHealthy(ctx)
}

// freePorts returns free ports below the ephemeral range, so that they stay free while a server is
// down.
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
