// SPDX-License-Identifier: Apache-2.0

// Package loadtest offers a gateway notifications on a schedule that no answer can change, and keeps what came of each.
// It judges nothing: what was really delivered, only the provider can say.
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

// Generator is a number of notifications for one app. It is open-loop: each has its time, and its latency is counted from then
// on, whether the gateway was ready to take it or not. So a stall shows in the latencies of all that it held up.
//
// All go through one streamed batch call, a line for each at its time, and the receipts come back on the same connection
// as they end. A request of its own for each would cost the machine that both share more than the gateway does.
type Generator struct {
	// URL is the gateway's address, such as http://127.0.0.1:8080.
	URL string
	// App is who sends, and Key its API key.
	App, Key string
	// Count is how many notifications there are. The gateway's limits.batch must allow them.
	Count int
	// Rate is how many are due in a second; 0 means that all are due at once.
	Rate float64
	// Window makes the loop a closed one: the next notification is due when fewer than Window are in flight, and Rate does
	// not matter. It measures throughput, and hides stalls; 0 leaves the loop open.
	Window int
	// Compose writes the notification with index i.
	NewNotification func(i int) *push.Notification
}

// Run offers everything and returns once every receipt has come or ctx has ended. The results hold what came until then
// also when there is an error, which says why not all did.
func (l Generator) Run(ctx context.Context) (Results, error) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	body, lines := io.Pipe()
	request, err := http.NewRequestWithContext(ctx, http.MethodPost, l.URL+"/v1/apps/"+l.App+"/notifications/batch", body)
	if err != nil {
		return Results{}, fmt.Errorf("loadtest: %w", err)
	}
	request.Header.Set("Content-Type", "application/x-ndjson")
	request.Header.Set("Authorization", "Bearer "+l.Key)

	r := newRun(l)
	offered := make(chan error, 1)
	go func() {
		err := r.writeAll(ctx, lines)
		_ = lines.CloseWithError(err) // nil is the end of the body
		offered <- err
	}()
	err = r.readReceipts(request)
	cancel()
	_ = body.CloseWithError(context.Canceled)
	err = errors.Join(err, <-offered)
	r.markLost()
	return r.results, err
}

// run is a Load on its way.
type run struct {
	Generator
	results  Results
	due      []atomic.Int64 // when each was due, in nanoseconds since the beginning
	slots    chan struct{}  // those of the window; nil without one
	interned map[string]string
}

func newRun(l Generator) *run {
	r := &run{
		Generator: l, due: make([]atomic.Int64, l.Count), interned: map[string]string{},
		results: Results{Started: time.Now(), Samples: make([]Sample, l.Count)},
	}
	if l.Window > 0 {
		r.slots = make(chan struct{}, l.Window)
	}
	return r
}

// writeAll writes every notification at its time, and those that are due together in one piece.
func (r *run) writeAll(ctx context.Context, to io.Writer) error {
	var piece bytes.Buffer
	for i := range r.Count {
		if err := r.waitUntilDue(ctx, i, &piece, to); err != nil {
			return err
		}
		line, err := json.Marshal(r.NewNotification(i))
		if err != nil {
			return fmt.Errorf("loadtest: notification %d: %w", i, err)
		}
		piece.Write(line)
		piece.WriteByte('\n')
		if piece.Len() > 32<<10 {
			if err := flush(&piece, to); err != nil {
				return err
			}
		}
	}
	return flush(&piece, to)
}

// waitUntilDue returns when notification i is due. Before it sleeps it writes what has gathered.
func (r *run) waitUntilDue(ctx context.Context, i int, piece *bytes.Buffer, to io.Writer) error {
	if r.slots != nil {
		return r.waitForSlot(ctx, i, piece, to)
	}
	var due time.Duration
	if r.Rate > 0 {
		due = time.Duration(float64(i) / r.Rate * float64(time.Second))
	}
	r.due[i].Store(int64(due))
	left := time.Until(r.results.Started.Add(due))
	if left <= 0 {
		return ctx.Err()
	}
	if err := flush(piece, to); err != nil {
		return err
	}
	select {
	case <-time.After(left):
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

func (r *run) waitForSlot(ctx context.Context, i int, piece *bytes.Buffer, to io.Writer) error {
	select {
	case r.slots <- struct{}{}:
	default:
		if err := flush(piece, to); err != nil {
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

func flush(piece *bytes.Buffer, to io.Writer) error {
	if piece.Len() == 0 {
		return nil
	}
	_, err := to.Write(piece.Bytes())
	piece.Reset()
	return err
}
