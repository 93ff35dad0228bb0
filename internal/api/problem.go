// SPDX-License-Identifier: Apache-2.0

package api

import (
	"encoding/json"
	"net/http"
	"strconv"
	"time"

	"github.com/sluice-push/sluice/push"
)

// problemBase and a kind's slug make a problem's type (RFC 9457). It is a name first and an address second: clients
// compare it, so it never changes.
const problemBase = "https://sluice-push.github.io/problems/"

// kind is one sort of problem. Its slug ends the type of a problem document; its reason is that of a refused receipt
// in a batch, where the same trouble is one notification's alone.
type kind struct {
	status int
	slug   string
	reason string
	title  string
}

// The kinds. Slugs and reasons are part of the contract: they are added to, never renamed.
var (
	invalidJSON      = kind{http.StatusBadRequest, "invalid-json", "InvalidJSON", "The body is not valid JSON"}
	unknownField     = kind{http.StatusBadRequest, "unknown-field", "UnknownField", "A field is not known"}
	duplicateField   = kind{http.StatusBadRequest, "duplicate-field", "DuplicateField", "A field is given twice"}
	invalidField     = kind{http.StatusBadRequest, "invalid-field", "InvalidField", "A field is missing or not allowed"}
	invalidParameter = kind{http.StatusBadRequest, "invalid-parameter", "InvalidParameter",
		"A query parameter is not allowed"}
	invalidHeader   = kind{http.StatusBadRequest, "invalid-header", "InvalidHeader", "A request header is not allowed"}
	bodyIncomplete  = kind{http.StatusBadRequest, "body-incomplete", "BodyIncomplete", "The body ended early"}
	bodyTimeout     = kind{http.StatusRequestTimeout, "body-timeout", "BodyTimeout", "The body came too slowly"}
	bodyTooLarge    = kind{http.StatusRequestEntityTooLarge, "body-too-large", "BodyTooLarge", "The body is too large"}
	batchTooLarge   = kind{http.StatusRequestEntityTooLarge, "batch-too-large", "BatchTooLarge", "The batch is too long"}
	payloadTooLarge = kind{http.StatusRequestEntityTooLarge, "payload-too-large", "PayloadTooLarge",
		"The notification is larger than its provider takes"}
	unsupportedBody = kind{http.StatusUnsupportedMediaType, "unsupported-body", "UnsupportedBody",
		"The body is of a type that is not taken"}

	unauthenticated = kind{http.StatusUnauthorized, "unauthenticated", "Unauthenticated",
		"The API key is missing or not known"}
	wrongApp         = kind{http.StatusForbidden, "wrong-app", "WrongApp", "The API key is not one of this app"}
	missingScope     = kind{http.StatusForbidden, "missing-scope", "MissingScope", "The API key may not do this"}
	notFound         = kind{http.StatusNotFound, "not-found", "NotFound", "There is nothing here"}
	methodNotAllowed = kind{http.StatusMethodNotAllowed, "method-not-allowed", "MethodNotAllowed",
		"The method is not allowed here"}
	keyReused = kind{http.StatusUnprocessableEntity, "idempotency-key-reused", "IdempotencyKeyReused",
		"The Idempotency-Key came with another body before"}
	keyInUse = kind{http.StatusConflict, "idempotency-key-in-use", "IdempotencyKeyInUse",
		"A call with this Idempotency-Key is under way"}
	notWaiting    = kind{http.StatusConflict, "not-waiting", "NotWaiting", "The notification does not wait any more"}
	cursorExpired = kind{http.StatusGone, "events-forgotten", "EventsForgotten", "The events behind this cursor are not kept any more"}
	needsQueue    = kind{http.StatusNotImplemented, "needs-queue", "NeedsQueue",
		"This needs a queue, and this gateway has none"}
	queueFull = kind{http.StatusServiceUnavailable, "queue-full", "QueueFull",
		"The queue or its disk is full"}
	queueUnavailable = kind{http.StatusServiceUnavailable, "queue-unavailable", "QueueUnavailable",
		"The queue or the history does not answer"}

	refusedByProvider = kind{http.StatusUnprocessableEntity, "refused-by-provider", "RefusedByProvider", "The provider refuses this"}

	throttled    = kind{http.StatusTooManyRequests, "throttled", "Throttled", "Too much for the provider or a quota"}
	unauthorized = kind{http.StatusBadGateway, "unauthorized", "Unauthorized",
		"The provider does not take the app's credential"}
	unavailable = kind{http.StatusServiceUnavailable, "unavailable", "Unavailable",
		"The provider could not be reached, or could not"}
	unknown  = kind{http.StatusGatewayTimeout, "unknown", "Unknown", "Nobody can tell whether the provider took it"}
	internal = kind{http.StatusInternalServerError, "internal", "Internal", "The gateway has a fault"}
)

// problem is why a call was not done. Nothing in it repeats what the caller sent but the names of fields.
type problem struct {
	kind
	field      string        // path of the field in the body, or the name of the header
	detail     string        // what is allowed there, or what to do next
	receipt    *push.Receipt // where the notification was tried
	retryAfter time.Duration // where waiting helps
}

// document is the JSON form of a problem: RFC 9457's members, and three of ours.
type document struct {
	Type      string        `json:"type"`
	Title     string        `json:"title"`
	Status    int           `json:"status"`
	Detail    string        `json:"detail,omitempty"`
	Field     string        `json:"field,omitempty"`
	RequestID string        `json:"request_id,omitempty"`
	Receipt   *push.Receipt `json:"receipt,omitempty"`
}

// reply is the whole answer that tells p.
func (p *problem) reply(requestID string) reply {
	body, err := json.Marshal(document{
		Type: problemBase + p.slug, Title: p.title, Status: p.status,
		Detail: p.detail, Field: p.field, RequestID: requestID, Receipt: p.receipt,
	})
	if err != nil { // a receipt that has no JSON form: a fault of ours
		body = []byte(`{"type":"` + problemBase + internal.slug + `","title":"` + internal.title + `","status":500}`)
		return reply{status: http.StatusInternalServerError, contentType: problemType, body: body}
	}
	out := reply{status: p.status, contentType: problemType, body: append(body, '\n')}
	if p.retryAfter > 0 {
		out.retryAfter = []string{strconv.Itoa(wholeSeconds(p.retryAfter))}
	}
	return out
}

// batchReceipt is the receipt of a batch's notification that has the problem: refused, unless it may be taken later or was perhaps.
func (p *problem) batchReceipt(index int) push.Receipt {
	verdict := push.Refused
	switch {
	case p.kind == queueUnavailable || p.kind == internal:
		verdict = push.Unknown
	case p.retryAfter > 0:
		verdict = push.Unsent
	}
	return push.Receipt{Index: &index, Outcome: push.Outcome{
		Verdict: verdict, Reason: p.reason, Field: p.field, Detail: p.detail, RetryAfter: p.retryAfter,
	}}
}

// wholeSeconds rounds up: Retry-After knows no fractions, and too early is worse than late.
func wholeSeconds(d time.Duration) int {
	return int((d + time.Second - 1) / time.Second)
}
