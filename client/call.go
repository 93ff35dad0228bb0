// SPDX-License-Identifier: Apache-2.0

package client

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"
	"time"

	"github.com/google/uuid"

	"github.com/sluice-push/sluice/pool"
	"github.com/sluice-push/sluice/push"
	"github.com/sluice-push/sluice/wire"
)

// call is one notification and the gateways it is sent to, one after another. For the executor, any
// gateway that has processed the request is a success; the result of the notification is in response.
type call struct {
	*Client
	n        *push.Notification
	several  bool // targets is in place of the target of n
	targets  []push.Target
	key      string // the Idempotency-Key, the same for all gateways; empty for none
	async    bool
	trace    http.Header
	response *response // of the last gateway
	lease    atomic.Pointer[pool.Lease]
}

func (c *Client) call(ctx context.Context, n *push.Notification, async bool) *call {
	key := n.ID
	if key == "" {
		key = uuid.NewString()
	}
	return &call{Client: c, n: n, key: key, async: async, trace: c.propagate(ctx)}
}

// run tries gateways until one has processed the request.
func (c *call) run(ctx context.Context) (push.Receipt, error) {
	request, err := c.request()
	if err != nil {
		return c.result(push.Receipt{Outcome: push.InvalidNotification(err)})
	}
	attempt := func(ctx context.Context, lease *pool.Lease) push.Outcome {
		c.lease.Store(lease)
		return c.attempt(ctx, lease, request)
	}
	plain := *c.n
	plain.Retry, plain.DryRun = nil, false // it limits attempts at the push service, not at gateways, and they make the dry run
	receipt := *c.executor.Do(ctx, &push.Call{Notification: &plain}, attempt)
	if gatewayLost(receipt) && c.n.MayRetryUnknown() && ctx.Err() == nil {
		receipt = mergeReceipts(receipt, *c.executor.Do(ctx, &push.Call{Notification: &plain}, attempt))
	}
	return c.result(receipt)
}

// request returns the request, which is the same for all gateways.
func (c *call) request() (*wire.Request, error) {
	body, err := c.encode()
	if err != nil {
		return nil, err
	}
	header := []wire.Field{
		{Name: "content-type", Value: "application/json"},
		{Name: "authorization", Value: "Bearer " + string(c.cfg.Key)},
	}
	if c.key != "" {
		if err := checkKey(c.key); err != nil {
			return nil, err
		}
		header = append(header, wire.Field{Name: "idempotency-key", Value: c.key, NeverIndexed: true})
	}
	if c.async {
		header = append(header, wire.Field{Name: "prefer", Value: "respond-async"})
	}
	for name, values := range c.trace {
		for _, value := range values {
			if !isVisibleASCII(strings.ReplaceAll(value, " ", "")) {
				continue // an invalid header would break the connection for other calls
			}
			header = append(header, wire.Field{Name: strings.ToLower(name), Value: value, NeverIndexed: true})
		}
	}
	return &wire.Request{
		Method: http.MethodPost, Path: c.path + "notifications", Header: header, Body: body, Timeout: c.executor.Retry.Timeout(),
	}, nil
}

func (c *call) encode() ([]byte, error) {
	if !c.several {
		return encode(c.n)
	}
	body, err := newWithTargets(c.n, c.targets)
	if err != nil {
		return nil, err
	}
	return encode(body)
}

// encode returns a notification as JSON.
func encode(n any) ([]byte, error) {
	text, err := json.Marshal(n)
	if err != nil {
		return nil, &push.FieldError{Field: invalidField(err), Reason: "InvalidJSON", Allowed: "valid JSON"}
	}
	return text, nil
}

func checkKey(key string) error {
	if !isVisibleASCII(key) || len(key) > 255 {
		return &push.FieldError{Field: "ID", Reason: "InvalidHeader", Allowed: "1 to 255 visible ASCII characters"}
	}
	return nil
}

// isVisibleASCII reports whether s is not empty and consists of visible ASCII characters, so that
// it can be a header value.
func isVisibleASCII(s string) bool {
	for _, c := range []byte(s) {
		if c <= ' ' || c > '~' {
			return false
		}
	}
	return s != ""
}

// invalidField names the field that encoding/json cannot encode. Only raw JSON can be invalid.
func invalidField(err error) string {
	if strings.Contains(err.Error(), "RawMessage") {
		return "apns.payload or fcm.message"
	}
	return ""
}

// attempt sends the request to one gateway. The outcome is about the gateway, not about the
// notification.
func (c *call) attempt(ctx context.Context, conn wire.Doer, r *wire.Request) push.Outcome {
	res, err := conn.Do(ctx, c.withWait(ctx, r))
	if e, ok := errors.AsType[*wire.Error](err); ok && e.Reason == wire.ResponseTooLarge {
		c.response = intermediaryResponse(0, fmt.Sprintf("the response of more than %d MiB", maxResponse>>20))
		return c.response.outcome()
	}
	if err != nil {
		return push.NoResponse(err)
	}
	c.response = parseResponse(res, len(c.targets))
	return c.response.outcome()
}

// withWait adds the header that says how many seconds the caller still waits (RFC 7240 §4.3). The
// gateway then does not send a notification whose verdict would come too late.
func (c *call) withWait(ctx context.Context, r *wire.Request) *wire.Request {
	deadline, ok := ctx.Deadline()
	seconds := int(time.Until(deadline) / time.Second)
	if !ok || c.async || seconds < 1 {
		return r
	}
	copied := *r
	copied.Header = append(slices.Clip(r.Header), wire.Field{Name: "prefer", Value: "wait=" + strconv.Itoa(seconds)})
	return &copied
}

// result returns the receipt for the caller. It is that of the last gateway, or that of the route
// if no gateway settled the notification.
func (c *call) result(routeReceipt push.Receipt) (push.Receipt, error) {
	settled := c.response != nil && (routeReceipt.Verdict == push.Accepted || routeReceipt.Verdict == push.Unavailable ||
		routeReceipt.Verdict == c.response.receipt.Verdict)
	if !settled {
		rec := push.Receipt{Outcome: routeReceipt.Outcome}
		return rec, errorFor(rec, routeReceipt.Attempts)
	}
	if c.response.err == nil {
		return c.response.receipt, nil
	}
	c.response.err.Attempts = routeReceipt.Attempts
	return c.response.receipt, c.response.err
}
