// SPDX-License-Identifier: Apache-2.0

package client

import (
	"encoding/json"
	"net/http"
	"strings"

	"github.com/sluice-push/sluice/push"
	"github.com/sluice-push/sluice/wire"
)

// response is what a gateway said: a receipt, or a problem that may hold one. Neither means that it was no gateway that
// answered, but a proxy before it.
type response struct {
	status  int
	receipt push.Receipt
	err     *Error
	proxy   bool
}

// problemDocument is a problem as a gateway writes it (RFC 9457).
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

// parseResponse reads a gateway's answer.
func parseResponse(r *wire.Response) *response {
	a := &response{status: r.Status}
	if r.Status == http.StatusOK || r.Status == http.StatusAccepted {
		if err := json.Unmarshal(r.Body, &a.receipt); err == nil {
			return a
		}
	}
	a.parseProblem(r.Body)
	a.err.RetryAfter = max(r.RetryAfter(), a.receipt.RetryAfter)
	return a
}

// parseProblem reads the problem in body.
func (a *response) parseProblem(body []byte) {
	var d problemDocument
	err := json.Unmarshal(body, &d)
	slug, ours := strings.CutPrefix(d.Type, problemBase)
	if err != nil || !ours {
		a.proxy = true
		a.receipt = push.Receipt{Outcome: push.Outcome{Verdict: push.Unknown, Reason: reasonNoGateway, HTTP: a.status}}
		a.err = &Error{Type: problemTypes[push.Unknown], Status: a.status,
			Detail: "the answer is not a gateway's (a proxy's? is the URL right?): " + http.StatusText(a.status)}
		return
	}
	a.err = &Error{Type: slug, Status: d.Status, Title: d.Title, Detail: d.Detail, Field: d.Field, RequestID: d.RequestID}
	if d.Receipt != nil {
		a.receipt = *d.Receipt
		return
	}
	a.receipt.Outcome = push.Outcome{Verdict: push.Refused, Reason: slug, Field: d.Field, Detail: d.Detail}
	if a.nothingSent() {
		a.receipt.Verdict = push.Unsent
	} else if a.status >= http.StatusInternalServerError && a.status != http.StatusNotImplemented {
		a.receipt.Verdict = push.Unknown
	}
}

// outcome is what the answer says of the gateway, by which the route decides:
//
//   - Accepted: it has done its part. Nobody else is asked, whatever it says of the notification.
//   - Unavailable: it refused before anything was tried, or all that it tried is provably unsent. Another may be asked,
//     and no attempt at a provider can be made twice for it.
//   - Unknown: nobody can tell. Whether another is asked is the sender's choice.
func (a *response) outcome() push.Outcome {
	o := push.Outcome{HTTP: a.status, Reason: a.receipt.Reason}
	switch {
	case a.proxy && a.status >= http.StatusInternalServerError:
		o.Verdict, o.Scope = push.Unknown, push.ScopeEndpoint
	case a.nothingSent():
		o.Verdict = push.Unavailable
	case a.status == http.StatusInternalServerError:
		o.Verdict = push.Unknown
	default:
		o.Verdict = push.Accepted
	}
	return o
}

// nothingSent reports whether the gateway says that nothing was sent, for a reason that may be its own.
func (a *response) nothingSent() bool {
	switch a.status {
	case http.StatusServiceUnavailable:
		return !a.proxy && notSent(a.receipt)
	case http.StatusRequestTimeout: // it has not even heard the whole of it
		return !a.proxy
	}
	return false
}

// notSent reports whether no provider has seen the notification.
func notSent(r push.Receipt) bool {
	for _, attempt := range r.Attempts {
		if attempt.Verdict != push.Unsent {
			return false
		}
	}
	return true
}
