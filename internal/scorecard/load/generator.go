// SPDX-License-Identifier: Apache-2.0

// Package load sends notifications to a gateway on a fixed schedule and records the result of each.
// Results come from receipts only. What was delivered is in the mock provider's ledger.
package load

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"sync/atomic"
	"time"

	"github.com/sluice-push/sluice/push"
)

// Generator sends Count notifications for one app. Without a Window it is an open loop: each
// notification is due at a fixed time, and its latency counts from that time even if the gateway
// was not ready for it. A stall therefore shows in the latency of every notification that it
// delays.
//
// All notifications go through one streamed batch call. The receipts return on the same connection.
// One request per notification would use more CPU than the gateway that shares the machine.
type Generator struct {
	// URL is the base URL of the gateway, such as http://127.0.0.1:8080.
	URL string
	// App is the app to send for, and Key its API key.
	App, Key string
	// Count is the number of notifications. The gateway's limits.batch must allow it.
	Count int
	// Rate is the number of notifications due per second. With 0 all are due immediately.
	Rate float64
	// Window selects a closed loop: the next notification is due when fewer than Window are in
	// flight, and Rate is ignored. A closed loop measures throughput but hides stalls. 0 selects
	// the open loop.
	Window int
	// NewNotification returns the notification with index i.
	NewNotification func(i int) *push.Notification
}

// Run sends all notifications and returns when every receipt has arrived or ctx is done. An error
// says why receipts are missing. The results are valid in that case too and hold the receipts that
// arrived.
func (g Generator) Run(ctx context.Context) (Results, error) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	body, lines := io.Pipe()
	request, err := http.NewRequestWithContext(ctx, http.MethodPost, g.URL+"/v1/apps/"+g.App+"/notifications/batch", body)
	if err != nil {
		return Results{}, fmt.Errorf("load: %w", err)
	}
	request.Header.Set("Content-Type", "application/x-ndjson")
	request.Header.Set("Authorization", "Bearer "+g.Key)

	r := newRun(g)
	written := make(chan error, 1)
	go func() {
		err := r.writeAll(ctx, lines)
		_ = lines.CloseWithError(err) // a nil error ends the body
		written <- err
	}()
	err = r.readReceipts(request)
	cancel()
	_ = body.CloseWithError(context.Canceled)
	err = errors.Join(err, <-written)
	r.markLost()
	return r.results, err
}

// run is the state of one Generator.Run.
type run struct {
	Generator
	results  Results
	due      []atomic.Int64 // nanoseconds from the start until each notification is due
	slots    chan struct{}  // one element for each notification in flight; nil in an open loop
	interned map[string]string
}

func newRun(g Generator) *run {
	r := &run{
		Generator: g, due: make([]atomic.Int64, g.Count), interned: map[string]string{},
		results: Results{Started: time.Now(), Samples: make([]Sample, g.Count)},
	}
	if g.Window > 0 {
		r.slots = make(chan struct{}, g.Window)
	}
	return r
}

// writeAll writes each notification when it is due. Notifications that are due together share a
// write.
func (r *run) writeAll(ctx context.Context, w io.Writer) error {
	var buf bytes.Buffer
	for i := range r.Count {
		if err := r.waitUntilDue(ctx, i, &buf, w); err != nil {
			return err
		}
		line, err := json.Marshal(r.NewNotification(i))
		if err != nil {
			return fmt.Errorf("load: notification %d: %w", i, err)
		}
		buf.Write(line)
		buf.WriteByte('\n')
		if buf.Len() > 32<<10 {
			if err := flush(&buf, w); err != nil {
				return err
			}
		}
	}
	return flush(&buf, w)
}

// waitUntilDue returns when notification i is due. It flushes buf before it blocks.
func (r *run) waitUntilDue(ctx context.Context, i int, buf *bytes.Buffer, w io.Writer) error {
	if r.slots != nil {
		return r.waitForSlot(ctx, i, buf, w)
	}
	var due time.Duration
	if r.Rate > 0 {
		due = time.Duration(float64(i) / r.Rate * float64(time.Second))
	}
	r.due[i].Store(int64(due))
	wait := time.Until(r.results.Started.Add(due))
	if wait <= 0 {
		return ctx.Err()
	}
	if err := flush(buf, w); err != nil {
		return err
	}
	select {
	case <-time.After(wait):
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

func (r *run) waitForSlot(ctx context.Context, i int, buf *bytes.Buffer, w io.Writer) error {
	select {
	case r.slots <- struct{}{}:
	default:
		if err := flush(buf, w); err != nil {
			return err
		}
		select {
		case r.slots <- struct{}{}:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	r.due[i].Store(int64(time.Since(r.results.Started)))
	return nil
}

func flush(buf *bytes.Buffer, w io.Writer) error {
	if buf.Len() == 0 {
		return nil
	}
	_, err := w.Write(buf.Bytes())
	buf.Reset()
	return err
}
