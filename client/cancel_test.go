// SPDX-License-Identifier: Apache-2.0

package client_test

import (
	"context"
	"errors"
	"io"
	"maps"
	"net/http"
	"testing"
	"time"

	"github.com/sluice-push/sluice/client"
	"github.com/sluice-push/sluice/internal/testwait"
	"github.com/sluice-push/sluice/push"
)

// TestCanceledCallIsUnknown cancels each call while a gateway processes it: the notification may have
// been sent.
func TestCanceledCallIsUnknown(t *testing.T) {
	t.Parallel()
	calls := maps.Clone(sends)
	calls["Enqueue"] = func(ctx context.Context, c *client.Client, n *push.Notification) (push.Receipt, error) {
		return c.Enqueue(ctx, n)
	}
	calls["EnqueueEach"] = func(ctx context.Context, c *client.Client, n *push.Notification) (push.Receipt, error) {
		each := *n
		each.Target = push.Target{}
		_, err := c.EnqueueEach(ctx, &each, []push.Target{n.Target})
		return push.Receipt{}, err
	}
	for name, call := range calls {
		for _, repeat := range []push.OnUnknown{push.RepeatNever, push.RepeatAlways} {
			t.Run(name+"/"+string(repeat), func(t *testing.T) {
				t.Parallel()
				received := make(chan struct{}, 10)
				gateway := func(_ http.ResponseWriter, r *http.Request) {
					_, _ = io.Copy(io.Discard, r.Body)
					received <- struct{}{}
					<-r.Context().Done()
				}
				env := &testEnv{t: t, key: "slk_test"}
				c := env.newClient(client.Config{Timeout: 10 * time.Minute}, fakeGateway(t, gateway), fakeGateway(t, gateway))
				waitConnected(c, 2)
				ctx, cancel := context.WithCancel(t.Context())
				defer cancel()
				n := testNotification(1)
				n.OnUnknown = repeat
				var receipt push.Receipt
				var err error
				ended := make(chan struct{})
				go func() { defer close(ended); receipt, err = call(ctx, c, n) }()
				testwait.For(t, received, "the request")
				cancel()
				testwait.For(t, ended, "the end of the call")
				problem, ok := errors.AsType[*client.Error](err)
				if !ok || problem.Type != "unknown" || receipt.Verdict != push.Unknown && name != "SendEach" && name != "EnqueueEach" {
					t.Errorf("%+v %v", receipt, err)
				}
				if len(received) > 0 {
					t.Error("a second gateway got the request")
				}
			})
		}
	}
}

// TestCanceledBatchIsUnknown cancels a batch with more notifications than the gateway has received:
// those that were sent are unknown, the others unsent.
func TestCanceledBatchIsUnknown(t *testing.T) {
	t.Parallel()
	env := &testEnv{t: t, key: "slk_test"}
	received := make(chan struct{})
	c := env.newClient(client.Config{Streams: 1, Timeout: 10 * time.Minute}, fakeGateway(t, func(_ http.ResponseWriter, r *http.Request) {
		_, _ = io.ReadFull(r.Body, make([]byte, 1))
		close(received)
		_, _ = io.Copy(io.Discard, r.Body) // until the client disconnects
	}))
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	in := func(yield func(*push.Notification) bool) {
		if !yield(testNotification(0)) {
			return
		}
		testwait.For(t, received, "the request")
		cancel()
		yield(testNotification(1))
	}
	verdicts := map[int]push.Verdict{}
	for receipt, err := range c.SendBatch(ctx, in) {
		switch {
		case receipt.Index != nil && err != nil:
			verdicts[*receipt.Index] = receipt.Verdict
		case !errors.Is(err, context.Canceled):
			t.Errorf("%+v %v", receipt, err)
		}
	}
	if len(verdicts) != 2 || verdicts[0] != push.Unknown || verdicts[1] != push.Unknown && verdicts[1] != push.Unsent && verdicts[1] != push.Abandoned {
		t.Errorf("%v", verdicts)
	}
}

func TestCallCanceledBeforeRequestIsNotUnknown(t *testing.T) {
	env := &testEnv{t: t, key: "slk_test"}
	c := env.newClient(client.Config{}, fakeGateway(t, func(http.ResponseWriter, *http.Request) { t.Error("the gateway got a request") }))
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if receipt, err := c.Send(ctx, testNotification(1)); err == nil || receipt.Verdict != push.Abandoned {
		t.Errorf("%+v %v", receipt, err)
	}
}
