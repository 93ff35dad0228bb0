// SPDX-License-Identifier: Apache-2.0

package client_test

import (
	"context"
	"errors"
	"testing"
	"time"

	"github.com/sluice-push/sluice/client"
	"github.com/sluice-push/sluice/mockprovider"
	"github.com/sluice-push/sluice/push"
)

func TestBatchSendsEachOnce(t *testing.T) {
	t.Parallel()
	const n = 6000 // more than a window, and more than a stream
	tn := newTestEnv(t)
	c := tn.newClient(client.Config{}, tn.startGateway(anyPort, "").url(), tn.startGateway(anyPort, "").url())
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
	_, accepted := tn.counts()
	for i := range n {
		if !seen[i] || accepted[token(i)] > 1 {
			t.Fatalf("notification %d: a receipt: %v; accepted %d times", i, seen[i], accepted[token(i)])
		}
	}
}

func TestInvalidNotificationInBatchFailsAlone(t *testing.T) {
	tn := newTestEnv(t)
	c := tn.newClient(client.Config{}, tn.startGateway(anyPort, "").url())
	in := func(yield func(*push.Notification) bool) {
		_ = yield(testNotification(0)) && yield(&push.Notification{Platform: push.APNs, Title: "to nobody"}) && yield(testNotification(2)) &&
			yield(&push.Notification{Platform: push.APNs, APNs: &push.APNsBlock{Payload: []byte("{")}})
	}
	ends := map[int]error{}
	for receipt, err := range c.SendBatch(t.Context(), in) {
		ends[*receipt.Index] = err
	}
	bad, ok := errors.AsType[*client.Error](ends[1])
	worse, also := errors.AsType[*client.Error](ends[3])
	if len(ends) != 4 || ends[0] != nil || ends[2] != nil || !ok || bad.Type != "invalid-field" || !also || worse.Type != "invalid-field" {
		t.Errorf("%v", ends)
	}
}

func TestBatchMemoryIsBounded(t *testing.T) {
	hold := make(chan struct{})
	c := client.Direct("shop", senderFunc(func(ctx context.Context, n *push.Notification) push.Receipt {
		<-hold
		return push.Receipt{Outcome: push.Outcome{Verdict: push.Accepted}}
	}))
	taken, told := 0, 0
	in := func(yield func(*push.Notification) bool) {
		for taken < 20_000 && yield(testNotification(taken)) {
			if taken++; taken-told > 4096 {
				t.Fatalf("%d were taken, %d told", taken, told)
			}
			if taken == 500 { // as many workers wait
				close(hold)
			}
		}
	}
	for _, err := range c.SendBatch(t.Context(), in) {
		if err != nil {
			t.Error(err)
		}
		told++
	}
	if told != 20_000 {
		t.Errorf("%d told", told)
	}
}

func TestRepeatedBatchWithIDsSendsOnce(t *testing.T) {
	tn := newTestEnv(t)
	c := tn.newClient(client.Config{}, tn.startGateway(anyPort, "").url())
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
	if _, accepted := tn.counts(); accepted[token(1)] != 1 {
		t.Errorf("it was accepted %d times", accepted[token(1)])
	}
}

type senderFunc func(context.Context, *push.Notification) push.Receipt

func (s senderFunc) Send(ctx context.Context, n *push.Notification) push.Receipt { return s(ctx, n) }

func TestBatchLoopMayBreakEarly(t *testing.T) {
	tn := newTestEnv(t)
	c := tn.newClient(client.Config{}, tn.startGateway(anyPort, "").url())
	endless := func(yield func(*push.Notification) bool) {
		for i := 0; yield(testNotification(i)); i++ {
		}
	}
	told := 0
	for receipt, err := range c.SendBatch(t.Context(), endless) {
		if err != nil && !providerFailed(receipt) {
			t.Error(err)
		}
		if told++; told == 100 {
			break
		}
	}
}

func TestBatchContextErrorIsLast(t *testing.T) {
	tn := newTestEnv(t)
	c := tn.newClient(client.Config{}, tn.startGateway(anyPort, "").url())
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
		t.Errorf("the last word is %v", last)
	}
}

func TestBatchDuringGatewayDrain(t *testing.T) {
	t.Parallel()
	const n = 1000
	tn := newTestEnv(t, withFaults(mockprovider.Fault{Service: mockprovider.APNs, Delay: 5 * time.Millisecond}))
	leaving, staying := tn.startGateway(anyPort, "drain: {delay: 200ms}\n"), tn.startGateway(anyPort, "")
	c := tn.newClient(client.Config{}, leaving.url(), staying.url())
	waitConnected(c, 2)
	gone := make(chan struct{})
	told := 0
	for receipt, err := range c.SendBatch(t.Context(), testNotifications(0, n)) {
		if err != nil && !providerFailed(receipt) {
			t.Errorf("%+v %v", receipt, err)
		}
		if told++; told == 300 {
			go func() { defer close(gone); leaving.stop() }()
		}
	}
	<-gone
	_, accepted := tn.counts()
	for i := range n {
		if accepted[token(i)] > 1 {
			t.Errorf("notification %d was accepted %d times", i, accepted[token(i)])
		}
	}
}

func TestBatchSurvivesLostGateway(t *testing.T) {
	t.Parallel()
	const n = 1000
	tn := newTestEnv(t, withFaults(mockprovider.Fault{Service: mockprovider.APNs, Delay: 5 * time.Millisecond}))
	lost, staying := tn.startGateway(anyPort, ""), tn.startGateway(anyPort, "")
	cable := newTestProxy(t, lost.address)
	c := tn.newClient(client.Config{KeepaliveTimeout: 5 * time.Second}, cable.url(), staying.url())
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
	told, unknown, held := 0, 0, map[int]bool{}
	for receipt, err := range c.SendBatch(t.Context(), in) {
		told++
		if told == 200 {
			cable.freeze()
		}
		switch {
		case err == nil:
		case providerFailed(receipt):
			held[*receipt.Index] = true
		case receipt.Verdict == push.Unknown && *receipt.Index%2 == 1:
			unknown++ // which its sender had rather than two
		default:
			t.Errorf("notification %d: %+v %v", *receipt.Index, receipt, err)
		}
	}
	_, accepted := tn.counts()
	for i := range n {
		if i%2 == 1 && accepted[token(i)] > 1 || i%2 == 0 && accepted[token(i)] == 0 && !held[i] {
			t.Errorf("notification %d was accepted %d times", i, accepted[token(i)])
		}
	}
	if told != n {
		t.Errorf("%d of %d told", told, n)
	}
	t.Logf("%d ends unknown", unknown)
}
