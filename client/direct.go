// SPDX-License-Identifier: Apache-2.0

package client

import (
	"context"
	"iter"
	"log/slog"
	"time"

	"github.com/google/uuid"

	"github.com/sluice-push/sluice/push"
)

// Sender sends one notification. delivery.Table implements it.
type Sender interface {
	Send(ctx context.Context, n *push.Notification) push.Receipt
}

// Direct returns a client that needs no gateway: it passes every notification to s in the same
// process. Code that was written for a Client works unchanged, except Enqueue and Events, which
// need a gateway's queue.
func Direct(app string, s Sender) *Client {
	c := &Client{cfg: Config{App: app}, direct: s, close: func() error { return nil }, log: slog.New(slog.DiscardHandler)}
	c.cfg.fill()
	return c
}

// sendDirect sets the fields that a gateway sets, and sends the notification.
func (c *Client) sendDirect(ctx context.Context, n *push.Notification) (push.Receipt, error) {
	named := *n
	named.App, named.AcceptedAt = c.cfg.App, time.Now()
	if _, err := uuid.Parse(n.ID); err != nil {
		named.ID = uuid.Must(uuid.NewV7()).String()
	}
	r := c.direct.Send(ctx, &named)
	return r, errorFor(r, nil)
}

// maxDirectInFlight is the number of concurrent notifications of a direct client's batch.
const maxDirectInFlight = 512

// batchDirect is SendBatch for a direct client.
func (c *Client) batchDirect(ctx context.Context, in iter.Seq[*push.Notification], yield func(push.Receipt, error) bool) {
	b := newBatch(ctx, c, in)
	defer b.close()
	b.startWorker = func(first *item) bool {
		if b.workerCount == maxDirectInFlight {
			return false
		}
		b.workerCount++
		b.workers.Go(func() {
			for it, ok := first, true; ok; it, ok = b.next() {
				ctx, cancel := c.withTimeout(b.ctx)
				r, err := c.sendDirect(ctx, it.n)
				cancel()
				b.report(it, r, err)
			}
		})
		return true
	}
	b.run(yield)
}
