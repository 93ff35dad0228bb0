// SPDX-License-Identifier: Apache-2.0

package client

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"io"
	"iter"
	"net/http"
	"net/url"
	"strings"
	"time"

	"github.com/sluice-push/sluice/push"
)

const (
	reconnectDelay  = time.Second      // between two tries at a feed
	feedIdleTimeout = 45 * time.Second // three of its heartbeats
)

// Events hands out what becomes of the app's notifications, as it happens, until ctx ends or the loop is left: all of it,
// or events of the given types alone. after is the Cursor of the last event that was dealt with, and "" begins now. Where
// a connection or a gateway is lost it goes on at another, and nothing is missed; an error is the last word. The key needs
// the scope read.
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

// feed is one reader of events, over as many connections as it takes.
type feed struct {
	*Client
	after     string // the last cursor
	query     string
	yield     func(push.Event, error) bool
	data      strings.Builder
	eventType string
	id        string // of the event that is being read
}

var errStopped = errors.New("the loop was left")

// readOnce reads from one gateway until that ends. It returns whether to go on at another.
func (f *feed) readOnce(ctx context.Context) bool {
	err := f.connect(ctx)
	if errors.Is(err, errStopped) {
		return false
	}
	last, isLast := errors.AsType[*Error](err)
	switch {
	case ctx.Err() != nil:
		f.yield(push.Event{}, ctx.Err())
		return false
	case isLast:
		f.yield(push.Event{}, last)
		return false
	}
	return true
}

// connect reads from one gateway. An *Error is the last word; any other error is that connection's alone.
func (f *feed) connect(ctx context.Context) error {
	lease, err := f.pool.Pick(ctx, nil)
	if err != nil {
		r := push.Receipt{Outcome: push.NoResponse(err)}
		return errorFor(r, nil)
	}
	l := lease.Conn().(*gatewayConn)
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	stop := make(chan struct{})
	defer close(stop)
	go func() {
		select {
		case <-l.draining:
			cancel()
		case <-stop:
		}
	}()
	response, err := f.request(ctx, l)
	if err != nil {
		lease.Done(push.Outcome{Verdict: push.Unavailable, Scope: push.ScopeEndpoint, Reason: reasonNoGateway})
		return err
	}
	defer func() { _ = response.Body.Close(); l.http.CloseIdleConnections() }()
	lease.Done(push.Outcome{Verdict: push.Accepted, HTTP: response.StatusCode}) // a feed is no call: it takes no place
	if response.StatusCode != http.StatusOK {
		return f.readRefusal(response)
	}
	quiet := time.AfterFunc(feedIdleTimeout, cancel)
	defer quiet.Stop()
	return f.read(response.Body, func() { quiet.Reset(feedIdleTimeout) })
}

func (f *feed) request(ctx context.Context, l *gatewayConn) (*http.Response, error) {
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, l.base.String()+f.path+"events"+f.query, nil)
	if err != nil {
		return nil, err
	}
	request.Header.Set("Authorization", "Bearer "+string(f.cfg.Key))
	request.Header.Set("Accept", "text/event-stream")
	if f.after != "" {
		request.Header.Set("Last-Event-ID", f.after)
	}
	return l.http.RoundTrip(request)
}

// readRefusal is the last word if the gateway means the reader, and not itself.
func (f *feed) readRefusal(response *http.Response) error {
	return feedError(readRefusal(response))
}

func feedError(a *response) error {
	if a.proxy || a.status >= http.StatusInternalServerError && a.status != http.StatusNotImplemented {
		return errors.New(a.err.Error())
	}
	return a.err
}

// read reads server-sent events (WHATWG HTML §9.2.6), of which gateways use id, event and data.
func (f *feed) read(from io.Reader, alive func()) error {
	lines := bufio.NewScanner(from)
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
	f.data.Reset() // an event that broke off was none: its id is not the last
	f.eventType, f.id = "", f.after
	return lines.Err()
}

// dispatch hands an event out.
func (f *feed) dispatch() error {
	data, kind := f.data.String(), f.eventType
	f.data.Reset()
	f.eventType, f.after = "", f.id
	if data == "" {
		return nil
	}
	if kind == "problem" {
		a := new(response)
		a.parseProblem([]byte(data))
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
