// SPDX-License-Identifier: Apache-2.0

package gateway_test

import (
	"bufio"
	"context"
	"flag"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/sluice-push/sluice/internal/config"
	"github.com/sluice-push/sluice/internal/gateway"
	"github.com/sluice-push/sluice/internal/jetstream"
	"github.com/sluice-push/sluice/internal/jetstream/jetstreamtest"
	"github.com/sluice-push/sluice/internal/subprocess"
	"github.com/sluice-push/sluice/internal/testwait"
	"github.com/sluice-push/sluice/mockprovider"
)

var longQuotaTest = flag.Bool("sharing", false, "test clusters of two, four and eight gateways; takes minutes and needs an idle machine")

// childConfigVar is a variable with the configuration file of a gateway. If it is set, the test
// binary runs that gateway instead of the tests.
const childConfigVar = "SLUICE_TEST_CHILD_CONFIG"

// runChild runs a gateway in this process and prints its URL. A gateway in its own process can be
// killed.
func runChild(file string) int {
	cfg, err := config.Load(file, nil)
	if err == nil {
		ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
		defer stop()
		err = serveChild(ctx, cfg)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	return 0
}

func serveChild(ctx context.Context, cfg *config.Config) error {
	g, err := gateway.New(cfg, nil)
	if err != nil {
		return err
	}
	if err := g.Listen(); err != nil {
		return err
	}
	fmt.Printf("http://%s\n", g.Addr())
	return g.Run(ctx)
}

// cluster is the environment that several gateways share.
type cluster struct {
	mockEnv
	t      *testing.T
	file   string
	client *http.Client
}

// newCluster starts a mock and a NATS server for gateways that share an FCM quota of rate
// notifications per second.
func newCluster(t *testing.T, rate int) *cluster {
	c := &cluster{mockEnv: newMockEnv(t, mockprovider.Config{Script: mockprovider.Script{Faults: mockprovider.DocumentedQuotas()}}), t: t}
	c.writeConfig(jetstream.Config{URL: jetstreamtest.StartServer(t), Replicas: 1},
		fmt.Sprintf("quota: {fcm: {rate: %d/min}, shared: {lease: 2s, fallback_share: 1%%}}\n", 60*rate)+"apps:\n"+c.appBlock("shop", c.fcmBlock()))
	c.client = &http.Client{Transport: &http.Transport{MaxIdleConnsPerHost: 1000}}
	t.Cleanup(c.client.CloseIdleConnections)
	return c
}

// writeConfig writes the configuration of the gateways, with a queue in NATS.
func (c *cluster) writeConfig(nats jetstream.Config, rest string) {
	c.t.Helper()
	c.file = filepath.Join(c.t.TempDir(), "gateway.yaml")
	text := listenConfig + fmt.Sprintf("queue: {nats: {url: '%s', replicas: %d}}\n", nats.URL, nats.Replicas) + rest
	if err := os.WriteFile(c.file, []byte(text), 0o600); err != nil {
		c.t.Fatal(err)
	}
}

// gatewayProcess is a gateway in its own process, with goroutines that call it.
type gatewayProcess struct {
	*subprocess.Process
	t       testing.TB
	url     string
	done    chan struct{} // ends the callers
	callers sync.WaitGroup
}

// startGateway starts a gateway, and callers that send to it until it ends.
func (c *cluster) startGateway(callers int) *gatewayProcess {
	c.t.Helper()
	p, cmd := &gatewayProcess{t: c.t, done: make(chan struct{})}, exec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), childConfigVar+"="+c.file)
	cmd.Stderr = os.Stderr
	out, err := cmd.StdoutPipe()
	if err != nil {
		c.t.Fatal(err)
	}
	if p.Process, err = subprocess.Start(cmd, nil); err != nil {
		c.t.Fatal(err)
	}
	c.t.Cleanup(func() { p.stop(os.Kill) })
	url, err := bufio.NewReader(out).ReadString('\n')
	if err != nil {
		c.t.Fatalf("the gateway did not start: %v", err)
	}
	p.url = strings.TrimSpace(url)
	for range callers {
		p.callers.Go(func() { c.callLoop(p.url, p.done) })
	}
	return p
}

