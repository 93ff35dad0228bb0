// SPDX-License-Identifier: Apache-2.0

package gateway_test

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"net/http"
	"os"
	"slices"
	"strconv"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/sluice-push/sluice/internal/audit"
	"github.com/sluice-push/sluice/internal/history"
	"github.com/sluice-push/sluice/internal/jetstream"
	"github.com/sluice-push/sluice/internal/jetstream/jetstreamtest"
	"github.com/sluice-push/sluice/internal/queue"
	"github.com/sluice-push/sluice/internal/sleep"
	"github.com/sluice-push/sluice/mockprovider"
	"github.com/sluice-push/sluice/push"
)

// These tests send notifications through the queues of gateway processes on a NATS cluster of three
// server processes. make cluster-million runs them.

// clusterLoadEnv is the number of notifications. make cluster-million sets it.
const clusterLoadEnv = "SLUICE_MILLION"

const (
	loadCallers = 8   // concurrent batch calls
	loadBatch   = 500 // items in one call
	// One in repeatEvery notifications may be repeated if its result is unknown, the others may not.
	repeatEvery = 10
	// serverDowntime is how long a killed NATS server stays down. It is longer than an election, so that
	// the other two also work alone.
	serverDowntime = 12 * time.Second
	// callTimeout bounds a call. A call waits up to limits.send_timeout for the key of an interrupted one.
	callTimeout = 2 * time.Minute
	// defaultInFlight is the default of queue.in_flight. It limits what a kill leaves in doubt.
	defaultInFlight = 512
)

// clusterLoad is a load of notifications with Idempotency-Keys on several gateways. Each notification has
// its own key and its own device token.
type clusterLoad struct {
	*cluster
	nats     jetstream.Config
	ctx      context.Context
	gateways []*loadGateway
	batches  chan []int // of notifications that no call has had yet
	retries  chan []int // of those whose call was interrupted or refused
	callers  sync.WaitGroup
	// withoutKeys leaves out the Idempotency-Keys.
	withoutKeys bool

	answered atomic.Int64 // notifications whose call has a response that says what happened
	mu       sync.Mutex
	receipts []loadReceipt  // by notification
	repeats  map[string]int // reasons why calls were repeated
}

// loadReceipt is a receipt of a batch.
type loadReceipt struct {
	ID     string
	Index  int
	Status push.Status
	Reason string
}

// isFinal reports whether the call need not be repeated. A notification that has ended as unknown keeps
// its key: the caller decides whether to send it again with another one.
func (r loadReceipt) isFinal() bool {
	switch r.Status {
	case push.StatusQueued, push.StatusScheduled, push.StatusSending, push.StatusAccepted, push.StatusUnknown:
		return r.ID != ""
	default:
		return false
	}
}

// loadGateway is a gateway that can be killed and started again with the same index.
type loadGateway struct {
	config  string
	url     atomic.Pointer[string]
	process *gatewayProcess
	cpu     time.Duration // of the processes that have ended
}

// loadCount returns the number of notifications, or skips the test.
func loadCount(t *testing.T) int {
	count, err := strconv.Atoi(os.Getenv(clusterLoadEnv))
	if err != nil {
		t.Skip("takes minutes; run make cluster-million")
	}
	return count
}

// startClusterLoad starts gateways and callers for count notifications. The test ends at a limit.
func startClusterLoad(t *testing.T, servers *jetstreamtest.Cluster, gateways, count int) *clusterLoad {
	delayed := mockprovider.Script{Faults: []mockprovider.Fault{{Service: mockprovider.APNs, Delay: 5 * time.Millisecond, P99: 20 * time.Millisecond}}}
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Minute+time.Duration(count)*4*time.Millisecond)
	l := &clusterLoad{
		cluster: &cluster{mockEnv: newMockEnv(t, mockprovider.Config{Endpoints: 4, Script: delayed, LedgerSize: 2 * count}), t: t},
		nats:    servers.Account(t), ctx: ctx, batches: make(chan []int), retries: make(chan []int, count), receipts: make([]loadReceipt, count), repeats: map[string]int{},
	}
	l.client = &http.Client{Timeout: callTimeout}
	for range gateways {
		l.writeConfig(l.nats, fmt.Sprintf("history: {dir: %q}\napps:\n", t.TempDir())+l.appBlock("shop", l.apnsBlock()))
		g := &loadGateway{config: l.file}
		l.start(g)
		l.gateways = append(l.gateways, g)
	}
	for _, g := range l.gateways { // which create the streams
		l.waitFor("gateways that are ready", func() bool { return l.isReady(g) })
	}
	for i := range loadCallers {
		l.callers.Go(func() { l.call(i) })
	}
	t.Cleanup(func() {
		cancel()
		l.callers.Wait()
		l.client.CloseIdleConnections()
	})
	return l
}

