// SPDX-License-Identifier: Apache-2.0

// Package load sends notifications to a gateway or to a comparable product, and records the result of
// each. The load is an open loop with a fixed rate, or a closed loop with a fixed number of calls in
// flight. Results come from receipts only; what was delivered is in the mock provider's ledger.
package load

import (
	"cmp"
	"context"
	"crypto/tls"
	"sync"
	"time"
)

// Generator sends load. In an open loop each notification is due at a fixed time, and its latency
// counts from that time even if the gateway was not ready for it: a stall shows in the latency of
// every notification that it delays.
type Generator struct {
	// URL is the base URL of the API, such as http://127.0.0.1:8080, and Key the API key of all Apps.
	// The calls go to the apps in turn.
	URL, Key string
	Apps     []string
	// API is sluice, gorush or pushsphere. Empty means sluice.
	API string
	// Async queues the notifications (Prefer: respond-async). Only sluice has it.
	Async bool
	// HTTP2 makes the calls over HTTP/2, without TLS if URL is http. Calls share connections.
	HTTP2 bool
	// TLS configures https connections; nil trusts the system's authorities.
	TLS *tls.Config

	// Append appends notification i in the format of the API.
	Append func(b []byte, i int) []byte
	// Send replaces the API if it is set: it sends notification i, and may set the fields of a result
	// that the recorder needs. Each call has a goroutine of its own.
	Send func(ctx context.Context, i int) Result

	// InFlight selects a closed loop: a call is due when fewer than InFlight are in flight. It measures
	// throughput but hides stalls. 0 selects an open loop with Rate notifications per second; with
	// Rate 0, all are due immediately.
	InFlight int
	Rate     float64
	// The load ends after Count notifications, if it is not 0, or after Duration.
	Count    int
	Duration time.Duration
	// Batch is the number of notifications per call; 0 and 1 use the API for single notifications.
	Batch int
	// Stream makes one batch call for all notifications, and sends each when it is due. It costs less
	// CPU time than a call for each. Count is required, InFlight counts notifications, and HTTP2 has no
	// effect.
	Stream bool
	// MaxConnections limits the connections of an open loop, or the calls with HTTP2; 0 means 1,000. A
	// call that is due while all are busy waits for one, and that time is part of its latency.
	MaxConnections int
	// Timeout is how long a call waits for more of its response, and DrainTimeout how long Run waits at
	// the end for calls in flight; 0 means 30 s.
	Timeout, DrainTimeout time.Duration

	// Recorder gets the results.
	Recorder Recorder
	// Start is when the first notification is due; zero means when Run is called.
	Start time.Time
}

// Recorder records what a generator does. Its methods are called concurrently. due counts from
// Generator.Start.
type Recorder interface {
	// Offered says that n notifications from the one with the number first are due. It precedes all
	// their results.
	Offered(first, n int, due time.Duration)
	// Sent says that a call was sent, and how long after it was due.
	Sent(due, delay time.Duration)
	// Answered gets a result that arrived at now. An error ends the call.
	Answered(r *Result, now time.Time) error
	// Lost says that n notifications of a call have no result, and why.
	Lost(n int, due time.Duration, reason string)
	// Ended says that no further notification is due. Results can follow.
	Ended()
}

// Accepted is the status of a notification that the provider accepted, and Rejected that of one which
// got an error response without a receipt.
const (
	Accepted = "accepted"
	Rejected = "rejected"
)

// Result is the result of one notification. It is valid until the recorder returns.
type Result struct {
	Index          int    // number of the notification
	ID             []byte // in the receipt
	Status, Reason string
	Attempts       []Attempt
	Due            time.Duration
	Latency        time.Duration // since the notification was due
	SinceSent      time.Duration // since its call was sent
	Single         bool          // the call had one notification
	HTTPStatus     int           // of the response
	RetryAfter     string        // header field of the response
}

// Attempt is one attempt on one endpoint.
type Attempt struct {
	Endpoint, Status string
	Took             time.Duration
}

// Run sends the load and returns when every call has ended, at most DrainTimeout after the last one
// was due. When ctx is done, no further call is due; a stream also ends. The error says why a stream
// has not got all its receipts, or what is wrong with the configuration.
func (g Generator) Run(ctx context.Context) error {
	w, err := g.newPool()
	if err != nil {
		return err
	}
	switch {
	case g.Stream:
		return w.stream(ctx)
	case g.Send != nil:
		w.sendAll(ctx)
		return nil
	}
	callCtx, cancelCalls := context.WithCancel(context.WithoutCancel(ctx))
	defer cancelCalls()
	w.ctx = callCtx
	if g.InFlight > 0 {
		w.schedule.runClosedLoop(ctx, g.InFlight, w.runClosedLoop)
	} else {
		w.schedule.runOpenLoop(ctx, w.submit)
	}
	g.Recorder.Ended()
	w.drain(w.DrainTimeout, cancelCalls)
	return nil
}

func (g Generator) newPool() (*workerPool, error) {
	g.Timeout, g.DrainTimeout, g.MaxConnections = cmp.Or(g.Timeout, 30*time.Second), cmp.Or(g.DrainTimeout, 30*time.Second), cmp.Or(g.MaxConnections, 1000)
	if g.Start.IsZero() {
		g.Start = time.Now()
	}
	g.Batch = max(g.Batch, 1)
	p := &workerPool{Generator: g, schedule: schedule{start: g.Start, duration: g.Duration, rate: g.Rate / float64(g.Batch), limit: g.Count / g.Batch}}
	if g.Send != nil {
		return p, nil
	}
	var err error
	if p.api, err = newAPI(&g); err != nil {
		return nil, err
	}
	if g.HTTP2 {
		p.transport = newHTTP2Transport(g.TLS)
	}
	return p, nil
}

// sendAll calls Send for each notification.
func (p *workerPool) sendAll(ctx context.Context) {
	var calls sync.WaitGroup
	p.schedule.runOpenLoop(ctx, func(i int, due time.Duration) {
		p.Recorder.Offered(i, 1, due)
		calls.Go(func() {
			sent := time.Now()
			r := p.Send(ctx, i)
			now := time.Now()
			r.Index, r.Due, r.Single = i, due, true
			r.Latency, r.SinceSent = now.Sub(p.Start)-due, now.Sub(sent)
			_ = p.Recorder.Answered(&r, now) // the call has ended anyway
		})
	})
	p.Recorder.Ended()
	calls.Wait()
}
