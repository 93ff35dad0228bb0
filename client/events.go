// SPDX-License-Identifier: Apache-2.0

package client

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"io"
	"iter"
	"mime"
	"net/http"
	"net/url"
	"strings"
	"time"

	"github.com/sluice-push/sluice/pool"
	"github.com/sluice-push/sluice/push"
)

const (
	reconnectDelay  = time.Second      // delay between two connections of a feed
	feedIdleTimeout = 45 * time.Second // three heartbeats of the gateway
)

// Events yields the events of the app's notifications until ctx ends or the loop ends: all events,
// or only those with the given statuses. after is the Cursor of the last event that was processed;
// "" starts with the next event. If a connection or gateway is lost, Events continues at another
// one without missing events. An error ends the sequence. The key needs the scope read.
//
//	for event, err := range c.Events(ctx, cursor, push.StatusUnregistered) {
//		...
//	}
func (c *Client) Events(ctx context.Context, after string, types ...push.Status) iter.Seq2[push.Event, error] {
	return func(yield func(push.Event, error) bool) {
		if c.direct != nil {
			yield(push.Event{}, errNeedsGateway)
			return
		}
		f := &feed{Client: c, after: after, query: query(types), yield: yield}
		for f.readOnce(ctx) {
			select {
			case <-ctx.Done():
			case <-time.After(reconnectDelay):
			}
		}
	}
}

func query(types []push.Status) string {
	if len(types) == 0 {
		return ""
	}
	return "?" + url.Values{"type": statusStrings(types)}.Encode()
}

func statusStrings(types []push.Status) (list []string) {
	for _, t := range types {
		list = append(list, string(t))
	}
	return list
}

// feed reads events over one connection after another.
type feed struct {
	*Client
	after     string // the last cursor
	query     string
	yield     func(push.Event, error) bool
	data      strings.Builder
	eventType string
	id        string // of the event that is being read
	logged    string // the last cause that was logged
}

var errStopped = errors.New("the loop ended")

// readOnce reads from one gateway until its feed ends. It returns whether to continue at another
// gateway.
func (f *feed) readOnce(ctx context.Context) bool {
	err := f.connect(ctx)
	if errors.Is(err, errStopped) {
		return false
	}
	apiErr, ok := errors.AsType[*Error](err)
	switch {
	case ctx.Err() != nil:
		f.yield(push.Event{}, ctx.Err())
		return false
	case ok:
		f.yield(push.Event{}, apiErr)
		return false
	}
	return true
}

// connect reads from one gateway. An *Error ends the whole feed; any other error ends only this
// connection.
func (f *feed) connect(ctx context.Context) error {
	lease, err := f.pool.Pick(ctx, nil)
	if err != nil {
		r := push.Receipt{Outcome: push.NoResponse(err)}
		return errorFor(r, nil)
	}
	conn := lease.Conn().(*gatewayConn)
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	stop := make(chan struct{})
	defer close(stop)
	go func() {
		select {
		case <-conn.draining:
			cancel()
		case <-stop:
		}
	}()
	res, err := f.request(ctx, conn)
	if err != nil {
		lease.Done(push.Outcome{Verdict: push.Unavailable, Scope: push.ScopeEndpoint, Reason: reasonNoGateway})
		return err
	}
	defer func() { _ = res.Body.Close(); conn.http.CloseIdleConnections() }()
	idle := time.AfterFunc(feedIdleTimeout, cancel)
	defer idle.Stop()
	if !isFeed(res) {
		refusal := readRefusal(res)
		lease.Done(refusal.outcome())
		f.logIntermediary(lease.Endpoint(), refusal)
		return feedError(refusal)
	}
	lease.Done(push.Outcome{Verdict: push.Accepted, HTTP: res.StatusCode}) // a feed does not count as a call in flight
	return f.read(res.Body, func() { idle.Reset(feedIdleTimeout) })
}

func (f *feed) request(ctx context.Context, conn *gatewayConn) (*http.Response, error) {
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, conn.base.String()+f.path+"events"+f.query, nil)
	if err != nil {
		return nil, err
	}
	request.Header.Set("Authorization", "Bearer "+string(f.cfg.Key))
	request.Header.Set("Accept", "text/event-stream")
	if f.after != "" {
		request.Header.Set("Last-Event-ID", f.after)
	}
	return conn.http.RoundTrip(request)
}

// isFeed reports whether a response is a feed of a gateway.
func isFeed(res *http.Response) bool {
	media, _, err := mime.ParseMediaType(res.Header.Get("Content-Type"))
	return res.StatusCode == http.StatusOK && err == nil && media == "text/event-stream"
}

// logIntermediary logs the response of an intermediary. Events continues at another gateway; if all
// are behind the intermediary, nothing else names the cause.
func (f *feed) logIntermediary(endpoint *pool.Endpoint, r *response) {
	if r.intermediary && f.logged != r.err.Detail {
		f.log.Warn("response to the request for events is not from a gateway", "endpoint", endpoint.String(), "http", r.status, "detail", r.err.Detail)
		f.logged = r.err.Detail
	}
}

// feedError returns an *Error if the gateway refuses the client, and another error if the gateway is
// unavailable.
func feedError(r *response) error {
	if r.intermediary || r.status >= http.StatusInternalServerError && r.status != http.StatusNotImplemented {
		return errors.New(r.err.Error())
	}
	return r.err
}

// read parses server-sent events (WHATWG HTML §9.2.6) with the fields id, event and data, which
// gateways use.
func (f *feed) read(r io.Reader, alive func()) error {
	lines := bufio.NewScanner(r)
	lines.Buffer(make([]byte, 0, 4<<10), maxResponse)
	for lines.Scan() {
		alive()
		name, value, _ := strings.Cut(lines.Text(), ":")
		value = strings.TrimPrefix(value, " ")
		switch {
		case lines.Text() == "":
			if err := f.dispatch(); err != nil {
				return err
			}
		case name == "id":
			f.id = value
		case name == "event":
			f.eventType = value
		case name == "data":
			f.data.WriteString(value)
		}
	}
	f.data.Reset() // an incomplete event must not change the last id
	f.eventType, f.id = "", f.after
	return lines.Err()
}

// dispatch yields an event.
func (f *feed) dispatch() error {
	data, eventType := f.data.String(), f.eventType
	f.data.Reset()
	f.eventType, f.after = "", f.id
	if data == "" {
		return nil
	}
	if eventType == "problem" {
		a := new(response)
		if !a.parseProblem([]byte(data)) {
			return errors.New("client: the feed has a problem that cannot be read")
		}
		a.status = a.err.Status
		return feedError(a)
	}
	event := push.Event{}
	if err := json.Unmarshal([]byte(data), &event); err != nil {
		return err
	}
	event.Cursor = f.after
	if !f.yield(event, nil) {
		return errStopped
	}
	return nil
}