func (l *clusterLoad) start(g *loadGateway) {
	l.file = g.config
	g.process = l.startGateway(0)
	g.url.Store(&g.process.url)
}

// isReady reports whether a gateway accepts notifications.
func (l *clusterLoad) isReady(g *loadGateway) bool {
	response, err := l.client.Get(*g.url.Load() + "/readyz")
	if err != nil {
		return false
	}
	_ = response.Body.Close()
	return response.StatusCode == http.StatusOK
}

// stop ends the process of a gateway with a signal.
func (l *clusterLoad) stop(g *loadGateway, signal os.Signal) {
	g.process.stop(signal)
	g.cpu += g.process.CPUTime()
}

// waitFor calls condition every 20 ms until it is true. It fails the test at the limit of the load.
func (l *clusterLoad) waitFor(what string, condition func() bool) {
	l.t.Helper()
	for !condition() {
		if !sleep.For(l.ctx, 20*time.Millisecond) {
			l.mu.Lock()
			defer l.mu.Unlock()
			l.t.Fatalf("the test has taken too long, while it waited for %s; %d calls have a response; repeated: %v", what, l.answered.Load(), l.repeats)
		}
	}
}

// feed passes the notifications from one to another to the callers.
func (l *clusterLoad) feed(from, to int) {
	for ; from < to; from += loadBatch {
		batch := make([]int, 0, loadBatch)
		for i := from; i < min(from+loadBatch, to); i++ {
			batch = append(batch, i)
		}
		select {
		case l.batches <- batch:
		case <-l.ctx.Done():
			return
		}
	}
}

// call makes one call after the other, and repeats those that were interrupted at the next gateway.
func (l *clusterLoad) call(caller int) {
	for gateway := caller; ; {
		var batch []int
		select {
		case batch = <-l.batches:
		case batch = <-l.retries:
		case <-l.ctx.Done():
			return
		}
		if open := l.post(*l.gateways[gateway%len(l.gateways)].url.Load(), batch); len(open) > 0 {
			gateway++
			time.AfterFunc(time.Second, func() { l.retries <- open })
		}
	}
}

// loadToken returns the device token of a notification.
func loadToken(i int) string { return fmt.Sprintf("%064x", i+1) }

func isRepeatable(i int) bool { return i%repeatEvery == 0 }

// post makes a call and returns the notifications whose result is still unknown.
func (l *clusterLoad) post(url string, batch []int) (open []int) {
	var body bytes.Buffer
	for _, i := range batch {
		onUnknown := push.RepeatNever
		if isRepeatable(i) {
			onUnknown = push.RepeatAlways
		}
		body.WriteByte('{')
		if !l.withoutKeys {
			fmt.Fprintf(&body, "\"idempotency_key\":\"call-%d\",", i)
		}
		fmt.Fprintf(&body, "\"platform\":\"apns\",\"token\":%q,\"title\":\"Your parcel has arrived\",\"on_unknown\":%q}\n", loadToken(i), onUnknown)
	}
	receipts, err := l.postBatch(url, &body)
	l.mu.Lock()
	defer l.mu.Unlock()
	if err != nil {
		l.repeats["no response"]++
	}
	final := map[int]bool{}
	for _, r := range receipts {
		if r.Index < 0 || r.Index >= len(batch) {
			l.t.Errorf("a receipt has the index %d", r.Index)
		} else if final[r.Index] = r.isFinal(); final[r.Index] {
			l.receipts[batch[r.Index]] = r
		} else {
			l.repeats[r.Reason]++
		}
	}
	for k, i := range batch {
		if !final[k] {
			open = append(open, i)
		}
	}
	l.answered.Add(int64(len(batch) - len(open)))
	return open
}

