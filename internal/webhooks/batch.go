// SPDX-License-Identifier: Apache-2.0

package webhooks

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"slices"
	"time"

	"github.com/sluice-push/sluice/push"
)

// webhookEvent is an event in the form that receivers get.
type webhookEvent struct {
	push.Event
	Cursor string `json:"cursor"`
}

// feedItem is what a feed yields: an event as JSON, only a cursor, or the error that ends the feed.
type feedItem struct {
	cursor string
	at     time.Time
	json   []byte
	trace  push.TraceContext
	err    error
}

// reader reads at most one event ahead. Events that the receiver has not accepted stay in the
// history.
type reader struct {
	feed       Feed
	app        string
	want       func(*push.Event) bool
	events     chan feedItem // closed after the last item
	pushedBack *feedItem     // read, but left for the next batch
}

var errFeedEnded = errors.New("the feed has ended")

func (r *reader) run(ctx context.Context, after string) {
	defer close(r.events)
	for e, err := range r.feed.Feed(ctx, r.app, after, r.want) {
		item := feedItem{cursor: e.Cursor, at: e.At, trace: e.TraceContext, err: err}
		if err == nil && e.ID != "" {
			e.KeyHash, e.BodyHash = nil, nil
			item.json, item.err = json.Marshal(webhookEvent{e, e.Cursor})
		}
		select {
		case r.events <- item:
		case <-ctx.Done():
			return
		}
	}
}

// batch holds the events of one message.
type batch struct {
	events []feedItem
	cursor string // of the last item, including those without an event
	size   int    // bytes of the events' JSON
}

// batch waits for an event and returns it with those that follow within Linger.
func (r *reader) batch(ctx context.Context, cfg Config) (b batch, err error) {
	var linger <-chan time.Time
	for len(b.events) < cfg.MaxEvents {
		item, open, lingered := r.next(ctx, linger)
		switch {
		case lingered:
			return b, nil
		case !open:
			return b, errors.Join(ctx.Err(), errFeedEnded)
		case item.err != nil:
			return b, item.err
		}
		if len(b.events) > 0 && b.size+len(item.json) > cfg.MaxBytes {
			r.pushedBack = &item
			return b, nil
		}
		if b.add(item); linger == nil {
			linger = time.After(cfg.Linger)
		}
	}
	return b, nil
}

func (r *reader) next(ctx context.Context, linger <-chan time.Time) (item feedItem, open, lingered bool) {
	if r.pushedBack != nil {
		item, r.pushedBack = *r.pushedBack, nil
		return item, true, false
	}
	select {
	case item, open = <-r.events:
		return item, open, false
	case <-linger:
		return item, true, true
	case <-ctx.Done():
		return item, false, false
	}
}

func (b *batch) add(item feedItem) {
	b.cursor = item.cursor
	if item.json != nil {
		b.events = append(b.events, item)
		b.size += len(item.json)
	}
}

// splitAt splits a batch into the events up to a time and the rest.
func (b batch) splitAt(until time.Time) (old, rest batch) {
	n := 0
	for n < len(b.events) && !b.events[n].at.After(until) {
		n++
	}
	if n == len(b.events) {
		return b, batch{cursor: b.cursor}
	}
	rest = batch{events: b.events[n:], cursor: b.cursor}
	if n > 0 {
		old = batch{events: b.events[:n], cursor: b.events[n-1].cursor}
	}
	return old, rest
}

// timeRange returns the times of the first and the last event.
func (b *batch) timeRange() (first, last time.Time) {
	return b.events[0].at, b.events[len(b.events)-1].at
}

// traces returns the different trace contexts of the events, and whether all events have one.
func (b *batch) traces() (traces []push.TraceContext, all bool) {
	all = true
	for _, e := range b.events {
		if e.trace.TraceParent == "" {
			all = false
		} else if !slices.Contains(traces, e.trace) {
			traces = append(traces, e.trace)
		}
	}
	return traces, all
}

// message returns the body of the message and its ID. The ID depends only on the events, so that a
// repeated message has the same one.
func (b *batch) message(webhook, app string) (id string, body []byte) {
	_, last := b.timeRange()
	sum := sha256.Sum256([]byte(webhook + "\x00" + b.events[0].cursor + "\x00" + b.events[len(b.events)-1].cursor))
	quoted, _ := json.Marshal(app) // encoding a string never fails
	body = append(body, `{"type":"notification.events","timestamp":"`...)
	body = last.UTC().AppendFormat(body, time.RFC3339Nano)
	body = append(append(append(body, `","data":{"app":`...), quoted...), `,"events":[`...)
	for i, e := range b.events {
		if i > 0 {
			body = append(body, ',')
		}
		body = append(body, e.json...)
	}
	return "msg_" + hex.EncodeToString(sum[:16]), append(body, "]}}"...)
}
