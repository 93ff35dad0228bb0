// SPDX-License-Identifier: Apache-2.0

package webhook

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"time"

	"github.com/sluice-push/sluice/push"
)

// told is an event as receivers see it.
type told struct {
	push.Event
	Cursor string `json:"cursor"`
}

// item is what a feed gave: an event in JSON, a mark with a cursor alone, or why there is no more.
type item struct {
	cursor string
	at     time.Time
	text   []byte
	err    error
}

// reader reads a feed one event ahead, and no more: what the receiver does not take stays where it is kept.
type reader struct {
	feed   Feed
	app    string
	want   func(*push.Event) bool
	events chan item // closed behind the last
	put    *item     // back, for the next batch
}

var errFeedEnded = errors.New("the feed has ended")

func (r *reader) run(ctx context.Context, after string) {
	defer close(r.events)
	for e, err := range r.feed.Feed(ctx, r.app, after, r.want) {
		i := item{cursor: e.Cursor, at: e.At, err: err}
		if err == nil && e.ID != "" {
			e.KeyHash, e.BodyHash = nil, nil
			i.text, i.err = json.Marshal(told{e, e.Cursor})
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
	events []item
	until  string // the cursor of the last thing that was read, marks included
	size   int    // of the texts
}

// batch waits for an event and takes those that come soon after.
func (r *reader) batch(ctx context.Context, cfg Config) (b batch, err error) {
	var soon <-chan time.Time
	for len(b.events) < cfg.Most {
		i, open, late := r.next(ctx, soon)
		switch {
		case late:
			return b, nil
		case !open:
			return b, errors.Join(ctx.Err(), errFeedEnded)
		case i.err != nil:
			return b, i.err
		}
		if len(b.events) > 0 && b.size+len(i.text) > cfg.MostBytes {
			r.put = &i
			return b, nil
		}
		if b.add(i); soon == nil {
			soon = time.After(cfg.Linger)
		}
	}
	return b, nil
}

func (r *reader) next(ctx context.Context, soon <-chan time.Time) (i item, open, late bool) {
	if r.put != nil {
		i, r.put = *r.put, nil
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

func (b *batch) add(i item) {
	b.until = i.cursor
	if i.text != nil {
		b.events = append(b.events, i)
		b.size += len(i.text)
	}
}

// cut parts a batch into the events that happened up to a time, and the rest.
func (b batch) cut(until time.Time) (old, rest batch) {
	n := 0
	for n < len(b.events) && !b.events[n].at.After(until) {
		n++
	}
	if n == len(b.events) {
		return b, batch{until: b.until}
	}
	rest = batch{events: b.events[n:], until: b.until}
	if n > 0 {
		old = batch{events: b.events[:n], until: b.events[n-1].cursor}
	}
	return old, rest
}

// happened is when the first and the last of the events did.
func (b *batch) happened() (first, last time.Time) {
	return b.events[0].at, b.events[len(b.events)-1].at
}

// message is the batch as it is posted, and its ID, the same for the same events however often they are posted.
func (b *batch) message(webhook, app string) (id string, body []byte) {
	_, last := b.happened()
	sum := sha256.Sum256([]byte(webhook + "\x00" + b.events[0].cursor + "\x00" + b.events[len(b.events)-1].cursor))
	quoted, _ := json.Marshal(app) // a text has a JSON form always
	body = append(body, `{"type":"notification.events","timestamp":"`...)
	body = last.UTC().AppendFormat(body, time.RFC3339Nano)
	body = append(append(append(body, `","data":{"app":`...), quoted...), `,"events":[`...)
	for i, e := range b.events {
		if i > 0 {
			body = append(body, ',')
		}
		body = append(body, e.text...)
	}
	return "msg_" + hex.EncodeToString(sum[:16]), append(body, "]}}"...)
}