// postBatch makes an asynchronous batch call and returns the receipts that arrive.
func (l *clusterLoad) postBatch(url string, body io.Reader) (receipts []loadReceipt, err error) {
	request, err := http.NewRequestWithContext(l.ctx, http.MethodPost, url+"/v1/apps/shop/notifications/batch", body)
	if err != nil {
		return nil, err
	}
	for name, value := range map[string]string{"Authorization": "Bearer " + l.key, "Content-Type": "application/x-ndjson", "Prefer": "respond-async"} {
		request.Header.Set(name, value)
	}
	response, err := l.client.Do(request)
	if err != nil {
		return nil, err
	}
	defer func() { _ = response.Body.Close() }()
	if response.StatusCode != http.StatusAccepted {
		return nil, fmt.Errorf("status %s", response.Status)
	}
	for decoder := json.NewDecoder(response.Body); ; {
		r := loadReceipt{Index: -1}
		if err := decoder.Decode(&r); err == io.EOF {
			return receipts, nil
		} else if err != nil {
			return receipts, err
		}
		receipts = append(receipts, r)
	}
}

// delivered returns the number of requests that APNs got.
func (l *clusterLoad) delivered() int {
	return int(l.mock.Ledger().Summary().Services[mockprovider.APNs].Requests)
}

// awaitEnds waits until every notification is delivered or has ended as unknown, and returns the
// deliveries by token and the status of those without one.
func (l *clusterLoad) awaitEnds() (deliveries map[string]int, undelivered map[int]loadReceipt) {
	l.waitFor("the deliveries", func() bool {
		before := l.delivered()
		return before >= len(l.receipts) || sleep.For(l.ctx, 5*time.Second) && l.delivered() == before
	})
	undelivered = map[int]loadReceipt{}
	before := 0
	l.waitFor("the ends", func() bool {
		deliveries = l.mock.Ledger().AcceptedByToken()
		waiting, example := 0, loadReceipt{}
		for i, r := range l.receipts {
			if deliveries[loadToken(i)] > 0 {
				delete(undelivered, i)
			} else if undelivered[i].Status != push.StatusUnknown {
				undelivered[i] = l.find(r.ID)
				if status := undelivered[i].Status; status == "" || status == push.StatusQueued || status == push.StatusSending {
					waiting, example = waiting+1, undelivered[i]
				}
			}
		}
		if waiting != before {
			l.t.Logf("%d notifications have not ended, for instance %+v", waiting, example)
			before = waiting
		}
		return waiting == 0 || !sleep.For(l.ctx, 5*time.Second)
	})
	return deliveries, undelivered
}

// find returns the receipt of a notification, or an empty one if the gateway does not respond.
func (l *clusterLoad) find(id string) (r loadReceipt) {
	request, err := http.NewRequestWithContext(l.ctx, http.MethodGet, *l.gateways[0].url.Load()+"/v1/apps/shop/notifications/"+id, nil)
	if err != nil {
		return r
	}
	request.Header.Set("Authorization", "Bearer "+l.key)
	response, err := l.client.Do(request)
	if err != nil {
		return r
	}
	defer func() { _ = response.Body.Close() }()
	if json.NewDecoder(response.Body).Decode(&r) != nil {
		return loadReceipt{}
	}
	return r
}

