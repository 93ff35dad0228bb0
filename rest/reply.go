// SPDX-License-Identifier: Apache-2.0

package rest

import (
	"net/http"
	"time"

	"github.com/sluice-push/sluice/push"
)

// Header values that never change, shared by all answers: nobody writes into them.
var (
	jsonType    = []string{"application/json"}
	ndjsonType  = []string{"application/x-ndjson"}
	problemType = []string{"application/problem+json"}
	yamlType    = []string{"application/yaml"} // RFC 9512
	eventType   = []string{"text/event-stream"}
	noStore     = []string{"no-store"}
	noSniff     = []string{"nosniff"}
	yes         = []string{"true"}
	applied     = []string{"respond-async"}
)

// reply is an answer that is whole before its first byte leaves, so that it can be given again.
type reply struct {
	status      int
	contentType []string
	retryAfter  []string // nil for none
	location    string   // empty for none
	applied     bool     // the preference not to wait was heeded
	replayed    bool     // it tells of an earlier call
	body        []byte
}

func (r reply) write(w *answer) {
	h := w.Header()
	h["Content-Type"] = r.contentType
	if r.retryAfter != nil {
		h["Retry-After"] = r.retryAfter
	}
	if r.location != "" {
		h["Location"] = []string{r.location}
	}
	if r.applied {
		h["Preference-Applied"] = applied
	}
	if r.replayed {
		h["Idempotency-Replayed"] = yes
	}
	w.WriteHeader(r.status)
	_, _ = w.Write(r.body) // it fails only when the caller has left
}

// replyTo is the answer to a caller whose notification ended in r: a verdict on the notification itself is 200,
// whatever it is; all else is a problem of the caller, the credential, the provider or the gateway.
func replyTo(r push.Receipt, requestID string) reply {
	if p := problemOf(r); p != nil {
		return p.reply(requestID)
	}
	body := r.AppendJSON(make([]byte, 0, 512))
	return reply{status: http.StatusOK, contentType: jsonType, body: append(body, '\n')}
}

// laterReply is the answer to a caller who does not wait for the end: how it stands, and where to ask again.
func laterReply(app string, r push.Receipt) reply {
	body := r.AppendJSON(make([]byte, 0, 512))
	return reply{
		status: http.StatusAccepted, contentType: jsonType, body: append(body, '\n'),
		location: "/v1/apps/" + app + "/notifications/" + r.ID,
	}
}

// problemOf returns why r holds no verdict on the notification, or nil if it does or its sender wanted none any more.
func problemOf(r push.Receipt) *problem {
	if r.State == push.StatusCancelled {
		return nil
	}
	switch r.Verdict {
	case push.Accepted, push.Unregistered, push.Expired:
		return nil
	case push.Refused:
		return misfit(r)
	case push.Throttled:
		return about(r, problem{kind: throttled, retryAfter: atLeastASecond(r.RetryAfter), detail: comeBack})
	case push.Unauthorized:
		return about(r, problem{kind: unauthorized, detail: "the operator has to look at the app's key or certificate"})
	case push.Unknown:
		return about(r, problem{kind: unknown,
			detail: "sending it again may show it twice; on_unknown lets the gateway decide"})
	default:
		return about(r, problem{kind: unavailable, retryAfter: atLeastASecond(r.RetryAfter), detail: comeBack})
	}
}

const comeBack = "send it again after the seconds in Retry-After"

// about gives p the receipt, and its reason before what to do next.
func about(r push.Receipt, p problem) *problem {
	p.receipt = &r
	if r.Reason != "" {
		p.detail = r.Reason + ": " + p.detail
	}
	return &p
}

// misfit returns the problem of a notification that was refused here, and nil for one that its provider refused:
// that is a verdict.
func misfit(r push.Receipt) *problem {
	if len(r.Attempts) > 0 {
		return nil
	}
	kind := invalidField
	if r.Reason == payloadTooLarge.reason {
		kind = payloadTooLarge
	}
	return &problem{kind: kind, field: r.Field, detail: r.Detail}
}

func atLeastASecond(d time.Duration) time.Duration { return max(d, time.Second) }
