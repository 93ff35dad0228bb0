// SPDX-License-Identifier: Apache-2.0

package client

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"iter"
	"net/http"
	"net/url"
	"strconv"
	"time"

	"github.com/sluice-push/sluice/internal/sleep"
	"github.com/sluice-push/sluice/push"
)

// Broadcasts manages the broadcasts of one app: messages to audiences of up to millions of devices. The
// gateway must have a queue, and the key needs the scope broadcasts; for what changes nothing, read is
// enough. An error is an *Error if a gateway has responded. Broadcasts is safe for concurrent use.
type Broadcasts struct {
	base      string // URL of the broadcasts of the app
	key       Key
	timeout   time.Duration
	transport http.RoundTripper
}

// Broadcasts returns the broadcasts of the app.
func (c *Client) Broadcasts() *Broadcasts {
	return &Broadcasts{base: "http://gateways" + c.path + "broadcasts", key: c.cfg.Key, timeout: c.cfg.Timeout, transport: gatewayTransport{c}}
}

// NewBroadcasts returns the broadcasts of an app at the gateway with this URL, without a Client.
func NewBroadcasts(gateway *url.URL, app string, key Key, transport http.RoundTripper) *Broadcasts {
	return &Broadcasts{base: gateway.JoinPath("v1/apps", url.PathEscape(app), "broadcasts").String(), key: key, timeout: defaultTimeout, transport: transport}
}

// Create creates a broadcast, a draft. The definition is encoded as JSON; it has the fields of a
// BroadcastDefinition of the HTTP API. If the connection is lost, the broadcast may have been created.
func (b *Broadcasts) Create(ctx context.Context, definition any) (*Broadcast, error) {
	body, err := json.Marshal(definition)
	if err != nil {
		return nil, fmt.Errorf("client: definition of a broadcast: %w", err)
	}
	return b.change(ctx, broadcastRequest{method: http.MethodPost, body: body, once: true})
}

// Replace replaces the definition of a broadcast that has not started, and returns it as a draft: it must be
// validated again. The audience stays. Unless ifMatch is empty, it is the ETag that the broadcast must have;
// otherwise the error has the type precondition-failed.
func (b *Broadcasts) Replace(ctx context.Context, id string, definition any, ifMatch string) (*Broadcast, error) {
	body, err := json.Marshal(definition)
	if err != nil {
		return nil, fmt.Errorf("client: definition of a broadcast: %w", err)
	}
	// A repeated request would fail, because the first one has changed the ETag.
	return b.change(ctx, broadcastRequest{method: http.MethodPut, path: "/" + url.PathEscape(id), header: ifMatchHeader(ifMatch), body: body, once: ifMatch != ""})
}

func ifMatchHeader(tag string) http.Header {
	h := http.Header{}
	if tag != "" {
		h.Set("If-Match", tag)
	}
	return h
}

// Preview returns how the messages of a broadcast look for all platforms, variants and languages, and what
// the providers get.
func (b *Broadcasts) Preview(ctx context.Context, id string) (*BroadcastPreviews, error) {
	previews := new(BroadcastPreviews)
	_, err := b.call(ctx, broadcastRequest{method: http.MethodGet, path: "/" + url.PathEscape(id) + "/preview"}, previews)
	return previews, err
}

// List returns all broadcasts that are stored, the newest first.
func (b *Broadcasts) List(ctx context.Context) ([]*Broadcast, error) {
	var list struct {
		Broadcasts []*Broadcast `json:"broadcasts"`
	}
	_, err := b.call(ctx, broadcastRequest{method: http.MethodGet}, &list)
	return list.Broadcasts, err
}

// Get returns a broadcast with its counts of this moment.
func (b *Broadcasts) Get(ctx context.Context, id string) (*Broadcast, error) {
	return b.change(ctx, broadcastRequest{method: http.MethodGet, path: "/" + url.PathEscape(id)})
}

// Delete deletes a broadcast that has not started, or has ended.
func (b *Broadcasts) Delete(ctx context.Context, id string) error {
	_, err := b.call(ctx, broadcastRequest{method: http.MethodDelete, path: "/" + url.PathEscape(id)}, nil)
	return err
}

// CommandOptions are the options of a command. All are optional.
type CommandOptions struct {
	// IfMatch is the ETag that the broadcast must have. Otherwise the error has the type
	// precondition-failed.
	IfMatch string
	// Recall is the recall message for CommandRecall, in place of that of the definition. It is encoded as
	// JSON; it has the fields of a RecallMessage of the HTTP API.
	Recall any
}

