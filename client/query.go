// SPDX-License-Identifier: Apache-2.0

package client

import (
	"context"
	"encoding/json"
	"iter"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"

	"github.com/sluice-push/sluice/pool"
	"github.com/sluice-push/sluice/push"
	"github.com/sluice-push/sluice/wire"
)

// Search returns a page of the notifications of the app that q selects, the newest first. The gateway
// must have a queue, and the key needs the scope read. The error is an *Error; its Type is
// cursor-expired if the place of q.Cursor in the history is deleted.
func (c *Client) Search(ctx context.Context, q push.Query) (page push.Page, err error) {
	err = c.get(ctx, "notifications"+searchParameters(&q), &page)
	return page, err
}

// Notifications yields all notifications that q selects, page by page, as Search does. An error is the
// last value of the sequence.
func (c *Client) Notifications(ctx context.Context, q push.Query) iter.Seq2[push.Summary, error] {
	return func(yield func(push.Summary, error) bool) {
		for {
			page, err := c.Search(ctx, q)
			if err != nil {
				yield(push.Summary{}, err)
				return
			}
			for _, s := range page.Notifications {
				if !yield(s, nil) {
					return
				}
			}
			if q.Cursor = page.NextCursor; q.Cursor == "" {
				return
			}
		}
	}
}

// Stats counts the notifications of the app that have ended. The gateway must have a queue, and the key
// needs the scope read. The error is an *Error.
func (c *Client) Stats(ctx context.Context, q push.StatsQuery) (stats push.Stats, err error) {
	var by []string
	for _, property := range q.By {
		by = append(by, string(property))
	}
	err = c.get(ctx, "stats"+parameters(map[string]string{"tag": q.Tag, "since": formatTime(q.Since), "until": formatTime(q.Until), "by": strings.Join(by, ",")}), &stats)
	return stats, err
}

func searchParameters(q *push.Query) string {
	limit := ""
	if q.Limit != 0 {
		limit = strconv.Itoa(q.Limit)
	}
	return parameters(map[string]string{
		"tag": q.Tag, "status": strings.Join(statusStrings(q.Statuses), ","), "platform": string(q.Platform), "since": formatTime(q.Since),
		"until": formatTime(q.Until), "limit": limit, "cursor": q.Cursor,
	})
}

// parameters returns the query of a URL with the values that are not empty.
func parameters(values map[string]string) string {
	v := url.Values{}
	for name, value := range values {
		if value != "" {
			v.Set(name, value)
		}
	}
	if len(v) == 0 {
		return ""
	}
	return "?" + v.Encode()
}

func formatTime(t time.Time) string {
	if t.IsZero() {
		return ""
	}
	return t.Format(time.RFC3339Nano)
}

// get reads JSON from a path of the app into v. It tries other gateways as Send does.
func (c *Client) get(ctx context.Context, path string, v any) error {
	if c.direct != nil {
		return errNeedsGateway
	}
	ctx, cancel := c.withTimeout(ctx)
	defer cancel()
	request := &wire.Request{
		Method: http.MethodGet, Path: c.path + path, Header: []wire.Field{{Name: "authorization", Value: "Bearer " + string(c.cfg.Key)}},
		Timeout: c.executor.Retry.Timeout(),
	}
	var refusal *response
	attempt := func(ctx context.Context, lease *pool.Lease) push.Outcome {
		refusal = nil
		res, err := lease.Do(ctx, request)
		if err != nil {
			return push.NoResponse(err)
		}
		if res.Status == http.StatusOK && json.Unmarshal(res.Body, v) == nil {
			return push.Outcome{Verdict: push.Accepted, HTTP: res.Status}
		}
		refusal = parseRefusal(res)
		return refusal.outcome()
	}
	read := &push.Notification{OnUnknown: push.RepeatAlways} // reading twice does no harm
	receipt := c.executor.Do(ctx, &push.Call{Notification: read}, attempt)
	if refusal != nil {
		refusal.err.Attempts = receipt.Attempts
		return refusal.err
	}
	return errorFor(push.Receipt{Outcome: receipt.Outcome}, receipt.Attempts)
}
