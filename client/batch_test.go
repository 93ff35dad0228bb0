// SPDX-License-Identifier: Apache-2.0

package client_test

import (
	"context"
	"errors"
	"path/filepath"
	"regexp"
	"testing"
	"time"

	"github.com/sluice-push/sluice/client"
	"github.com/sluice-push/sluice/internal/config"
	"github.com/sluice-push/sluice/internal/identity"
	"github.com/sluice-push/sluice/internal/testwait"
	"github.com/sluice-push/sluice/mockprovider"
	"github.com/sluice-push/sluice/push"
)

func TestBatchSendsEachOnce(t *testing.T) {
	t.Parallel()
	const n = 6000 // more than batchWindow, and more than one stream
	env := newTestEnv(t)
	c := env.newClient(client.Config{}, env.startGateway(anyPort, "").url(), env.startGateway(anyPort, "").url())
	waitConnected(c, 2)
	seen := make([]bool, n)
	for receipt, err := range c.SendBatch(t.Context(), testNotifications(0, n)) {
		if err != nil && !providerFailed(receipt) || receipt.Index == nil {
			t.Fatalf("%+v %v", receipt, err)
		}
		if seen[*receipt.Index] {
			t.Errorf("notification %d has two receipts", *receipt.Index)
		}
		seen[*receipt.Index] = true
	}
	_, accepted := env.counts()
	for i := range n {
		if !seen[i] || accepted[token(i)] > 1 {
			t.Fatalf("notification %d: receipt %v, accepted %d times", i, seen[i], accepted[token(i)])
		}
	}
}

func TestInvalidNotificationInBatchFailsAlone(t *testing.T) {
	env := newTestEnv(t)
	c := env.newClient(client.Config{}, env.startGateway(anyPort, "").url())
	in := func(yield func(*push.Notification) bool) {
		_ = yield(testNotification(0)) && yield(&push.Notification{Platform: push.APNs, Title: "no target"}) && yield(testNotification(2)) &&
			yield(&push.Notification{Platform: push.APNs, APNs: &push.APNsBlock{Payload: []byte("{")}})
	}
	results := map[int]error{}
	for receipt, err := range c.SendBatch(t.Context(), in) {
		results[*receipt.Index] = err
	}
	targetErr, ok := errors.AsType[*client.Error](results[1])
	rawErr, rawOK := errors.AsType[*client.Error](results[3])
	if len(results) != 4 || results[0] != nil || results[2] != nil || !ok || targetErr.Type != "invalid-field" || !rawOK || rawErr.Type != "invalid-field" {
		t.Errorf("%v", results)
	}
}

// TestRevokedKeyEndsBatch revokes the key in the middle of a batch. Each notification is either
// accepted or refused with the cause; nothing is in doubt.
func TestRevokedKeyEndsBatch(t *testing.T) {
	env := newTestEnv(t)
	g := env.startGateway(anyPort, "")
	c := env.newClient(client.Config{}, g.url())
	_, hash := identity.NewKey()
	text := "listen: " + anyPort + "\nadmin: {listen: 127.0.0.1:0}\n" + regexp.MustCompile(`sha256:[0-9a-f]{64}`).ReplaceAllLiteralString(env.app, hash)
	cfg, err := config.Parse(filepath.Join(t.TempDir(), "gateway.yaml"), []byte(text), nil)
	if err != nil {
		t.Fatal(err)
	}
	in := func(yield func(*push.Notification) bool) {
		for i := range 400 {
			if i == 200 {
				if _, err := g.Reload(cfg); err != nil {
					t.Error(err)
				}
			}
			if !yield(testNotification(i)) {
				return
			}
		}
	}
	accepted, refused := 0, 0
	for receipt, err := range c.SendBatch(t.Context(), in) {
		apiErr, _ := errors.AsType[*client.Error](err)
		switch {
		case err == nil && receipt.Verdict == push.Accepted:
			accepted++
		case apiErr != nil && apiErr.Type == "unauthenticated":
			refused++
		default:
			t.Errorf("%+v %v", receipt, err)
		}
	}
	if _, atMock := env.counts(); accepted+refused != 400 || len(atMock) != accepted || refused < 199 {
		t.Errorf("%d accepted, %d refused, the mock accepted %d", accepted, refused, len(atMock))
	}
}

func TestBatchMemoryIsBounded(t *testing.T) {
	hold := make(chan struct{})
	c := client.Direct("shop", senderFunc(func(ctx context.Context, n *push.Notification) push.Receipt {
		<-hold
		return push.Receipt{Outcome: push.Outcome{Verdict: push.Accepted}}
	}))
	read, count := 0, 0
	in := func(yield func(*push.Notification) bool) {
		for read < 20_000 && yield(testNotification(read)) {
			if read++; read-count > 4096 {
				t.Fatalf("%d were read, %d returned", read, count)
			}
			if read == 500 { // about as many as there are workers
				close(hold)
			}
		}
	}
	for _, err := range c.SendBatch(t.Context(), in) {
		if err != nil {
			t.Error(err)
		}
		count++
	}
	if count != 20_000 {
		t.Errorf("%d receipts", count)
	}
}

