// SPDX-License-Identifier: Apache-2.0

package client_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"testing"

	"github.com/sluice-push/sluice/client"
	"github.com/sluice-push/sluice/mockprovider"
	"github.com/sluice-push/sluice/push"
)

// testTargets returns n targets, and their notification.
func testTargets(n int) (*push.Notification, []push.Target) {
	var targets []push.Target
	for i := range n {
		targets = append(targets, push.Target{Token: token(i)})
	}
	return &push.Notification{Platform: push.APNs, Title: "Hi"}, targets
}

func TestSendEach(t *testing.T) {
	env := newTestEnv(t, withFaults(mockprovider.Fault{Service: mockprovider.APNs, Token: token(1), Status: 410, Reason: "Unregistered"}))
	c := env.newClient(client.Config{}, env.startGateway(anyPort, "").url())
	n, targets := testTargets(1000)
	targets[2].Token = "not hex"
	n.ID = "campaign-7"
	receipts, err := c.SendEach(t.Context(), n, targets)
	if err != nil || len(receipts) != len(targets) {
		t.Fatalf("%d receipts, %v", len(receipts), err)
	}
	for i, r := range receipts {
		want := push.Accepted
		switch i {
		case 1:
			want = push.Unregistered
		case 2:
			want = push.Refused
		}
		if r.Verdict != want || r.TargetIndex == nil || *r.TargetIndex != i || want == push.Refused && r.Field != "tokens[2]" {
			t.Errorf("%d: %+v", i, r)
		}
	}
	if again, err := c.SendEach(t.Context(), n, targets); err != nil || len(again) != len(targets) || again[0].ID != receipts[0].ID {
		t.Errorf("repeated: %v", err)
	}
	if _, accepted := env.counts(); len(accepted) != 998 || accepted[token(0)] != 1 {
		t.Errorf("%d targets reached, the first %d times", len(accepted), accepted[token(0)])
	}
}

func TestSendEachNamesInvalidLists(t *testing.T) {
	env := newTestEnv(t)
	c := env.newClient(client.Config{}, env.startGateway(anyPort, "").url())
	n, targets := testTargets(1001)
	own := *n
	own.Token = token(0)
	for name, call := range map[string]func() ([]push.Receipt, error){
		"tokens":         func() ([]push.Receipt, error) { return c.SendEach(t.Context(), n, targets) },
		"no targets":     func() ([]push.Receipt, error) { return c.SendEach(t.Context(), n, nil) },
		"its own target": func() ([]push.Receipt, error) { return c.SendEach(t.Context(), &own, targets[:2]) },
		"installations": func() ([]push.Receipt, error) {
			return c.SendEach(t.Context(), n, []push.Target{targets[0], {Installation: "i"}})
		},
		"targets": func() ([]push.Receipt, error) { return c.SendEach(t.Context(), n, []push.Target{{Topic: "news"}}) },
	} {
		field := map[string]string{"no targets": "tokens", "its own target": "tokens"}[name]
		if field == "" {
			field = name
		}
		receipts, err := call()
		if problem, ok := errors.AsType[*client.Error](err); !ok || problem.Type != "invalid-field" || problem.Field != field || receipts != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
	if _, err := c.EnqueueEach(t.Context(), n, targets[:2]); err == nil {
		t.Error("enqueued without a queue")
	}
}

func TestSendEachUsesAnotherGateway(t *testing.T) {
	env := newTestEnv(t)
	stopped, running := env.startGateway(anyPort, ""), env.startGateway(anyPort, "")
	c := env.newClient(client.Config{}, stopped.url(), running.url())
	waitConnected(c, 2)
	stopped.stop()
	n, targets := testTargets(20)
	for range 4 {
		if receipts, err := c.SendEach(t.Context(), n, targets); err != nil || len(receipts) != 20 {
			t.Errorf("%d receipts, %v", len(receipts), err)
		}
	}
}

func TestEnqueueEach(t *testing.T) {
	env := newTestEnv(t)
	c := env.newClient(client.Config{}, env.startGateway(anyPort, fmt.Sprintf("queue: {dir: %q}\n", t.TempDir())).url())
	n, targets := testTargets(3)
	receipts, err := c.EnqueueEach(t.Context(), n, targets)
	if err != nil || len(receipts) != 3 || receipts[2].IsFinal() || receipts[2].ID == "" {
		t.Fatalf("%+v, %v", receipts, err)
	}
	for i := range targets {
		env.mock.Ledger().Expect(t, mockprovider.Query{Token: token(i)}, 1)
	}
}

// One notification for many devices. Tokens that are no longer registered are to be deleted.
func ExampleClient_SendEach() {
	c := client.Direct("shop", fixedSender{push.Unregistered})
	targets := []push.Target{{Token: "00aa…"}, {Token: "00bb…"}}
	receipts, err := c.SendEach(context.Background(), &push.Notification{Platform: push.APNs, Title: "Hi"}, targets)
	if err != nil {
		fmt.Println("no receipts:", err)
	}
	for i, r := range receipts {
		if r.Verdict == push.Unregistered {
			fmt.Println("delete", targets[i].Token)
		}
	}
	// Output:
	// delete 00aa…
	// delete 00bb…
}

func TestDryRunIsNotSent(t *testing.T) {
	env := newTestEnv(t)
	c := env.newClient(client.Config{}, env.startGateway(anyPort, "").url())
	n, targets := testTargets(2)
	n.DryRun = true
	receipts, err := c.SendEach(t.Context(), n, targets)
	if err != nil || len(receipts) != 2 {
		t.Fatalf("%d receipts, %v", len(receipts), err)
	}
	n.Token = token(0)
	single, err := c.Send(t.Context(), n)
	if err != nil {
		t.Fatal(err)
	}
	for r, err := range c.SendBatch(t.Context(), slices.Values([]*push.Notification{n})) {
		if err != nil {
			t.Error(err)
		}
		receipts = append(receipts, r)
	}
	for i, r := range append(receipts, single) {
		if r.Verdict != push.Accepted || r.DryRun == nil || fmt.Sprint(r.DryRun.Checked) != "[fields payload credential]" {
			t.Errorf("%d: %+v", i, r)
		}
	}
	if requests, accepted := env.counts(); len(requests) != 0 || len(accepted) != 0 {
		t.Errorf("%d requests, %d accepted", len(requests), len(accepted))
	}
}
