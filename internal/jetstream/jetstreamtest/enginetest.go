// SPDX-License-Identifier: Apache-2.0

// Package enginetest has a room's tests run on a cluster of three servers, in processes that die and come back all the
// while, as they run on an engine in their own process. It tests nothing by itself, and knows no stream of ours.
package jetstreamtest

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"os"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/sluice-push/sluice/internal/jetstream"
)

// clusterEnv, in the environment of a package's tests, has them run on a cluster; make cluster sets it.
const clusterEnv = "SLUICE_TEST_CLUSTER"

const (
	// uptime is how long all servers are there between one that came back and the next one that is killed, and down how long
	// that one is away: long enough for another to be elected in its place, which takes up to nine seconds.
	uptime   = 4 * time.Second
	downtime = 10 * time.Second
	// timeout is how long anything here may take on the busiest of machines.
	timeout = 2 * time.Minute
)

// Tests are those of a package, for goleak.VerifyTestMain or os.Exit.
type Tests struct{ m *testing.M }

// Main makes a package's tests able to run on a cluster. A process that was started as one of its servers never returns
// from it, so TestMain begins with it.
func Main(m *testing.M) Tests {
	if file := os.Getenv(serverFileEnv); file != "" {
		fmt.Fprintln(os.Stderr, serve(file))
		os.Exit(1)
	}
	return Tests{m}
}

// Run runs the tests; if the cluster was asked for, on it, and tells at the end how many.
func (t Tests) Run() int {
	code := t.m.Run()
	if !OnCluster() {
		return code
	}
	if err := shared.stop(); err != nil {
		fmt.Fprintln(os.Stderr, err)
		code = 1
	}
	shared.report()
	return code
}

// shared is the cluster of this process, where it runs its tests on one, with what has come to run on it.
var shared = environment{stop: func() error { return nil }, configs: map[string]jetstream.Config{}, ran: map[string]bool{}, skipped: map[string]string{}}

type environment struct {
	mu      sync.Mutex
	cluster *Cluster                    // nil until a test needs it
	stop    func() error                // ends the storm and the cluster
	configs map[string]jetstream.Config // by folder
	ran     map[string]bool             // the names of tests
	skipped map[string]string           // and why
	kills   int
}

// startShared starts the cluster and the storm. p.mu is held.
func (p *environment) startShared() error {
	folder, err := os.MkdirTemp("", "sluice-cluster-")
	if err != nil {
		return err
	}
	if p.cluster, err = startCluster(folder); err != nil {
		return err
	}
	raging, calm := context.WithCancel(context.Background())
	var storm errgroup.Group
	storm.Go(func() error { return p.cluster.killLoop(raging) })
	p.stop = func() error {
		calm()
		err := storm.Wait()
		p.cluster.stop()
		return errors.Join(err, os.RemoveAll(folder))
	}
	return nil
}

// killLoop kills one server after the other, and starts it again, until ctx ends.
func (c *Cluster) killLoop(ctx context.Context) error {
	for i := 0; sleep(ctx, uptime); i++ {
		c.Kill(i % serverCount)
		sleep(ctx, downtime)
		if err := c.Start(i % serverCount); err != nil {
			return err
		}
	}
	return nil
}

// sleep waits, and reports whether ctx has not ended before.
func sleep(ctx context.Context, wait time.Duration) bool {
	select {
	case <-time.After(wait):
		return true
	case <-ctx.Done():
		return false
	}
}

func (p *environment) report() {
	p.mu.Lock()
	defer p.mu.Unlock()
	fmt.Printf("%d tests ran on a cluster of %d servers, of which one was killed %d times; %d did not:\n", len(p.ran), serverCount, p.kills, len(p.skipped))
	for _, name := range slices.Sorted(maps.Keys(p.skipped)) {
		fmt.Printf("  %s: %s\n", name, p.skipped[name])
	}
}

// OnCluster reports whether Config leads to a cluster.
func OnCluster() bool { return os.Getenv(clusterEnv) != "" }

// Config says where a test has its engine: in the folder dir, or on the cluster, if the tests run on it, where that folder
// stands for an account that sees nothing of the others.
func Config(t testing.TB, dir string) jetstream.Config {
	t.Helper()
	if !OnCluster() {
		return jetstream.Config{Dir: dir}
	}
	shared.mu.Lock()
	defer shared.mu.Unlock()
	if shared.cluster == nil {
		if err := shared.startShared(); err != nil {
			t.Fatal(err)
		}
	}
	shared.ran[testName(t)] = true
	if _, known := shared.configs[dir]; !known {
		shared.configs[dir] = shared.cluster.Account(t)
	}
	return shared.configs[dir]
}

// SkipOnCluster skips a test where the tests run on a cluster, because it is not about one; Run tells so.
func SkipOnCluster(t testing.TB, because string) {
	t.Helper()
	if !OnCluster() {
		return
	}
	shared.mu.Lock()
	shared.skipped[testName(t)] = because
	shared.mu.Unlock()
	t.Skip(because)
}

// testName is the name of the test that t is a part of.
func testName(t testing.TB) string {
	name, _, _ := strings.Cut(t.Name(), "/")
	return name
}

// Retry does what a cluster may refuse while it elects, until it is done. An engine in this process has no such excuse:
// there it is done once.
func Retry(t testing.TB, cfg jetstream.Config, do func() error) {
	t.Helper()
	err := do()
	for began := time.Now(); err != nil && cfg.URL != "" && time.Since(began) < timeout; err = do() {
		sleep(t.Context(), 100*time.Millisecond)
	}
	if err != nil {
		t.Fatal(err)
	}
}