func TestRepeatedBatchWithIDsSendsOnce(t *testing.T) {
	env := newTestEnv(t)
	c := env.newClient(client.Config{}, env.startGateway(anyPort, "").url())
	named := func(yield func(*push.Notification) bool) {
		n := testNotification(1)
		n.ID = `order-"17"`
		yield(n)
	}
	for range 3 {
		for receipt, err := range c.SendBatch(t.Context(), named) {
			if err != nil || receipt.Verdict != push.Accepted {
				t.Errorf("%+v %v", receipt, err)
			}
		}
	}
	if _, accepted := env.counts(); accepted[token(1)] != 1 {
		t.Errorf("it was accepted %d times", accepted[token(1)])
	}
}

type senderFunc func(context.Context, *push.Notification) push.Receipt

func (s senderFunc) Send(ctx context.Context, n *push.Notification) push.Receipt { return s(ctx, n) }

func TestBatchLoopMayBreakEarly(t *testing.T) {
	env := newTestEnv(t)
	c := env.newClient(client.Config{}, env.startGateway(anyPort, "").url())
	endless := func(yield func(*push.Notification) bool) {
		for i := 0; yield(testNotification(i)); i++ {
		}
	}
	count := 0
	for receipt, err := range c.SendBatch(t.Context(), endless) {
		if err != nil && !providerFailed(receipt) {
			t.Error(err)
		}
		if count++; count == 100 {
			break
		}
	}
}

func TestBatchContextErrorIsLast(t *testing.T) {
	env := newTestEnv(t)
	c := env.newClient(client.Config{}, env.startGateway(anyPort, "").url())
	ctx, cancel := context.WithCancel(t.Context())
	endless := func(yield func(*push.Notification) bool) {
		for i := 0; yield(testNotification(i)); i++ {
			if i == 1000 {
				cancel()
			}
		}
	}
	var last error
	var lastIndex *int
	for receipt, err := range c.SendBatch(ctx, endless) {
		last, lastIndex = err, receipt.Index
	}
	if !errors.Is(last, context.Canceled) || lastIndex != nil {
		t.Errorf("the last error is %v", last)
	}
}

func TestBatchDuringGatewayDrain(t *testing.T) {
	t.Parallel()
	const n = 1000
	env := newTestEnv(t, withFaults(mockprovider.Fault{Service: mockprovider.APNs, Delay: 5 * time.Millisecond}))
	draining, other := env.startGateway(anyPort, "drain: {delay: 200ms}\n"), env.startGateway(anyPort, "")
	c := env.newClient(client.Config{}, draining.url(), other.url())
	waitConnected(c, 2)
	stopped := make(chan struct{})
	count := 0
	for receipt, err := range c.SendBatch(t.Context(), testNotifications(0, n)) {
		if err != nil && !providerFailed(receipt) {
			t.Errorf("%+v %v", receipt, err)
		}
		if count++; count == 300 {
			go func() { defer close(stopped); draining.stop() }()
		}
	}
	testwait.For(t, stopped, "the end")
	_, accepted := env.counts()
	for i := range n {
		if accepted[token(i)] > 1 {
			t.Errorf("notification %d was accepted %d times", i, accepted[token(i)])
		}
	}
}

func TestBatchSurvivesLostGateway(t *testing.T) {
	t.Parallel()
	const n = 1000
	env := newTestEnv(t, withFaults(mockprovider.Fault{Service: mockprovider.APNs, Delay: 5 * time.Millisecond}))
	failing, other := env.startGateway(anyPort, ""), env.startGateway(anyPort, "")
	proxy := newTestProxy(t, failing.address)
	c := env.newClient(client.Config{KeepaliveTimeout: 5 * time.Second}, proxy.url(), other.url())
	waitConnected(c, 2)
	in := func(yield func(*push.Notification) bool) {
		for i := range n {
			n := testNotification(i)
			if i%2 == 0 {
				n.OnUnknown = push.RepeatAlways
			}
			if !yield(n) {
				return
			}
		}
	}
	count, unknown, failed := 0, 0, map[int]bool{}
	for receipt, err := range c.SendBatch(t.Context(), in) {
		count++
		if count == 200 {
			proxy.freeze()
		}
		switch {
		case err == nil:
		case providerFailed(receipt):
			failed[*receipt.Index] = true
		case receipt.Verdict == push.Unknown && *receipt.Index%2 == 1:
			unknown++ // which the sender prefers to a duplicate
		default:
			t.Errorf("notification %d: %+v %v", *receipt.Index, receipt, err)
		}
	}
	_, accepted := env.counts()
	for i := range n {
		if i%2 == 1 && accepted[token(i)] > 1 || i%2 == 0 && accepted[token(i)] == 0 && !failed[i] {
			t.Errorf("notification %d was accepted %d times", i, accepted[token(i)])
		}
	}
	if count != n {
		t.Errorf("%d of %d receipts", count, n)
	}
	t.Logf("%d verdicts are unknown", unknown)
}