// TestKilledClusterLosesNothing kills each of three NATS servers and each of three gateways once while
// callers send notifications and repeat interrupted calls with the same keys. Each notification is
// delivered once, or reported as unknown.
func TestKilledClusterLosesNothing(t *testing.T) {
	count := loadCount(t)
	servers := jetstreamtest.NewCluster(t)
	l := startClusterLoad(t, servers, 3, count)
	began := time.Now()
	for k, g := range l.gateways {
		from, to := k*count/3, (k+1)*count/3
		go l.feed(from, to)
		l.waitFor("half of a third of the calls", func() bool { return int(l.answered.Load()) >= (from+to)/2 })
		servers.Kill(k)
		up := time.Now().Add(serverDowntime)
		sleep.For(l.ctx, time.Second) // the other servers have not elected leaders yet
		l.stop(g, os.Kill)
		l.start(g)
		sleep.For(l.ctx, time.Until(up))
		if err := servers.Start(k); err != nil {
			t.Fatal(err)
		}
		t.Logf("%s: server and gateway %d were killed and are back; %d calls have a response, %d deliveries", time.Since(began).Round(time.Second), k, l.answered.Load(), l.delivered())
	}
	l.waitFor("all responses", func() bool { return int(l.answered.Load()) == count })
	t.Logf("%s: all calls have a response; repeated: %v", time.Since(began).Round(time.Second), l.repeats)
	deliveries, undelivered := l.awaitEnds()
	t.Logf("%s: all notifications have ended", time.Since(began).Round(time.Second))
	l.checkOutcome(deliveries, undelivered)
	l.checkAudit()
}

// checkOutcome compares what the callers know with what APNs got.
func (l *clusterLoad) checkOutcome(deliveries map[string]int, undelivered map[int]loadReceipt) {
	lost, twice, repeated, unknown := 0, 0, 0, map[string]int{}
	for i := range l.receipts {
		times := deliveries[loadToken(i)]
		if r, missing := undelivered[i]; missing && r.Status == push.StatusUnknown {
			unknown[r.Reason]++
		} else if missing {
			lost++
			l.t.Logf("lost: %+v", r)
		}
		if times > 1 && isRepeatable(i) {
			repeated += times - 1
		} else if times > 1 {
			twice += times - 1
		}
	}
	l.t.Logf("%d notifications: lost %d, sent twice %d, repeated with on_unknown always %d; not delivered, and reported as unknown: %v", len(l.receipts), lost, twice, repeated, unknown)
	limit := len(l.gateways) * defaultInFlight
	total := 0
	for n := range maps.Values(unknown) {
		total += n
	}
	if lost > 0 || twice > 0 || repeated > limit || total > limit {
		l.t.Errorf("lost %d, twice %d, repeated %d, unknown %d (at most %d)", lost, twice, repeated, total, limit)
	}
}

// checkAudit fails if the audit has findings.
func (l *clusterLoad) checkAudit() {
	e, err := jetstream.Open(l.ctx, l.nats)
	if err != nil {
		l.t.Fatal(err)
	}
	defer func() { _ = e.Close() }()
	report, err := audit.Run(l.ctx, e, audit.Config{Events: history.Stream, Queues: queue.Streams()})
	if err != nil {
		l.t.Fatal(err)
	}
	report.Findings = slices.DeleteFunc(report.Findings, func(f audit.Finding) bool { return f.Kind == "not_stored" || f.Kind == "possibly_lost" })
	l.t.Logf("audit: %+v", *report)
	if !report.Clean() {
		l.t.Error("the audit is not clean")
	}
}

// TestClusterThroughput measures how many notifications one, two and four gateways accept and deliver,
// per second of time and of the CPU time of the gateways: with Idempotency-Keys, and without.
func TestClusterThroughput(t *testing.T) {
	count := cmp.Or(loadCount(t)/10, 1)
	servers := jetstreamtest.NewCluster(t)
	for run := range 6 {
		gateways, keys := 1<<(run%3), [...]string{"with keys", "without keys"}[run/3]
		l := startClusterLoad(t, servers, gateways, count)
		l.withoutKeys = run >= 3
		began := time.Now()
		l.feed(0, count)
		l.waitFor("all responses", func() bool { return int(l.answered.Load()) == count })
		accepted := time.Since(began)
		l.waitFor("all deliveries", func() bool { return l.delivered() >= count })
		took := time.Since(began)
		var cpu time.Duration
		for _, g := range l.gateways {
			l.stop(g, os.Interrupt)
			cpu += g.cpu
		}
		t.Logf("%d gateways: %d notifications %s, accepted at %.0f/s, delivered at %.0f/s, %.0f per CPU-second of the gateways", gateways, count, keys,
			float64(count)/accepted.Seconds(), float64(count)/took.Seconds(), float64(count)/cpu.Seconds())
	}
}
