// SPDX-License-Identifier: Apache-2.0

package client

import (
	"encoding/json"
	"errors"
	"fmt"
	"mime"
	"net/http"
	"net/url"
	"strings"

	"github.com/sluice-push/sluice/push"
	"github.com/sluice-push/sluice/wire"
)

// response is a gateway's response: a receipt, or a problem that may contain one. If it is neither,
// it comes from an intermediary: a proxy, a firewall or a captive portal.
type response struct {
	status       int
	receipt      push.Receipt
	each         []push.Receipt // for a request with several targets
	err          *Error
	intermediary bool
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

// parseResponse parses the response to a request with this number of targets in a list; 0 for none.
func parseResponse(r *wire.Response, targets int) *response {
	a := &response{status: r.Status}
	if (r.Status == http.StatusOK || r.Status == http.StatusAccepted) && a.parseReceipts(r.Body, targets) == nil {
		return a
	}
	return parseRefusal(r)
}

// parseRefusal parses a response that is not a receipt.
func parseRefusal(r *wire.Response) *response {
	a := &response{status: r.Status}
	if !a.parseProblem(r.Body) {
		a = intermediaryResponse(r.Status, describeResponse(r.Status, r.Get("content-type"), r.Get("location")))
	}
	a.err.RetryAfter = max(r.RetryAfter(), a.receipt.RetryAfter)
	return a
}

func (r *response) parseReceipts(body []byte, targets int) error {
	if targets == 0 {
		return json.Unmarshal(body, &r.receipt)
	}
	var list struct {
		Receipts []push.Receipt `json:"receipts"`
	}
	err := json.Unmarshal(body, &list)
	if r.each = list.Receipts; err == nil && len(r.each) != targets {
		err = errors.New("client: not one receipt for each target")
	}
	return err
}

// parseProblem parses the problem in body. It returns false if there is none of a gateway.
func (r *response) parseProblem(body []byte) bool {
	var d problemDocument
	err := json.Unmarshal(body, &d)
	slug, ours := strings.CutPrefix(d.Type, problemBase)
	if err != nil || !ours {
		return false
	}
	r.err = &Error{Type: slug, Status: d.Status, Title: d.Title, Detail: d.Detail, Field: d.Field, RequestID: d.RequestID}
	if d.Receipt != nil {
		r.receipt = *d.Receipt
		return true
	}
	r.receipt.Outcome = push.Outcome{Verdict: push.Refused, Reason: slug, Field: d.Field, Detail: d.Detail}
	if r.nothingSent() {
		r.receipt.Verdict = push.Unsent
	} else if r.status >= http.StatusInternalServerError && r.status != http.StatusNotImplemented {
		r.receipt.Verdict = push.Unknown
	}
	return true
}

// intermediaryResponse returns a response that does not come from a gateway. Its status says nothing
// about the notification, only whether a gateway can have received the request.
func intermediaryResponse(status int, description string) *response {
	verdict := push.Unknown
	if refusedByIntermediary(status) {
		verdict = push.Unsent
	}
	detail := description + " is not from a gateway, but from a proxy, firewall or other server: check the URL and the network to the gateway"
	return &response{
		status: status, intermediary: true,
		receipt: push.Receipt{Outcome: push.Outcome{Verdict: verdict, Reason: reasonNoGateway, HTTP: status, Detail: detail}},
		err:     &Error{Type: problemTypes[verdict], Status: status, Detail: detail},
	}
}

// refusedByIntermediary reports whether an intermediary that responds with this status has not
// forwarded the request. A request can have reached a gateway before a 408, and before other
// statuses than redirects and refusals: an intermediary can replace a response.
func refusedByIntermediary(status int) bool {
	return status >= 300 && status < 500 && status != http.StatusRequestTimeout
}

// describeResponse describes a response by its status, its type and the host that it redirects to. It
// leaves out paths and queries, because they can contain secrets.
func describeResponse(status int, contentType, location string) string {
	text := strings.TrimSpace(fmt.Sprintf("the response %d %s", status, http.StatusText(status)))
	if media, _, err := mime.ParseMediaType(contentType); err == nil {
		text += " (" + media + ")"
	}
	if to, err := url.Parse(location); err == nil && to.Host != "" {
		text += ", a redirect to " + to.Scheme + "://" + to.Host + ","
	}
	return text
}

// outcome returns the outcome for the gateway, by which the route decides:
//
//   - Accepted: the gateway processed the request. No other gateway is tried, whatever the
//     result of the notification.
//   - Unavailable: the gateway refused before any attempt, all its attempts were certainly not sent,
//     or an intermediary refused the request. Another gateway may be tried without a second attempt
//     at the provider.
//   - Unknown: the gateway may have sent it. The sender decides whether another gateway is tried.
func (r *response) outcome() push.Outcome {
	o := push.Outcome{HTTP: r.status, Reason: r.receipt.Reason}
	if r.intermediary {
		o.Scope, o.Detail = push.ScopeEndpoint, r.receipt.Detail
	}
	switch {
	case r.nothingSent():
		o.Verdict = push.Unavailable
	case r.intermediary, r.status == http.StatusInternalServerError:
		o.Verdict = push.Unknown
	default:
		o.Verdict = push.Accepted
	}
	return o
}

// nothingSent reports whether nothing was sent, for a reason that may not apply to other gateways.
func (r *response) nothingSent() bool {
	switch {
	case r.intermediary:
		return r.receipt.Verdict == push.Unsent
	case r.status == http.StatusServiceUnavailable:
		return notSent(r.receipt)
	default:
		return r.status == http.StatusRequestTimeout // it did not receive the whole request
	}
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
