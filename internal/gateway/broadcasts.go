// SPDX-License-Identifier: Apache-2.0

package gateway

import (
	"context"
	"slices"

	natsjs "github.com/nats-io/nats.go/jetstream"

	"github.com/sluice-push/sluice/internal/broadcast"
	"github.com/sluice-push/sluice/internal/config"
	"github.com/sluice-push/sluice/internal/queue"
	"github.com/sluice-push/sluice/push"
)

var _ broadcast.Queue = (*queue.Queue)(nil)

// openBroadcasts opens the broadcasts of all apps. The queue and the history are open.
func (st *storage) openBroadcasts(ctx context.Context, cfg *config.Config, g *Gateway) (err error) {
	leases := checkpointStore{log: st.log}
	if !st.engine.Embedded() {
		leases.leases = st.engine.Bucket(natsjs.KeyValueConfig{Bucket: "SLUICE_BROADCAST_LEASES", TTL: leaseTTL, Storage: natsjs.MemoryStorage})
	}
	c := cfg.Broadcasts
	st.broadcasts, err = broadcast.Open(ctx, broadcast.Config{
		Engine: st.engine, Queue: st.Queue, Check: g.Check, Translate: g.broadcastRequest, Lease: leases.withLease, Logger: st.log,
		Record: func(ctx context.Context, events ...push.Event) error {
			_, err := st.History.Append(ctx, events...)
			return err
		},
		MaxLines: uint64(c.MaxLines), MaxBytes: int64(c.MaxBytes), ApproveAbove: uint64(c.ApproveAbove), Retention: c.Retention,
	})
	return err
}

// broadcastRequest returns the request that a provider gets for n, or nil if the app does not have the
// platform.
func (g *Gateway) broadcastRequest(n *push.Notification) (*broadcast.Request, error) {
	if !slices.Contains(g.platforms(n.App), n.Platform) {
		return nil, nil
	}
	request, err := g.consoleRequest(n)
	if err != nil {
		return nil, err
	}
	out := &broadcast.Request{Method: request.Method, URL: request.URL, Headers: []broadcast.Header{}, Payload: string(request.Body)}
	if request.Plaintext != nil {
		out.Payload = string(request.Plaintext)
	}
	for _, f := range request.Header {
		out.Headers = append(out.Headers, broadcast.Header(f))
	}
	return out, nil
}

// apiBroadcasts returns the broadcasts for the API, which are nil before open. It returns nil without a
// queue.
func (st *storage) apiBroadcasts() func() *broadcast.Manager {
	if st == nil {
		return nil
	}
	return func() *broadcast.Manager {
		if !st.opened.Load() {
			return nil
		}
		return st.broadcasts
	}
}

// broadcastStatus returns the state of the broadcasts for the metrics; nothing before open.
func (st *storage) broadcastStatus() []broadcast.Status {
	if !st.opened.Load() {
		return nil
	}
	return st.broadcasts.Status()
}
