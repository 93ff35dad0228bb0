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
	"github.com/sluice-push/sluice/internal/config"
	"github.com/sluice-push/sluice/internal/gateway"
	"github.com/sluice-push/sluice/internal/identity"
	"github.com/sluice-push/sluice/internal/testwait"
	"github.com/sluice-push/sluice/mockprovider"
	"github.com/sluice-push/sluice/push"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// testEnv has mock providers, and the configuration for gateways that use them.
type testEnv struct {
	t    testing.TB
	mock *mockprovider.Mock
	key  client.Key
	app  string // the configuration of the app shop, in YAML
}

func newTestEnv(t testing.TB, cfg ...mockprovider.Config) *testEnv {
	t.Helper()
	m := mockprovider.Start(t, cfg...)
	files, err := m.WriteFiles(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	at := m.Ready(files)
	key, hash := identity.NewKey()
	return &testEnv{t: t, mock: m, key: client.Key(key), app: fmt.Sprintf(
		"apps:\n  shop:\n    keys: [{name: test, hash: %q, scopes: [send, read, broadcasts]}]\n"+
			"    apns: {url: 'https://%s', endpoints: ['%s'], ca_file: %q, key_file: %q, key_id: %s, team_id: %s, topic: %s}\n",
		hash, at.APNs, strings.Join(at.APNsEndpoints, "', '"), at.CAFile, at.APNsKeyFile, at.APNsKeyID, at.APNsTeamID, at.APNsTopic)}
}

// testGateway is a running gateway.
type testGateway struct {
	*gateway.Gateway
	address string
	stop    func() // drains and stops it
}

func (h *testGateway) url() string { return "http://" + h.address }

// startGateway runs a gateway. settings are further top-level keys of its configuration.
func (env *testEnv) startGateway(address, settings string) *testGateway {
	env.t.Helper()
	text := "listen: " + address + "\nadmin: {listen: 127.0.0.1:0}\n" + settings + env.app
	cfg, err := config.Parse(filepath.Join(env.t.TempDir(), "gateway.yaml"), []byte(text), nil)
	if err != nil {
		env.t.Fatalf("%v in\n%s", err, text)
	}
	g, err := gateway.New(cfg, nil)
	if err != nil {
		env.t.Fatal(err)
	}
	if err := g.Listen(); err != nil {
		env.t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- g.Run(ctx) }()
	h := &testGateway{Gateway: g, address: g.Addr().String()}
	h.stop = sync.OnceFunc(func() {
		cancel()
		if err := testwait.For(env.t, ended, "the end"); err != nil {
			env.t.Errorf("gateway: %v", err)
		}
	})
	env.t.Cleanup(h.stop)
	return h
}

const anyPort = "127.0.0.1:0"

// newClient opens a client of these gateways.
func (env *testEnv) newClient(cfg client.Config, urls ...string) *client.Client {
	env.t.Helper()
	cfg.App, cfg.Key = "shop", env.key
	cfg.KeepaliveTimeout = cmp.Or(cfg.KeepaliveTimeout, time.Minute) // a busy machine must not look like a lost gateway
	if cfg.File == "" {
		cfg.Gateways = urls
	}
	c, err := client.Open(cfg)
	if err != nil {
		env.t.Fatal(err)
	}
	env.t.Cleanup(func() {
		if err := c.Close(); err != nil {
			env.t.Errorf("Close: %v", err)
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

// waitUntil panics if the condition stays false: a test that would hang fails.
func waitUntil(condition func() bool) {
	for start := time.Now(); !condition(); time.Sleep(time.Millisecond) {
		if time.Since(start) > testwait.Bound {
			panic(fmt.Sprintf("waited %v", testwait.Bound))
		}
	}
}

// token returns the token of the i-th device.
func token(i int) string { return fmt.Sprintf("%064x", i+1) }

func testNotification(i int) *push.Notification {
	return &push.Notification{Platform: push.APNs, Target: push.Target{Token: token(i)}, Title: "Hi"}
}

// counts returns the numbers of requests and of accepted requests at the providers, by token.
func (env *testEnv) counts() (requests, accepted map[string]int) {
	requests, accepted = map[string]int{}, map[string]int{}
	for _, e := range env.mock.Ledger().Entries(mockprovider.Query{Service: mockprovider.APNs}) {
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

// testProxy is a TCP proxy in front of a gateway that can freeze or delay the data.
type testProxy struct {
	t        testing.TB
	listener net.Listener
	to       string
	delay    func() time.Duration // returns the delay of each chunk of data; nil for no delay

	mu     sync.Mutex
	frozen chan struct{} // closed to stop all data
	conns  []net.Conn
	work   sync.WaitGroup
}

func newTestProxy(t testing.TB, to string) *testProxy {
	t.Helper()
	return startProxy(t, to, nil)
}

// newLossyProxy returns a proxy that delays all data, and 5% of it by the retransmission timeout of
// TCP. This is how packet loss looks on a TCP connection.
func newLossyProxy(t testing.TB, to string) *testProxy {
	t.Helper()
	return startProxy(t, to, func() time.Duration {
		if rand.IntN(20) == 0 {
			return 200 * time.Millisecond
		}
		return rand.N(5 * time.Millisecond)
	})
}

func startProxy(t testing.TB, to string, delay func() time.Duration) *testProxy {
	t.Helper()
	l, err := net.Listen("tcp", anyPort)
	if err != nil {
		t.Fatal(err)
	}
	c := &testProxy{t: t, listener: l, to: to, delay: delay, frozen: make(chan struct{})}
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
		client, err := c.listener.Accept()
		if err != nil {
			return
		}
		server, err := net.Dial("tcp", c.to)
		if err != nil {
			_ = client.Close()
			continue
		}
		c.mu.Lock()
		c.conns = append(c.conns, client, server)
		frozen := c.frozen
		c.mu.Unlock()
		for _, dir := range [][2]net.Conn{{client, server}, {server, client}} {
			c.work.Go(func() { c.copyUntilFrozen(dir[0], dir[1], frozen) })
		}
	}
}

// copyUntilFrozen copies until either end closes. After freeze it discards the data.
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

// freeze stops all data, like a power failure in a zone: not even a reset arrives.
func (c *testProxy) freeze() {
	c.mu.Lock()
	defer c.mu.Unlock()
	close(c.frozen)
}
