// SPDX-License-Identifier: Apache-2.0

package client

import (
	"context"
	"encoding/json"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"
	"time"

	"github.com/google/uuid"

	"github.com/sluice-push/sluice/internal/delivery"
	"github.com/sluice-push/sluice/pool"
	"github.com/sluice-push/sluice/push"
	"github.com/sluice-push/sluice/wire"
)

// call is one notification on its way to one gateway after another: the provider of its own route. To the route, a
// gateway that has given its answer has done its part; what the answer says of the notification is kept here.
type call struct {
	*Client
	n        *push.Notification
	key      string // its Idempotency-Key, the same at every gateway
	async    bool
	trace    http.Header
	response *response // the last gateway's
	lease    atomic.Pointer[pool.Lease]
}

var _ delivery.Provider = (*call)(nil)

func (c *Client) call(ctx context.Context, n *push.Notification, async bool) *call {
	key := n.ID
	if key == "" {
		key = uuid.NewString()
	}
	return &call{Client: c, n: n, key: key, async: async, trace: c.propagate(ctx)}
}

// run asks gateways until one has done its part.
func (c *call) run(ctx context.Context) (push.Receipt, error) {
	route := c.route
	route.Provider = c
	plain := *c.n
	plain.Retry = nil // which is about attempts at the service: asking another gateway is none
	asked := route.Send(ctx, &plain)
	if gatewayLost(asked) && c.n.MayRetryUnknown() && ctx.Err() == nil {
		asked = mergeReceipts(asked, route.Send(ctx, &plain))
	}
	return c.result(asked)
}

// Translate writes the request that all gateways are sent.
func (c *call) Translate(*push.Notification) (*wire.Request, error) {
	body, err := encode(c.n)
	if err != nil {
		return nil, err
	}
	if err := checkKey(c.key); err != nil {
		return nil, err
	}
	header := []wire.Field{
		{Name: "content-type", Value: "application/json"},
		{Name: "authorization", Value: "Bearer " + string(c.cfg.Key)},
		{Name: "idempotency-key", Value: c.key, NeverIndexed: true},
	}
	if c.async {
		header = append(header, wire.Field{Name: "prefer", Value: "respond-async"})
	}
	for name, values := range c.trace {
		for _, value := range values {
			if !isVisibleASCII(strings.ReplaceAll(value, " ", "")) {
				continue // what cannot travel in a header must not spoil the connection for others
			}
			header = append(header, wire.Field{Name: strings.ToLower(name), Value: value, NeverIndexed: true})
		}
	}
	return &wire.Request{Method: http.MethodPost, Path: c.path + "notifications", Header: header, Body: body}, nil
}

// encode writes n's JSON.
func encode(n *push.Notification) ([]byte, error) {
	text, err := json.Marshal(n)
	if err != nil {
		return nil, &push.FieldError{Field: invalidField(err), Reason: "InvalidJSON", Allowed: "something that has a JSON form"}
	}
	return text, nil
}

func checkKey(key string) error {
	if !isVisibleASCII(key) || len(key) > 255 {
		return &push.FieldError{Field: "ID", Reason: "InvalidHeader", Allowed: "1 to 255 visible ASCII characters"}
	}
	return nil
}

// isVisibleASCII reports whether s is not empty and may stand in a header as it is.
func isVisibleASCII(s string) bool {
	for _, c := range []byte(s) {
		if c <= ' ' || c > '~' {
			return false
		}
	}
	return s != ""
}

// invalidField names what encoding/json could not write: only raw JSON can be bad.
func invalidField(err error) string {
	if strings.Contains(err.Error(), "RawMessage") {
		return "apns.payload or fcm.message"
	}
	return ""
}

// Send asks one gateway, and judges what that says of the gateway.
func (c *call) Send(ctx context.Context, conn wire.Doer, _ *push.Notification, r *wire.Request) push.Outcome {
	if lease, ok := conn.(*pool.Lease); ok {
		c.lease.Store(lease)
	}
	response, err := conn.Do(ctx, c.withWait(ctx, r))
	if err != nil {
		return push.NoResponse(err)
	}
	c.response = parseResponse(response)
	return c.response.outcome()
}

// withWait tells the gateway how long the caller still waits, in whole seconds (RFC 7240 §4.3): what it would send later,
// nobody would learn of.
func (c *call) withWait(ctx context.Context, r *wire.Request) *wire.Request {
	deadline, ok := ctx.Deadline()
	left := int(time.Until(deadline) / time.Second)
	if !ok || c.async || left < 1 {
		return r
	}
	told := *r
	told.Header = append(slices.Clip(r.Header), wire.Field{Name: "prefer", Value: "wait=" + strconv.Itoa(left)})
	return &told
}

// result makes the caller's receipt out of the last gateway's answer, and out of the route's where none settled it.
func (c *call) result(asked push.Receipt) (push.Receipt, error) {
	told := c.response != nil && (asked.Verdict == push.Accepted || asked.Verdict == push.Unavailable ||
		asked.Verdict == c.response.receipt.Verdict)
	if !told {
		receipt := push.Receipt{Outcome: asked.Outcome}
		return receipt, errorFor(receipt, asked.Attempts)
	}
	if c.response.err == nil {
		return c.response.receipt, nil
	}
	c.response.err.Attempts = asked.Attempts
	return c.response.receipt, c.response.err
}