// callLoop sends notifications until done is closed.
func (c *cluster) callLoop(url string, done <-chan struct{}) {
	for {
		select {
		case <-done:
			return
		default:
		}
		request, _ := http.NewRequest(http.MethodPost, url+"/v1/apps/shop/notifications", strings.NewReader(fcmNotification))
		request.Header.Set("Authorization", "Bearer "+c.key)
		request.Header.Set("Content-Type", "application/json")
		response, err := c.client.Do(request)
		if err != nil {
			time.Sleep(100 * time.Millisecond) // the gateway is starting or stopping
			continue
		}
		_ = response.Body.Close()
		if response.StatusCode != http.StatusOK {
			time.Sleep(100 * time.Millisecond) // rejected calls must not keep a slow machine from renewing leases
		}
	}
}

// stop ends the process with a signal, unless it has already been stopped.
func (p *gatewayProcess) stop(sig os.Signal) {
	select {
	case <-p.done:
		return
	default:
	}
	close(p.done)
	_ = p.Signal(sig)
	testwait.For(p.t, p.Done(), "the end of the gateway")
	testwait.Call(p.t, p.callers.Wait, "the end of all callers")
}

// requestsPerSecond returns the number of requests that FCM got in each second, from the first
// request to the last.
func (c *cluster) requestsPerSecond() (counts []int) {
	last := int64(0)
	for _, s := range c.mock.Ledger().Summary().Services[mockprovider.FCM].Scopes["project"].PerSecond {
		for ; last > 0 && last+1 < s.Unix; last++ {
			counts = append(counts, 0)
		}
		counts, last = append(counts, int(s.Requests)), s.Unix
	}
	return counts
}

// waitRequests waits until FCM has got n more requests.
func (c *cluster) waitRequests(n int) {
	before := c.totalRequests()
	testwait.Until(c.t, func() bool { return c.totalRequests() >= before+n }, "FCM has got the requests")
}

func (c *cluster) totalRequests() (sum int) {
	for _, n := range c.requestsPerSecond() {
		sum += n
	}
	return sum
}

// TestGatewaysThatJoinLeaveAndDieStayWithinQuota checks the quota over every interval of whole
// seconds. It allows a margin for requests that a busy machine delays and then sends at once.
func TestGatewaysThatJoinLeaveAndDieStayWithinQuota(t *testing.T) {
	const rate = 200
	c := newCluster(t, rate)
	first, second := c.startGateway(20), c.startGateway(20)
	c.waitRequests(2 * rate)
	c.startGateway(20)
	c.waitRequests(rate)
	first.stop(syscall.SIGKILL)
	c.waitRequests(rate)
	second.stop(os.Interrupt)
	c.waitRequests(rate)
	counts := c.requestsPerSecond()
	t.Log(counts)
	for i := range counts {
		sum := 0
		for j := i; j < len(counts); j++ {
			if sum += counts[j]; float64(sum) > 1.05*rate*float64(j-i+1)+rate/2 {
				t.Errorf("seconds %d to %d had %d requests, with a quota of %d per second: %v", i, j, sum, rate, counts)
			}
		}
	}
}

// TestEveryClusterSizeStaysWithinQuota checks the documented limit: no second has more than 1.05
// times the quota. Every eight seconds a gateway is killed, whose share is unused for more than two
// seconds.
func TestEveryClusterSizeStaysWithinQuota(t *testing.T) {
	if !*longQuotaTest {
		t.Skip("with -sharing")
	}
	const rate = 500
	for _, n := range []int{2, 4, 8} {
		c := newCluster(t, rate)
		var running []*gatewayProcess
		for range n {
			running = append(running, c.startGateway(40))
			time.Sleep(time.Second)
		}
		time.Sleep(5 * time.Second)
		for round := range 3 {
			running[0].stop(syscall.SIGKILL)
			time.Sleep(4 * time.Second)
			running = append(running[1:], c.startGateway(40))
			time.Sleep(2 * time.Second)
			running[0].stop(os.Interrupt)
			running = append(running[1:], c.startGateway(10+round*40))
			time.Sleep(2 * time.Second)
		}
		counts := c.requestsPerSecond()
		for _, p := range running {
			p.stop(os.Kill)
		}
		sum, highest := 0, 0
		for _, count := range counts[5:] {
			sum, highest = sum+count, max(highest, count)
		}
		used := float64(sum) / float64(rate*len(counts[5:]))
		t.Logf("%d gateways, quota %d per second: busiest second %.1f %%, used %.1f %%: %v", n, rate, 100*float64(highest)/rate, 100*used, counts)
		if float64(highest) > 1.05*rate || used < 0.5 {
			t.Errorf("%d gateways: busiest second %d of %d, used %.1f %%", n, highest, rate, 100*used)
		}
	}
}
