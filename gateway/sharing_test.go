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

	"github.com/sluice-push/sluice/config"
	"github.com/sluice-push/sluice/engine"
	"github.com/sluice-push/sluice/engine/enginetest"
	"github.com/sluice-push/sluice/gateway"
	"github.com/sluice-push/sluice/mockprovider"
)

var sharing = flag.Bool("sharing", false, "two, four and eight gateways share a quota, and no second may have more than 1.05 times of it (minutes, and a quiet machine)")

// aloneFile names the configuration of a gateway that this binary is to be, in place of tests.
const aloneFile = "SLUICE_TEST_ALONE"

// alone is a gateway in a process of its own, so that it can be killed. It writes its URL to its output.
func alone(file string) int {
	cfg, err := config.Load(file, nil)
	if err == nil {
		ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
		defer stop()
		err = serveAlone(ctx, cfg)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	return 0
}

func serveAlone(ctx context.Context, cfg *config.Config) error {
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

// cluster is what several gateways share.
type cluster struct {
	street
	t    *testing.T
	file string
	bare *http.Client
}

// newCluster starts mock providers and the NATS of gateways that share an FCM quota of so many a second.
func newCluster(t *testing.T, rate int) *cluster {
	c := &cluster{street: newStreet(t, mockprovider.Config{Script: mockprovider.Script{Faults: mockprovider.DocumentedQuotas()}}), t: t}
	c.configure(engine.Config{URL: enginetest.StartServer(t), Replicas: 1},
		fmt.Sprintf("quota: {fcm: {rate: %d/min}, shared: {lease: 2s, apart: 1%%}}\n", 60*rate)+"apps:\n"+c.app("shop", c.fcm()))
	c.bare = &http.Client{Transport: &http.Transport{MaxIdleConnsPerHost: 1000}}
	t.Cleanup(c.bare.CloseIdleConnections)
	return c
}

// configure writes the configuration of the gateways, whose queue is at a NATS.
func (c *cluster) configure(where engine.Config, rest string) {
	c.t.Helper()
	c.file = filepath.Join(c.t.TempDir(), "gateway.yaml")
	text := head + fmt.Sprintf("queue: {nats: {url: '%s', replicas: %d}}\n", where.URL, where.Replicas) + rest
	if err := os.WriteFile(c.file, []byte(text), 0o600); err != nil {
		c.t.Fatal(err)
	}
}

// one is a gateway in a process of its own, with callers.
type one struct {
	url     string
	process *exec.Cmd
	over    chan struct{}
	callers sync.WaitGroup
}

// join starts a gateway that so many callers call one after the other, until it ends.
func (c *cluster) join(callers int) *one {
	c.t.Helper()
	o := &one{process: exec.Command(os.Args[0]), over: make(chan struct{})}
	o.process.Env = append(os.Environ(), aloneFile+"="+c.file)
	o.process.Stderr = os.Stderr
	out, err := o.process.StdoutPipe()
	if err != nil {
		c.t.Fatal(err)
	}
	if err := o.process.Start(); err != nil {
		c.t.Fatal(err)
	}
	c.t.Cleanup(func() { o.end(os.Kill) })
	url, err := bufio.NewReader(out).ReadString('\n')
	if err != nil {
		c.t.Fatalf("the gateway does not start: %v", err)
	}
	o.url = strings.TrimSpace(url)
	for range callers {
		o.callers.Go(func() { c.call(o.url, o.over) })
	}
	return o
}

// call sends one notification after the other.
func (c *cluster) call(url string, over <-chan struct{}) {
	for {
		select {
		case <-over:
			return
		default:
		}
		request, _ := http.NewRequest(http.MethodPost, url+"/v1/apps/shop/notifications", strings.NewReader(fcmTo))
		request.Header.Set("Authorization", "Bearer "+c.key)
		request.Header.Set("Content-Type", "application/json")
		response, err := c.bare.Do(request)
		if err != nil {
			time.Sleep(100 * time.Millisecond) // it is starting or ending
			continue
		}
		_ = response.Body.Close()
		if response.StatusCode != http.StatusOK {
			time.Sleep(100 * time.Millisecond) // or those who are refused leave a slow machine no time to renew a lease
		}
	}
}

// end ends the process by that signal, once.
func (o *one) end(how os.Signal) {
	if o.process.ProcessState != nil {
		return
	}
	close(o.over)
	_ = o.process.Process.Signal(how)
	_ = o.process.Wait()
	o.callers.Wait()
}

// seconds returns how many requests FCM got in each second, from the first to the last.
func (c *cluster) seconds() (counts []int) {
	last := int64(0)
	for _, s := range c.mock.Ledger().Summary().Services[mockprovider.FCM].Scopes["project"].PerSecond {
		for ; last > 0 && last+1 < s.Unix; last++ {
			counts = append(counts, 0)
		}
		counts, last = append(counts, int(s.Requests)), s.Unix
	}
	return counts
}

// more waits until FCM has got so many more.
func (c *cluster) more(n int) {
	before := c.total()
	until(func() bool { return c.total() >= before+n })
}

func (c *cluster) total() (sum int) {
	for _, n := range c.seconds() {
		sum += n
	}
	return sum
}

// TestGatewaysThatJoinLeaveAndDieShareOneQuota counts what arrives, not when: over any seconds together no more than the
// quota, but for what a busy machine holds up and lets go at once.
func TestGatewaysThatJoinLeaveAndDieShareOneQuota(t *testing.T) {
	const rate = 200
	c := newCluster(t, rate)
	first, second := c.join(20), c.join(20)
	c.more(2 * rate)
	c.join(20)
	c.more(rate)
	first.end(syscall.SIGKILL)
	c.more(rate)
	second.end(os.Interrupt)
	c.more(rate)
	counts := c.seconds()
	t.Log(counts)
	for i := range counts {
		sum := 0
		for j := i; j < len(counts); j++ {
			if sum += counts[j]; float64(sum) > 1.05*rate*float64(j-i+1)+rate/2 {
				t.Errorf("from second %d to %d there were %d, of %d a second: %v", i, j, sum, rate, counts)
			}
		}
	}
}

// TestTwoFourAndEightGatewaysNeverHaveMoreThanTheQuota is the figure that is promised. In every eight seconds one of them is
// killed, whose share is lost for more than two.
func TestTwoFourAndEightGatewaysNeverHaveMoreThanTheQuota(t *testing.T) {
	if !*sharing {
		t.Skip("with -sharing")
	}
	const rate = 500
	for _, n := range []int{2, 4, 8} {
		c := newCluster(t, rate)
		var there []*one
		for range n {
			there = append(there, c.join(40))
			time.Sleep(time.Second)
		}
		time.Sleep(5 * time.Second)
		for round := range 3 {
			there[0].end(syscall.SIGKILL)
			time.Sleep(4 * time.Second)
			there = append(there[1:], c.join(40))
			time.Sleep(2 * time.Second)
			there[0].end(os.Interrupt)
			there = append(there[1:], c.join(10+round*40))
			time.Sleep(2 * time.Second)
		}
		counts := c.seconds()
		for _, o := range there {
			o.end(os.Kill)
		}
		sum, most := 0, 0
		for _, count := range counts[5:] {
			sum, most = sum+count, max(most, count)
		}
		used := float64(sum) / float64(rate*len(counts[5:]))
		t.Logf("%d gateways, quota %d a second: busiest second %.1f %%, used %.1f %%: %v", n, rate, 100*float64(most)/rate, 100*used, counts)
		if float64(most) > 1.05*rate || used < 0.5 {
			t.Errorf("%d gateways: busiest second %d of %d, used %.1f %%", n, most, rate, 100*used)
		}
	}
}
