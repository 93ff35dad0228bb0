// SPDX-License-Identifier: Apache-2.0

package api

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"net/http"
	"slices"
	"strings"
	"time"

	"github.com/sluice-push/sluice/push"
)

const (
	heartbeat     = 15 * time.Second       // between two comments that keep a quiet feed's connection open
	feedErrorWait = 200 * time.Millisecond // for the history to say that it knows no such cursor, before the answer begins
	maxFeedWrite  = 64 << 10               // bytes of events that leave in one write
)

// feedItem is what the history gives to a feed: an event, or why there are no more.
type feedItem struct {
	event push.Event
	err   error
}

// feed is one reader of an app's events.
type feed struct {
	*server
	w       *response
	control *http.ResponseController
	next    chan feedItem // closed behind the last
	text    bytes.Buffer
}

// events is GET /v1/apps/{app}/events: every change of state as it happens, as server-sent events (WHATWG HTML §9.2). A
// reader who is too slow is cut off; it comes back with the last id it saw, and the history has kept its place.
func (a *server) events(w *response, r *http.Request) *problem {
	if a.history == nil {
		return &problem{kind: needsQueue, detail: "the feed of events needs a queue; without one the receipts tell everything"}
	}
	want, p := typeFilter(r)
	if p != nil {
		return p
	}
	ctx, leave := context.WithCancel(r.Context())
	f := &feed{server: a, w: w, control: http.NewResponseController(w.ResponseWriter), next: make(chan feedItem)}
	go f.receive(ctx, w.app, feedCursor(r), want)
	defer func() {
		leave()
		for range f.next { // until listen has ended
		}
	}()
	return f.run(ctx, r.Method == http.MethodHead)
}

// receive hands on what the history gives, one by one: what a slow reader has not taken stays there.
func (f *feed) receive(ctx context.Context, app, after string, want func(*push.Event) bool) {
	defer close(f.next)
	for e, err := range f.history.Feed(ctx, app, after, want) {
		select {
		case f.next <- feedItem{e, err}:
		case <-ctx.Done():
			return
		}
	}
}

// run writes until the reader, the gateway or the history leaves.
func (f *feed) run(ctx context.Context, headOnly bool) *problem {
	var first *feedItem
	select {
	case t, ok := <-f.next:
		if !ok || t.err != nil {
			return f.feedProblem(ctx, t.err)
		}
		first = &t
	case <-time.After(feedErrorWait):
	case <-ctx.Done():
		return nil
	}
	f.start()
	if headOnly {
		return nil
	}
	if first != nil {
		f.add(*first)
	}
	beat := time.NewTicker(heartbeat)
	defer beat.Stop()
	for f.flush() == nil {
		select {
		case t, ok := <-f.next:
			if !ok || !f.addAvailable(ctx, t) {
				_ = f.flush() // nobody is left to tell
				return nil
			}
		case <-beat.C:
			f.text.WriteString(":\n\n")
		case <-f.draining:
			return nil
		case <-ctx.Done():
			return nil
		}
	}
	return nil
}

func (f *feed) start() {
	h := f.w.Header()
	h["Content-Type"] = eventType
	h["X-Accel-Buffering"] = []string{"no"} // nginx would hold the events back
	f.w.WriteHeader(http.StatusOK)
	f.text.WriteString("retry: 1000\n\n")
}

// addAvailable adds an event, and those that are there already; false means that the feed has ended.
func (f *feed) addAvailable(ctx context.Context, t feedItem) bool {
	for ok := true; ; {
		if !ok {
			return false
		}
		if t.err != nil {
			f.writeProblem(f.feedProblem(ctx, t.err))
			return false
		}
		f.add(t)
		if f.text.Len() >= maxFeedWrite {
			return true
		}
		select {
		case t, ok = <-f.next:
		default:
			return true
		}
	}
}

// add writes an event as its reader sees it: id is the cursor, event the status.
func (f *feed) add(t feedItem) {
	if t.event.ID == "" { // a place to resume at, of which no reader is told but in its last id
		f.text.WriteString("id: " + t.event.Cursor + "\n\n")
		return
	}
	t.event.KeyHash, t.event.BodyHash = nil, nil
	data, err := json.Marshal(t.event)
	if err != nil { // a fault of ours; the reader learns of the others
		return
	}
	f.text.WriteString("id: " + t.event.Cursor + "\nevent: " + string(t.event.Status) + "\ndata: ")
	f.text.Write(data)
	f.text.WriteString("\n\n")
}

// writeProblem writes a problem as the last event.
func (f *feed) writeProblem(p *problem) {
	f.text.WriteString("event: problem\ndata: ")
	f.text.Write(bytes.TrimSpace(p.reply(f.w.requestID).body))
	f.text.WriteString("\n\n")
}

func (f *feed) flush() error {
	if f.text.Len() == 0 {
		return nil
	}
	_ = f.control.SetWriteDeadline(time.Now().Add(f.limits.WriteTimeout))
	_, err := f.w.Write(f.text.Bytes())
	f.text.Reset()
	return errors.Join(err, f.control.Flush())
}

// feedProblem is the problem of a feed that the history does not give.
func (f *feed) feedProblem(ctx context.Context, err error) *problem {
	switch {
	case errors.Is(err, push.ErrCursorExpired):
		return &problem{kind: cursorExpired, field: "after",
			detail: "must be a cursor whose next event is still kept: after=oldest begins with the oldest, and what lies between is lost"}
	case errors.Is(err, push.ErrInvalidCursor):
		return &problem{kind: invalidParameter, field: "after", detail: "must be the id of an event of this feed, or oldest"}
	}
	p := f.storageUnavailable(ctx, err)
	p.detail = "ask again after the seconds in Retry-After, with the last id that you saw"
	return &p
}

// feedCursor is behind which event to begin. A reader who comes back says it in the header, with the same URL as before.
func feedCursor(r *http.Request) string {
	if id := r.Header.Get("Last-Event-ID"); id != "" {
		return id
	}
	return r.URL.Query().Get("after")
}

// feedStatuses are those that a feed can be asked for.
var feedStatuses = []push.Status{
	push.StatusQueued, push.StatusScheduled, push.StatusSending, push.StatusAccepted, push.StatusUnregistered, push.StatusRefused,
	push.StatusThrottled, push.StatusUnauthorized, push.StatusUnavailable, push.StatusUnknown, push.StatusExpired, push.StatusCancelled,
}

// typeFilter reads the parameter type: statuses, given several times or with commas between them. Without it all are wanted.
func typeFilter(r *http.Request) (func(*push.Event) bool, *problem) {
	var types []push.Status
	for _, list := range r.URL.Query()["type"] {
		for word := range strings.SplitSeq(list, ",") {
			if !slices.Contains(feedStatuses, push.Status(word)) {
				return nil, &problem{kind: invalidParameter, field: "type", detail: "must be of " + joinStatuses(feedStatuses)}
			}
			types = append(types, push.Status(word))
		}
	}
	return func(e *push.Event) bool { return types == nil || e.ID == "" || slices.Contains(types, e.Status) }, nil
}

func joinStatuses(of []push.Status) string {
	text := make([]string, len(of))
	for i, s := range of {
		text[i] = string(s)
	}
	return strings.Join(text, ", ")
}
