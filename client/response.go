// SPDX-License-Identifier: Apache-2.0

package client

import (
	"encoding/json"
	"errors"
	"net/http"
	"strings"

	"github.com/sluice-push/sluice/push"
	"github.com/sluice-push/sluice/wire"
)

// response is a gateway's response: a receipt, or a problem that may contain one. If it is neither,
// it comes from a proxy in front of the gateway.
type response struct {
	status  int
	receipt push.Receipt
	each    []push.Receipt // for a request with several targets
	err     *Error
	proxy   bool
}

// problemDocument is a problem of a gateway (RFC 9457).
type problemDocument struct {
	Type      string        `json:"type"`
	Title     string        `json:"title"`
	Status    int           `json:"status"`
	Detail    string        `json:"detail"`
	Field     string        `json:"field"`
	RequestID string        `json:"request_id"`
	Receipt   *push.Receipt `json:"receipt"`
}

const problemBase = "https://sluice-push.github.io/problems/"

// parseResponse parses a response. several says that the request had a list of targets.
func parseResponse(r *wire.Response, several bool) *response {
	a := &response{status: r.Status}
	if r.Status == http.StatusOK || r.Status == http.StatusAccepted {
		if a.parseReceipts(r.Body, several) == nil {
			return a
		}
	}
	a.parseProblem(r.Body)
	a.err.RetryAfter = max(r.RetryAfter(), a.receipt.RetryAfter)
	return a
}

func (r *response) parseReceipts(body []byte, several bool) error {
	if !several {
		return json.Unmarshal(body, &r.receipt)
	}
	var list struct {
		Receipts []push.Receipt `json:"receipts"`
	}
	err := json.Unmarshal(body, &list)
	if r.each = list.Receipts; err == nil && r.each == nil {
		err = errors.New("client: no receipts")
	}
	return err
}

// parseProblem parses the problem in body.
func (r *response) parseProblem(body []byte) {
	var d problemDocument
	err := json.Unmarshal(body, &d)
	slug, ours := strings.CutPrefix(d.Type, problemBase)
	if err != nil || !ours {
		r.proxy = true
		r.receipt = push.Receipt{Outcome: push.Outcome{Verdict: push.Unknown, Reason: reasonNoGateway, HTTP: r.status}}
		r.err = &Error{Type: problemTypes[push.Unknown], Status: r.status,
			Detail: "the response does not come from a gateway (check the URL and proxies): " + http.StatusText(r.status)}
		return
	}
	r.err = &Error{Type: slug, Status: d.Status, Title: d.Title, Detail: d.Detail, Field: d.Field, RequestID: d.RequestID}
	if d.Receipt != nil {
		r.receipt = *d.Receipt
		return
	}
	r.receipt.Outcome = push.Outcome{Verdict: push.Refused, Reason: slug, Field: d.Field, Detail: d.Detail}
	if r.nothingSent() {
		r.receipt.Verdict = push.Unsent
	} else if r.status >= http.StatusInternalServerError && r.status != http.StatusNotImplemented {
		r.receipt.Verdict = push.Unknown
	}
}

// outcome returns the outcome for the gateway, by which the route decides:
//
//   - Accepted: the gateway processed the request. No other gateway is tried, whatever the
//     result of the notification.
//   - Unavailable: the gateway refused before any attempt, or all its attempts were certainly not
//     sent. Another gateway may be tried without a second attempt at the provider.
//   - Unknown: the gateway may have sent it. The sender decides whether another gateway is tried.
func (r *response) outcome() push.Outcome {
	o := push.Outcome{HTTP: r.status, Reason: r.receipt.Reason}
	switch {
	case r.proxy && r.status >= http.StatusInternalServerError:
		o.Verdict, o.Scope = push.Unknown, push.ScopeEndpoint
	case r.nothingSent():
		o.Verdict = push.Unavailable
	case r.status == http.StatusInternalServerError:
		o.Verdict = push.Unknown
	default:
		o.Verdict = push.Accepted
	}
	return o
}

// nothingSent reports whether the gateway says that nothing was sent, for a reason that may not
// apply to other gateways.
func (r *response) nothingSent() bool {
	switch r.status {
	case http.StatusServiceUnavailable:
		return !r.proxy && notSent(r.receipt)
	case http.StatusRequestTimeout: // it did not receive the whole request
		return !r.proxy
	}
	return false
}

// notSent reports whether no provider has received the notification.
func notSent(r push.Receipt) bool {
	for _, attempt := range r.Attempts {
		if attempt.Verdict != push.Unsent {
			return false
		}
	}
	return true
}
