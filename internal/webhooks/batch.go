// SPDX-License-Identifier: Apache-2.0

package webhooks

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"time"

	"github.com/sluice-push/sluice/push"
)

// webhookEvent is an event as receivers see it.
type webhookEvent struct {
	push.Event
	Cursor string `json:"cursor"`
}

// feedItem is what a feed gave: an event in JSON, a mark with a cursor alone, or why there is no more.
type feedItem struct {
	cursor string
	at     time.Time
	json   []byte
	err    error
}

// reader reads a feed one event ahead, and no more: what the receiver does not take stays where it is kept.
type reader struct {
	feed       Feed
	app        string
	want       func(*push.Event) bool
	events     chan feedItem // closed behind the last
	pushedBack *feedItem     // back, for the next batch
}

var errFeedEnded = errors.New("the feed has ended")

func (r *reader) run(ctx context.Context, after string) {
	defer close(r.events)
	for e, err := range r.feed.Feed(ctx, r.app, after, r.want) {
		i := feedItem{cursor: e.Cursor, at: e.At, err: err}
		if err == nil && e.ID != "" {
			e.KeyHash, e.BodyHash = nil, nil
			i.json, i.err = json.Marshal(webhookEvent{e, e.Cursor})
		}
		select {
		case r.events <- i:
		case <-ctx.Done():
			return
		}
	}
}

// batch is the events of one message.
type batch struct {
	events []feedItem
	cursor string // the cursor of the last thing that was read, marks included
	size   int    // of the texts
}

// batch waits for an event and takes those that come soon after.
func (r *reader) batch(ctx context.Context, cfg Config) (b batch, err error) {
	var soon <-chan time.Time
	for len(b.events) < cfg.MaxEvents {
		i, open, late := r.next(ctx, soon)
		switch {
		case late:
			return b, nil
		case !open:
			return b, errors.Join(ctx.Err(), errFeedEnded)
		case i.err != nil:
			return b, i.err
		}
		if len(b.events) > 0 && b.size+len(i.json) > cfg.MaxBytes {
			r.pushedBack = &i
			return b, nil
		}
		if b.add(i); soon == nil {
			soon = time.After(cfg.Linger)
		}
	}
	return b, nil
}

func (r *reader) next(ctx context.Context, soon <-chan time.Time) (i feedItem, open, late bool) {
	if r.pushedBack != nil {
		i, r.pushedBack = *r.pushedBack, nil
		return i, true, false
	}
	select {
	case i, open = <-r.events:
		return i, open, false
	case <-soon:
		return i, true, true
	case <-ctx.Done():
		return i, false, false
	}
}

func (b *batch) add(i feedItem) {
	b.cursor = i.cursor
	if i.json != nil {
		b.events = append(b.events, i)
		b.size += len(i.json)
	}
}

// splitAt parts a batch into the events that happened up to a time, and the rest.
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

// timeRange is when the first and the last of the events did.
func (b *batch) timeRange() (first, last time.Time) {
	return b.events[0].at, b.events[len(b.events)-1].at
}

// message is the batch as it is posted, and its ID, the same for the same events however often they are posted.
func (b *batch) message(webhook, app string) (id string, body []byte) {
	_, last := b.timeRange()
	sum := sha256.Sum256([]byte(webhook + "\x00" + b.events[0].cursor + "\x00" + b.events[len(b.events)-1].cursor))
	quoted, _ := json.Marshal(app) // a text has a JSON form always
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
