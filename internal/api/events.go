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

	"github.com/sluice-push/sluice/internal/broadcast"
	"github.com/sluice-push/sluice/internal/panics"
	"github.com/sluice-push/sluice/push"
)

const (
	heartbeat     = 15 * time.Second       // interval of the comments that keep an idle connection open
	feedErrorWait = 200 * time.Millisecond // time for the history to reject the cursor before the response starts
	maxFeedWrite  = 64 << 10               // bytes of events in one write
)

// feedItem is what a feed of the history yields: an event, or the error that ends it.
type feedItem struct {
	event push.Event
	err   error
}

// feed is one client's feed of an app's events.
type feed struct {
	*server
	w       *response
	control *http.ResponseController
	next    chan feedItem // closed after the last item
	text    bytes.Buffer
}

// events handles GET /v1/apps/{app}/events. It streams every event of an app as a server-sent event
// (WHATWG HTML §9.2). A client that reads too slowly is disconnected. It can resume with the last
// ID that it received, because the history still has the events.
func (s *server) events(w *response, r *http.Request) *problem {
	if s.history == nil {
		return &problem{kind: needsQueue, detail: "the event feed needs a queue"}
	}
	want, p := typeFilter(r)
	if p != nil {
		return p
	}
	ctx, cancel := context.WithCancel(r.Context())
	f := &feed{server: s, w: w, control: http.NewResponseController(w.ResponseWriter), next: make(chan feedItem)}
	go f.receive(ctx, w.app, feedCursor(r), want)
	defer func() {
		cancel()
		for range f.next { // until receive has returned
		}
	}()
	return f.run(ctx, r.Method == http.MethodHead)
}

// receive passes on the events of the history one by one. Events that a slow client has not read
// stay in the history.
func (f *feed) receive(ctx context.Context, app, after string, want func(*push.Event) bool) {
	defer close(f.next)
	_ = panics.Recover(f.log, "event feed of "+app, func() error { // the feed ends, and the client reconnects
		for e, err := range f.history.Feed(ctx, app, after, want) {
			select {
			case f.next <- feedItem{e, err}:
			case <-ctx.Done():
				return nil
			}
		}
		return nil
	})
}

// run writes events until the client disconnects, its key is revoked, the gateway drains or the
// history ends the feed.
func (f *feed) run(ctx context.Context, headOnly bool) *problem {
	var first *feedItem
	select {
	case item, ok := <-f.next:
		if !ok || item.err != nil {
			return f.feedProblem(ctx, item.err)
		}
		first = &item
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
	ticker := time.NewTicker(heartbeat)
	defer ticker.Stop()
	for {
		if p := f.w.access.check(); p != nil {
			f.text.Reset() // events since the key was revoked
			f.writeProblem(p)
			_ = f.flush() // the feed ends anyway
			return nil
		}
		if f.flush() != nil {
			return nil
		}
		select {
		case item, ok := <-f.next:
			if !ok || !f.addAvailable(ctx, item) {
				_ = f.flush() // the feed ends anyway
				return nil
			}
		case <-ticker.C:
			f.text.WriteString(":\n\n")
		case <-f.w.access.changed():
		case <-f.draining:
			return nil
		case <-ctx.Done():
			return nil
		}
	}
}

func (f *feed) start() {
	h := f.w.Header()
	h["Content-Type"] = eventType
	h["X-Accel-Buffering"] = []string{"no"} // otherwise nginx buffers the events
	f.w.WriteHeader(http.StatusOK)
	f.text.WriteString("retry: 1000\n\n")
}

// addAvailable adds an event and those that are available without waiting. It returns false if the
// feed has ended.
func (f *feed) addAvailable(ctx context.Context, item feedItem) bool {
	for ok := true; ; {
		if !ok {
			return false
		}
		if item.err != nil {
			f.writeProblem(f.feedProblem(ctx, item.err))
			return false
		}
		f.add(item)
		if f.text.Len() >= maxFeedWrite {
			return true
		}
		select {
		case item, ok = <-f.next:
		default:
			return true
		}
	}
}

// add formats an event: its id is the cursor, and its type is the status.
func (f *feed) add(item feedItem) {
	if item.event.ID == "" { // only moves the client's last event ID forward
		f.text.WriteString("id: " + item.event.Cursor + "\n\n")
		return
	}
	item.event.KeyHash, item.event.BodyHash = nil, nil
	data, err := json.Marshal(item.event)
	if err != nil { // a bug; the other events are still sent
		return
	}
	f.text.WriteString("id: " + item.event.Cursor + "\nevent: " + string(item.event.Status) + "\ndata: ")
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

// feedProblem returns the problem for an error of the history's feed.
func (f *feed) feedProblem(ctx context.Context, err error) *problem {
	switch {
	case errors.Is(err, push.ErrCursorExpired):
		return &problem{kind: cursorExpired, field: "after",
			detail: "must be a cursor whose next event is still stored: after=oldest starts with the oldest event, and the events in between are lost"}
	case errors.Is(err, push.ErrInvalidCursor):
		return &problem{kind: invalidParameter, field: "after", detail: "must be the id of an event of this feed, or oldest"}
	}
	p := f.storageUnavailable(ctx, err)
	p.detail = "reconnect after the time in Retry-After with the last id that you received"
	return p
}

// feedCursor returns the cursor after which the feed starts. A client that reconnects sends it in
// the header, with an unchanged URL.
func feedCursor(r *http.Request) string {
	if id := r.Header.Get("Last-Event-ID"); id != "" {
		return id
	}
	return r.URL.Query().Get("after")
}

// feedStatuses are the statuses that the parameter type may contain.
var feedStatuses = []push.Status{
	push.StatusQueued, push.StatusScheduled, push.StatusSending, push.StatusAccepted, push.StatusUnregistered, push.StatusRefused,
	push.StatusThrottled, push.StatusUnauthorized, push.StatusUnavailable, push.StatusUnknown, push.StatusExpired, push.StatusCancelled,
}

// broadcastStatuses are the statuses of events of broadcasts, which the parameter type may contain, too.
var broadcastStatuses = broadcast.Statuses()

// typeFilter returns the filter for the parameter type, which can be repeated and can contain
// commas. Without it, all events pass.
func typeFilter(r *http.Request) (func(*push.Event) bool, *problem) {
	var types []push.Status
	for _, list := range r.URL.Query()["type"] {
		for status := range strings.SplitSeq(list, ",") {
			if !slices.Contains(feedStatuses, push.Status(status)) && !slices.Contains(broadcastStatuses, push.Status(status)) {
				return nil, &problem{kind: invalidParameter, field: "type", detail: "must be one or more of " + joinStatuses(slices.Concat(feedStatuses, broadcastStatuses))}
			}
			types = append(types, push.Status(status))
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