// Do executes a command. When it returns, the change is on disk. The error has the type not-possible if
// the state of the broadcast does not allow the command.
func (b *Broadcasts) Do(ctx context.Context, id string, command BroadcastCommand, options CommandOptions) (*Broadcast, error) {
	r := broadcastRequest{method: http.MethodPost, path: "/" + url.PathEscape(id) + "/" + url.PathEscape(string(command)), header: ifMatchHeader(options.IfMatch)}
	if options.Recall != nil {
		var err error
		if r.body, err = json.Marshal(map[string]any{"recall": options.Recall}); err != nil {
			return nil, fmt.Errorf("client: recall message: %w", err)
		}
	}
	return b.change(ctx, r)
}

// Invalid yields the lines that are not sent, duplicates too, as the validation has found them. An error is the last
// value of the sequence.
func (b *Broadcasts) Invalid(ctx context.Context, id string) iter.Seq2[InvalidLine, error] {
	return func(yield func(InvalidLine, error) bool) {
		for after := 0; ; {
			var page struct {
				Lines []InvalidLine `json:"lines"`
				Next  int           `json:"next"`
			}
			path := "/" + url.PathEscape(id) + "/invalid?limit=1000&after=" + strconv.Itoa(after)
			if _, err := b.call(ctx, broadcastRequest{method: http.MethodGet, path: path}, &page); err != nil {
				yield(InvalidLine{}, err)
				return
			}
			for _, line := range page.Lines {
				if !yield(line, nil) {
					return
				}
			}
			if after = page.Next; after == 0 {
				return
			}
		}
	}
}

// Devices estimates how many unique devices the audiences of up to 100 broadcasts have, each and all
// together. The error has the type not-possible if one is not validated, and invalid-parameter if one is
// sent to a topic, condition or channel, whose devices only the provider knows.
func (b *Broadcasts) Devices(ctx context.Context, ids ...string) (*BroadcastDevices, error) {
	found := new(BroadcastDevices)
	if _, err := b.call(ctx, broadcastRequest{method: http.MethodGet, path: "/devices?" + url.Values{"id": ids}.Encode()}, found); err != nil {
		return nil, err
	}
	return found, nil
}

// AudienceFormat is the format of an audience or of results.
type AudienceFormat string

// The formats.
const (
	NDJSON AudienceFormat = "ndjson"
	CSV    AudienceFormat = "csv"
)

// contentTypes are the content types of an upload.
var contentTypes = map[AudienceFormat]string{NDJSON: "application/x-ndjson", CSV: "text/csv"}

// Export writes what happened to each line of the audience, as of this moment, to w. It is possible at
// any time after the validation.
func (b *Broadcasts) Export(ctx context.Context, id string, format AudienceFormat, w io.Writer) error {
	res, err := b.do(ctx, broadcastRequest{method: http.MethodGet, path: "/" + url.PathEscape(id) + "/results?format=" + url.QueryEscape(string(format))})
	if err != nil {
		return err
	}
	defer func() { _ = res.Body.Close() }()
	if _, err := io.Copy(w, res.Body); err != nil {
		return fmt.Errorf("client: the results are incomplete: %w", err)
	}
	return nil
}

// broadcastRequest is a request below the URL of the broadcasts.
type broadcastRequest struct {
	method, path string
	header       http.Header
	body         []byte        // JSON
	content      io.ReadCloser // in place of body; it is sent once
	length       int64         // of content
	once         bool          // a repeated request would have another effect
}

// change makes a request whose response is a broadcast.
func (b *Broadcasts) change(ctx context.Context, r broadcastRequest) (*Broadcast, error) {
	found := new(Broadcast)
	header, err := b.call(ctx, r, found)
	if err != nil {
		return nil, err
	}
	found.ETag = header.Get("ETag")
	return found, nil
}

const (
	broadcastAttempts = 3
	minRepeatDelay    = 100 * time.Millisecond
	maxRepeatDelay    = 5 * time.Second
)

