// SPDX-License-Identifier: Apache-2.0

// Package jetstreamtest lets the tests of a package run on an embedded server or on a cluster of
// three server processes, which it kills and restarts while the tests run. It contains no tests.
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
	"github.com/sluice-push/sluice/internal/keyring"
	"github.com/sluice-push/sluice/internal/sleep"
)

// clusterEnv is the environment variable that makes tests run on a cluster. `make cluster` sets it.
const clusterEnv = "SLUICE_TEST_CLUSTER"

// EncryptionEnv is the environment variable that makes tests run with encryption. `.ci/run` sets it. It does
// not begin with SLUICE_, because a gateway that a test starts refuses such variables.
const EncryptionEnv = "TEST_ENCRYPTION"

const (
	// All servers run for uptime between a restart and the next kill. A killed server stays down
	// for downtime, which is longer than an election (up to nine seconds).
	uptime   = 4 * time.Second
	downtime = 10 * time.Second
	// timeout bounds every operation of this package, also on a busy machine.
	timeout = 2 * time.Minute
)

// Tests runs the tests of a package, for goleak.VerifyTestMain or os.Exit.
type Tests struct{ m *testing.M }

// Main prepares the tests of a package for a cluster. TestMain must call it first: in a server
// process of the cluster it never returns.
func Main(m *testing.M) Tests {
	if file := os.Getenv(serverFileEnv); file != "" {
		fmt.Fprintln(os.Stderr, serve(file))
		os.Exit(1)
	}
	return Tests{m}
}

// Run runs the tests. On a cluster it also prints how many tests ran there.
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

// shared is the cluster that the tests of this process share.
var shared = environment{stop: func() error { return nil }, configs: map[string]jetstream.Config{}, ran: map[string]bool{}, skipped: map[string]string{}}

type environment struct {
	mu      sync.Mutex
	cluster *Cluster                    // nil until a test needs it
	stop    func() error                // stops killLoop and the cluster
	configs map[string]jetstream.Config // by directory
	ran     map[string]bool             // test names
	skipped map[string]string           // reasons by test name
	kills   int
}

// startShared starts the cluster and killLoop. The caller holds e.mu.
func (e *environment) startShared() error {
	dir, err := os.MkdirTemp("", "sluice-cluster-")
	if err != nil {
		return err
	}
	if e.cluster, err = startCluster(dir); err != nil {
		return err
	}
	ctx, cancel := context.WithCancel(context.Background())
	var killing errgroup.Group
	killing.Go(func() error { return e.cluster.killLoop(ctx) })
	e.stop = func() error {
		cancel()
		err := killing.Wait()
		e.cluster.Stop()
		return errors.Join(err, os.RemoveAll(dir))
	}
	return nil
}

// killLoop kills and restarts one server after the other until ctx ends.
func (c *Cluster) killLoop(ctx context.Context) error {
	for i := 0; sleep.For(ctx, uptime); i++ {
		c.Kill(i % serverCount)
		sleep.For(ctx, downtime)
		if err := c.Start(i % serverCount); err != nil {
			return err
		}
	}
	return nil
}

func (e *environment) report() {
	e.mu.Lock()
	defer e.mu.Unlock()
	fmt.Printf("%d tests ran on a cluster of %d servers, servers were killed %d times; %d tests were skipped:\n", len(e.ran), serverCount, e.kills, len(e.skipped))
	for _, name := range slices.Sorted(maps.Keys(e.skipped)) {
		fmt.Printf("  %s: %s\n", name, e.skipped[name])
	}
}

// OnCluster reports whether the tests run on a cluster.
func OnCluster() bool { return os.Getenv(clusterEnv) != "" }

// Keys returns the keys of tests that run with encryption, the same in every process, and otherwise nil.
func Keys() *keyring.Ring {
	if os.Getenv(EncryptionEnv) == "" {
		return nil
	}
	key, err := keyring.ParseKey([]byte(KeyText))
	if err != nil {
		panic(err) // never
	}
	return keyring.NewRing(true, key)
}

// KeyText is the content of a key file.
const KeyText = "dGhpcyBrZXkgaXMgb25seSBmb3IgdGVzdHMgKDMyKSE="

// Config returns the engine configuration for a test: an embedded server in dir, or, on a cluster,
// an account that belongs to dir. The records are encrypted if EncryptionEnv is set.
func Config(t testing.TB, dir string) jetstream.Config {
	t.Helper()
	if !OnCluster() {
		return jetstream.Config{Dir: dir, Keys: Keys()}
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
	cfg := shared.configs[dir]
	cfg.Keys = Keys()
	return cfg
}

// SkipOnCluster skips a test that does not apply to a cluster. Run prints the reason.
func SkipOnCluster(t testing.TB, reason string) {
	t.Helper()
	if !OnCluster() {
		return
	}
	shared.mu.Lock()
	shared.skipped[testName(t)] = reason
	shared.mu.Unlock()
	t.Skip(reason)
}

// testName returns the name of the top-level test of t.
func testName(t testing.TB) string {
	name, _, _ := strings.Cut(t.Name(), "/")
	return name
}

// Retry calls do until it succeeds, for operations that a cluster refuses during an election. With
// an embedded server it calls do once.
func Retry(t testing.TB, cfg jetstream.Config, do func() error) {
	t.Helper()
	err := do()
	for began := time.Now(); err != nil && cfg.URL != "" && time.Since(began) < timeout; err = do() {
		sleep.For(t.Context(), 100*time.Millisecond)
	}
	if err != nil {
		t.Fatal(err)
	}
}
