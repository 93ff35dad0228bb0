// SPDX-License-Identifier: Apache-2.0

package client_test

import (
	"cmp"
	"context"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/sluice-push/sluice/client"
	"github.com/sluice-push/sluice/internal/api"
	"github.com/sluice-push/sluice/internal/config"
	"github.com/sluice-push/sluice/internal/gateway"
	"github.com/sluice-push/sluice/mockprovider"
	"github.com/sluice-push/sluice/push"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// testEnv is mock providers, and what the configuration of a gateway before them needs.
type testEnv struct {
	t    testing.TB
	mock *mockprovider.Mock
	key  client.Key
	app  string // the app shop, in YAML
}

func newTestEnv(t testing.TB, cfg ...mockprovider.Config) *testEnv {
	t.Helper()
	m := mockprovider.Start(t, cfg...)
	files, err := m.WriteFiles(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	at := m.Ready(files)
	key, hash := api.NewKey()
	return &testEnv{t: t, mock: m, key: client.Key(key), app: fmt.Sprintf(
		"apps:\n  shop:\n    keys: [{name: test, hash: %q, scopes: [send, read]}]\n"+
			"    apns: {url: 'https://%s', endpoints: ['%s'], ca_file: %q, key_file: %q, key_id: %s, team_id: %s, topic: %s}\n",
		hash, at.APNs, strings.Join(at.APNsEndpoints, "', '"), at.CAFile, at.APNsKeyFile, at.APNsKeyID, at.APNsTeamID, at.APNsTopic)}
}

// testGateway is a gateway that runs.
type testGateway struct {
	*gateway.Gateway
	address string
	stop    func() // drains it
}

func (h *testGateway) url() string { return "http://" + h.address }

// startGateway runs a gateway at an address, with further top-level keys of its configuration.
func (tn *testEnv) startGateway(address, settings string) *testGateway {
	tn.t.Helper()
	text := "listen: " + address + "\nadmin: {listen: 127.0.0.1:0}\n" + settings + tn.app
	cfg, err := config.Parse(filepath.Join(tn.t.TempDir(), "gateway.yaml"), []byte(text), nil)
	if err != nil {
		tn.t.Fatalf("%v in\n%s", err, text)
	}
	g, err := gateway.New(cfg, nil)
	if err != nil {
		tn.t.Fatal(err)
	}
	if err := g.Listen(); err != nil {
		tn.t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- g.Run(ctx) }()
	h := &testGateway{Gateway: g, address: g.Addr().String()}
	h.stop = sync.OnceFunc(func() {
		cancel()
		if err := <-ended; err != nil {
			tn.t.Errorf("the gateway: %v", err)
		}
	})
	tn.t.Cleanup(h.stop)
	return h
}

const anyPort = "127.0.0.1:0"

// newClient opens a client of these gateways.
func (tn *testEnv) newClient(cfg client.Config, urls ...string) *client.Client {
	tn.t.Helper()
	cfg.App, cfg.Key = "shop", tn.key
	cfg.KeepaliveTimeout = cmp.Or(cfg.KeepaliveTimeout, time.Minute) // a busy machine is no lost gateway
	if cfg.File == "" {
		cfg.Gateways = urls
	}
	c, err := client.Open(cfg)
	if err != nil {
		tn.t.Fatal(err)
	}
	tn.t.Cleanup(func() {
		if err := c.Close(); err != nil {
			tn.t.Errorf("Close: %v", err)
		}
	})
	return c
}

// waitConnected waits until the client is connected to n gateways.
func waitConnected(c *client.Client, n int) {
	waitUntil(func() bool {
		live := 0
		for _, e := range c.Status().Endpoints {
			live += min(e.Connections, 1)
		}
		return live == n
	})
}

func waitUntil(so func() bool) {
	for !so() {
		time.Sleep(time.Millisecond)
	}
}

// token is the i-th device's.
func token(i int) string { return fmt.Sprintf("%064x", i+1) }

func testNotification(i int) *push.Notification {
	return &push.Notification{Platform: push.APNs, Target: push.Target{Token: token(i)}, Title: "Hi"}
}

// counts counts the requests that the providers saw, and those they accepted, by token.
func (tn *testEnv) counts() (requests, accepted map[string]int) {
	requests, accepted = map[string]int{}, map[string]int{}
	for _, e := range tn.mock.Ledger().Entries(mockprovider.Query{Service: mockprovider.APNs}) {
		if e.Token == "" {
			continue
		}
		requests[e.Token]++
		if e.Accepted {
			accepted[e.Token]++
		}
	}
	return requests, accepted
}

// testProxy is a TCP connection between clients and one gateway that can be cut, or be a bad one.
type testProxy struct {
	t        testing.TB
	listener net.Listener
	to       string
	delay    func() time.Duration // by how much each piece of what is said comes late; nil for none

	mu     sync.Mutex
	frozen chan struct{} // closed while nothing passes
	conns  []net.Conn
	work   sync.WaitGroup
}

func newTestProxy(t testing.TB, to string) *testProxy {
	t.Helper()
	return startProxy(t, to, nil)
}

// newLossyProxy is one on which every piece takes a while, and one in twenty as long as TCP waits before it sends anew what was
// lost: that is what loss looks like from within a connection.
func newLossyProxy(t testing.TB, to string) *testProxy {
	t.Helper()
	return startProxy(t, to, func() time.Duration {
		if rand.IntN(20) == 0 {
			return 200 * time.Millisecond
		}
		return rand.N(5 * time.Millisecond)
	})
}

func startProxy(t testing.TB, to string, late func() time.Duration) *testProxy {
	t.Helper()
	l, err := net.Listen("tcp", anyPort)
	if err != nil {
		t.Fatal(err)
	}
	c := &testProxy{t: t, listener: l, to: to, delay: late, frozen: make(chan struct{})}
	c.work.Go(c.accept)
	t.Cleanup(func() {
		_ = l.Close()
		c.mu.Lock()
		for _, conn := range c.conns {
			_ = conn.Close()
		}
		c.mu.Unlock()
		c.work.Wait()
	})
	return c
}

func (c *testProxy) url() string { return "http://" + c.listener.Addr().String() }

func (c *testProxy) accept() {
	for {
		near, err := c.listener.Accept()
		if err != nil {
			return
		}
		far, err := net.Dial("tcp", c.to)
		if err != nil {
			_ = near.Close()
			continue
		}
		c.mu.Lock()
		c.conns = append(c.conns, near, far)
		frozen := c.frozen
		c.mu.Unlock()
		for _, way := range [][2]net.Conn{{near, far}, {far, near}} {
			c.work.Go(func() { c.copyUntilFrozen(way[0], way[1], frozen) })
		}
	}
}

// copyUntilFrozen copies until either end closes; what comes once it is frozen goes nowhere.
func (c *testProxy) copyUntilFrozen(from, to net.Conn, frozen <-chan struct{}) {
	defer func() { _ = to.Close() }()
	buffer := make([]byte, 32<<10)
	for {
		n, err := from.Read(buffer)
		select {
		case <-frozen:
			_, _ = io.Copy(io.Discard, from)
			return
		default:
		}
		if c.delay != nil {
			time.Sleep(c.delay())
		}
		if _, failed := to.Write(buffer[:n]); err != nil || failed != nil {
			return
		}
	}
}

// freeze lets nothing through any more, as if the zone had lost its power: no packet comes back, not even a reset.
func (c *testProxy) freeze() {
	c.mu.Lock()
	defer c.mu.Unlock()
	close(c.frozen)
}
