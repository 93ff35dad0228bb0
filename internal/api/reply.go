// SPDX-License-Identifier: Apache-2.0

package api

import (
	"net/http"
	"time"

	"github.com/sluice-push/sluice/push"
)

// Header values that never change, shared by all answers: nobody writes into them.
var (
	jsonType     = []string{"application/json"}
	ndjsonType   = []string{"application/x-ndjson"}
	problemType  = []string{"application/problem+json"}
	yamlType     = []string{"application/yaml"} // RFC 9512
	eventType    = []string{"text/event-stream"}
	noStore      = []string{"no-store"}
	noSniff      = []string{"nosniff"}
	trueValue    = []string{"true"}
	respondAsync = []string{"respond-async"}
)

// reply is an answer that is whole before its first byte leaves, so that it can be given again.
type reply struct {
	status       int
	contentType  []string
	retryAfter   []string // nil for none
	location     string   // empty for none
	asyncApplied bool     // the preference not to wait was heeded
	replayed     bool     // it tells of an earlier call
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
	_, _ = w.Write(r.body) // it fails only when the caller has left
}

// replyTo is the answer to a caller whose notification ended in r: a verdict on the notification itself is 200,
// whatever it is; all else is a problem of the caller, the credential, the provider or the gateway.
func replyTo(r push.Receipt, requestID string) reply {
	if p := problemFor(r); p != nil {
		return p.reply(requestID)
	}
	body := r.AppendJSON(make([]byte, 0, 512))
	return reply{status: http.StatusOK, contentType: jsonType, body: append(body, '\n')}
}

// acceptedReply is the answer to a caller who does not wait for the end: how it stands, and where to ask again.
func acceptedReply(app string, r push.Receipt) reply {
	body := r.AppendJSON(make([]byte, 0, 512))
	return reply{
		status: http.StatusAccepted, contentType: jsonType, body: append(body, '\n'),
		location: "/v1/apps/" + app + "/notifications/" + r.ID,
	}
}

// problemFor returns why r holds no verdict on the notification, or nil if it does or its sender wanted none any more.
func problemFor(r push.Receipt) *problem {
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
		return withReceipt(r, problem{kind: unauthorized, detail: "the operator has to look at the app's key or certificate"})
	case push.Unknown:
		return withReceipt(r, problem{kind: unknown,
			detail: "sending it again may show it twice; on_unknown lets the gateway decide"})
	default:
		return withReceipt(r, problem{kind: unavailable, retryAfter: atLeastOneSecond(r.RetryAfter), detail: retryLater})
	}
}

const retryLater = "send it again after the seconds in Retry-After"

// withReceipt gives p the receipt, and its reason before what to do next.
func withReceipt(r push.Receipt, p problem) *problem {
	p.receipt = &r
	if r.Reason != "" {
		p.detail = r.Reason + ": " + p.detail
	}
	return &p
}

// invalidNotification returns the problem of a notification that was refused here, and nil for one that its provider refused:
// that is a verdict.
func invalidNotification(r push.Receipt) *problem {
	if len(r.Attempts) > 0 {
		return nil
	}
	kind := invalidField
	if r.Reason == payloadTooLarge.reason {
		kind = payloadTooLarge
	}
	return &problem{kind: kind, field: r.Field, detail: r.Detail}
}

func atLeastOneSecond(d time.Duration) time.Duration { return max(d, time.Second) }
