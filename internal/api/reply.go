// SPDX-License-Identifier: Apache-2.0

package api

import (
	"cmp"
	"net/http"
	"time"

	"github.com/sluice-push/sluice/push"
)

// Header values that all responses share. They must not be modified.
var (
	jsonType     = []string{"application/json"}
	ndjsonType   = []string{"application/x-ndjson"}
	problemType  = []string{"application/problem+json"}
	openAPIType  = []string{"application/openapi+yaml"} // draft-ietf-httpapi-rest-api-mediatypes
	eventType    = []string{"text/event-stream"}
	noStore      = []string{"no-store"}
	noSniff      = []string{"nosniff"}
	trueValue    = []string{"true"}
	respondAsync = []string{"respond-async"}
)

// reply is a complete response. It is buffered, so that it can be repeated.
type reply struct {
	status       int
	contentType  []string
	retryAfter   []string // nil for none
	location     string   // empty for none
	asyncApplied bool     // the preference respond-async was applied
	replayed     bool     // it belongs to an earlier request
	body         []byte
}

func (r reply) write(w *response) {
	h := w.Header()
	h["Content-Type"] = r.contentType
	if r.retryAfter != nil {
		h["Retry-After"] = r.retryAfter
	}
	if r.location != "" {
		h["Location"] = []string{r.location}
	}
	if r.asyncApplied {
		h["Preference-Applied"] = respondAsync
	}
	if r.replayed {
		h["Idempotency-Replayed"] = trueValue
	}
	w.WriteHeader(r.status)
	_, _ = w.Write(r.body) // fails only if the client disconnected
}

// replyTo returns the response for a notification that ended in r. A verdict on the notification
// itself is 200, even a negative one. Everything else is a problem of the request, the credential,
// the provider or the gateway.
func replyTo(r *push.Receipt, requestID string, buf []byte) reply {
	if p := problemFor(r); p != nil {
		return p.reply(requestID)
	}
	body := r.AppendJSON(buf)
	return reply{status: http.StatusOK, contentType: jsonType, body: append(body, '\n')}
}

// acceptedReply returns the response of an asynchronous request: the current receipt, and where to
// query it later.
func acceptedReply(app string, r *push.Receipt, buf []byte) reply {
	body := r.AppendJSON(buf)
	return reply{
		status: http.StatusAccepted, contentType: jsonType, body: append(body, '\n'),
		location: "/v1/apps/" + app + "/notifications/" + r.ID,
	}
}

// problemFor returns why r has no verdict on the notification. It returns nil if there is a verdict
// or the notification was cancelled.
func problemFor(r *push.Receipt) *problem {
	if r.State == push.StatusCancelled {
		return nil
	}
	switch r.Verdict {
	case push.Accepted, push.Unregistered, push.Expired:
		return nil
	case push.Refused:
		return invalidNotification(r)
	case push.Throttled:
		return withReceipt(r, problem{kind: throttled, retryAfter: atLeastOneSecond(r.RetryAfter), detail: retryLater})
	case push.Unauthorized:
		return withReceipt(r, problem{kind: unauthorized, detail: cmp.Or(r.Detail, "the operator must check the app's key or certificate")})
	case push.Unknown:
		if r.Reason == internal.reason { // of an earlier request with the key, which panicked
			return &problem{kind: internal}
		}
		return withReceipt(r, problem{kind: unknown,
			detail: "sending it again may display it twice; set on_unknown to let the gateway repeat it"})
	default:
		detail := retryLater
		if r.Detail != "" {
			detail = r.Detail + "; " + retryLater
		}
		return withReceipt(r, problem{kind: unavailable, retryAfter: atLeastOneSecond(r.RetryAfter), detail: detail})
	}
}

const retryLater = "send it again after the time in Retry-After"

// withReceipt adds the receipt to p, and puts its reason before the advice in the detail.
func withReceipt(r *push.Receipt, p problem) *problem {
	p.receipt = r
	if r.Reason != "" {
		p.detail = r.Reason + ": " + p.detail
	}
	return &p
}

// invalidNotification returns the problem of a notification that the gateway refused. It returns
// nil if the provider refused it, because that is a verdict.
func invalidNotification(r *push.Receipt) *problem {
	if len(r.Attempts) > 0 {
		return nil
	}
	kind := invalidField
	if r.Reason == payloadTooLarge.reason {
		kind = payloadTooLarge
	}
	kind.reason = cmp.Or(r.Reason, kind.reason) // an asynchronous batch has the same reason as a synchronous one
	return &problem{kind: kind, field: r.Field, detail: r.Detail}
}

func atLeastOneSecond(d time.Duration) time.Duration { return max(d, time.Second) }