// call makes a request and reads the JSON of the response into v. It repeats the request a few times if
// the connection is lost or the gateway is not available.
func (b *Broadcasts) call(ctx context.Context, r broadcastRequest, v any) (http.Header, error) {
	if _, bounded := ctx.Deadline(); !bounded {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, b.timeout)
		defer cancel()
	}
	for attempt := 1; ; attempt++ {
		header, err := b.callOnce(ctx, r, v)
		if err == nil || r.once || attempt == broadcastAttempts || !isTransient(err) || !sleep.For(ctx, repeatDelay(attempt, err)) {
			return header, err
		}
	}
}

func (b *Broadcasts) callOnce(ctx context.Context, r broadcastRequest, v any) (http.Header, error) {
	res, err := b.do(ctx, r)
	if err != nil {
		return nil, err
	}
	defer func() { _ = res.Body.Close() }()
	if v == nil || r.method == http.MethodHead {
		return res.Header, nil
	}
	text, err := io.ReadAll(res.Body)
	if err != nil {
		return nil, fmt.Errorf("client: incomplete response: %w", err)
	}
	if json.Unmarshal(text, v) != nil {
		return nil, intermediaryResponse(res.StatusCode, describeResponse(res.StatusCode, res.Header.Get("Content-Type"), "")).err
	}
	return res.Header, nil
}

// do makes a request once. The response has a status of success.
func (b *Broadcasts) do(ctx context.Context, r broadcastRequest) (*http.Response, error) {
	request, err := http.NewRequestWithContext(ctx, r.method, b.base+r.path, bytes.NewReader(r.body))
	if err != nil {
		return nil, fmt.Errorf("client: %w", err)
	}
	if r.content != nil {
		request.Body, request.GetBody, request.ContentLength = r.content, nil, r.length
	}
	if len(r.body) > 0 {
		request.Header.Set("Content-Type", "application/json")
	}
	for name, values := range r.header {
		request.Header[name] = values
	}
	request.Header.Set("Authorization", "Bearer "+string(b.key))
	res, err := b.transport.RoundTrip(request)
	if err != nil {
		return nil, cmp.Or(context.Cause(ctx), err)
	}
	if res.StatusCode/100 == 2 {
		return res, nil
	}
	defer func() { _ = res.Body.Close() }()
	return nil, readRefusal(res).err
}

// isTransient reports whether a request can succeed when it is repeated: no gateway has responded, or
// one that is not available now.
func isTransient(err error) bool {
	if _, ok := errors.AsType[contentError](err); ok || errors.Is(err, errNeedsGateway) {
		return false
	}
	e, ok := errors.AsType[*Error](err)
	if !ok {
		return true
	}
	switch e.Status {
	case 0, http.StatusRequestTimeout, http.StatusTooManyRequests, http.StatusBadGateway, http.StatusServiceUnavailable, http.StatusGatewayTimeout:
		return true
	}
	return e.RetryAfter > 0
}

// repeatDelay returns how long to wait before the attempt after this one.
func repeatDelay(attempt int, err error) time.Duration {
	delay := min(minRepeatDelay<<min(attempt-1, 10), maxRepeatDelay)
	if e, ok := errors.AsType[*Error](err); ok {
		delay = max(delay, e.RetryAfter)
	}
	return delay
}

// gatewayTransport sends requests to the gateways of a client, each over a connection of its own.
type gatewayTransport struct{ *Client }

// RoundTrip implements http.RoundTripper.
func (t gatewayTransport) RoundTrip(r *http.Request) (*http.Response, error) {
	if t.direct != nil {
		closeBody(r)
		return nil, errNeedsGateway
	}
	lease, err := t.pool.Pick(r.Context(), nil)
	if err != nil {
		closeBody(r)
		return nil, errorFor(push.Receipt{Outcome: push.NoResponse(err)}, nil)
	}
	conn := lease.Conn().(*gatewayConn)
	r = r.Clone(r.Context())
	r.URL.Scheme, r.URL.Host, r.Host, r.Close = conn.base.Scheme, conn.base.Host, conn.base.Host, true
	res, err := conn.http.RoundTrip(r)
	switch {
	case err == nil:
		lease.Done(push.Outcome{Verdict: push.Accepted, HTTP: res.StatusCode}) // the body does not count as a call in flight
	case r.Context().Err() != nil:
		lease.Done(push.Outcome{Verdict: push.Abandoned})
	default:
		lease.Done(push.Outcome{Verdict: push.Unavailable, Scope: push.ScopeEndpoint, Reason: reasonNoGateway})
	}
	return res, err
}

func closeBody(r *http.Request) {
	if r.Body != nil {
		_ = r.Body.Close()
	}
}
