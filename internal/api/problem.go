// SPDX-License-Identifier: Apache-2.0

package api

import (
	"encoding/json"
	"net/http"
	"strconv"
	"time"

	"github.com/sluice-push/sluice/push"
)

// ProblemBase and the slug of a kind form the type of a problem (RFC 9457). Clients compare it as a
// string.
const ProblemBase = "https://sluice-push.github.io/problems/"

// kind is a type of problem. Its slug is the last part of the type in a problem document. Its
// reason is the reason of a refused receipt, if the problem concerns one notification of a batch.
type kind struct {
	status int
	slug   string
	reason string
	title  string
}

// The kinds. Their slugs and reasons are part of the API.
var (
	invalidJSON      = kind{http.StatusBadRequest, "invalid-json", "InvalidJSON", "The body is not valid JSON"}
	unknownField     = kind{http.StatusBadRequest, "unknown-field", "UnknownField", "A field is unknown"}
	duplicateField   = kind{http.StatusBadRequest, "duplicate-field", "DuplicateField", "A field is duplicated"}
	invalidField     = kind{http.StatusBadRequest, "invalid-field", "InvalidField", "A field is missing or not allowed"}
	invalidParameter = kind{http.StatusBadRequest, "invalid-parameter", "InvalidParameter",
		"A query parameter is invalid"}
	invalidHeader   = kind{http.StatusBadRequest, "invalid-header", "InvalidHeader", "A request header is invalid"}
	bodyIncomplete  = kind{http.StatusBadRequest, "body-incomplete", "BodyIncomplete", "The body is incomplete"}
	bodyTimeout     = kind{http.StatusRequestTimeout, "body-timeout", "BodyTimeout", "The body arrived too slowly"}
	bodyTooLarge    = kind{http.StatusRequestEntityTooLarge, "body-too-large", "BodyTooLarge", "The body is too large"}
	batchTooLarge   = kind{http.StatusRequestEntityTooLarge, "batch-too-large", "BatchTooLarge", "The batch has too many items"}
	payloadTooLarge = kind{http.StatusRequestEntityTooLarge, "payload-too-large", "PayloadTooLarge",
		"The notification exceeds the size limit of its provider"}
	unsupportedBody = kind{http.StatusUnsupportedMediaType, "unsupported-body", "UnsupportedBody",
		"The type of the body is not supported"}

	unauthenticated = kind{http.StatusUnauthorized, "unauthenticated", "Unauthenticated",
		"The API key, token or certificate is missing or invalid"}
	issuerUnavailable = kind{http.StatusServiceUnavailable, "issuer-unavailable", "IssuerUnavailable", "The token cannot be verified at present"}
	wrongApp          = kind{http.StatusForbidden, "wrong-app", "WrongApp", "The caller may not act for this app"}
	missingScope      = kind{http.StatusForbidden, "missing-scope", "MissingScope", "The caller lacks a scope"}
	notFound          = kind{http.StatusNotFound, "not-found", "NotFound", "Not found"}
	methodNotAllowed  = kind{http.StatusMethodNotAllowed, "method-not-allowed", "MethodNotAllowed",
		"The method is not allowed"}
	keyReused = kind{http.StatusUnprocessableEntity, "idempotency-key-reused", "IdempotencyKeyReused",
		"The Idempotency-Key was used with another body before"}
	keyInUse = kind{http.StatusConflict, "idempotency-key-in-use", "IdempotencyKeyInUse",
		"A request with this Idempotency-Key is in progress"}
	notWaiting         = kind{http.StatusConflict, "not-waiting", "NotWaiting", "The notification is no longer pending"}
	notPossible        = kind{http.StatusConflict, "not-possible", "NotPossible", "The request is not possible in the current state"}
	wrongOffset        = kind{http.StatusConflict, "wrong-offset", "WrongOffset", "The upload continues at another offset"}
	preconditionFailed = kind{http.StatusPreconditionFailed, "precondition-failed", "PreconditionFailed", "The resource has changed"}
	cursorExpired      = kind{http.StatusGone, "cursor-expired", "CursorExpired", "The events after this cursor are no longer stored"}
	needsQueue         = kind{http.StatusNotImplemented, "needs-queue", "NeedsQueue",
		"The request needs a queue, and this gateway has none"}
	queueFull = kind{http.StatusServiceUnavailable, "queue-full", "QueueFull",
		"The queue or its disk is full"}
	queueUnavailable = kind{http.StatusServiceUnavailable, "queue-unavailable", "QueueUnavailable",
		"The queue or the history does not respond"}

	refusedByProvider = kind{http.StatusUnprocessableEntity, "refused-by-provider", "RefusedByProvider", "The provider refuses the request"}

	callerLimit = kind{http.StatusTooManyRequests, "caller-limit", "CallerLimit", "A limit of the caller is exceeded"}

	throttled    = kind{http.StatusTooManyRequests, "throttled", "Throttled", "The provider or a quota limits the rate"}
	unauthorized = kind{http.StatusBadGateway, "unauthorized", "Unauthorized",
		"The provider rejects the app's credential"}
	unavailable = kind{http.StatusServiceUnavailable, "unavailable", "Unavailable",
		"The provider is not available"}
	unknown  = kind{http.StatusGatewayTimeout, "unknown", "Unknown", "It is unknown whether the provider accepted the notification"}
	internal = kind{http.StatusInternalServerError, "internal", "Internal", "Internal error"}
)

// problem says why a request failed. It must not contain data of the request, except names of
// fields.
type problem struct {
	kind
	cause      string        // short reason for the audit log, if the request is refused because of its caller
	field      string        // path of the field in the body, or name of the header
	detail     string        // what is allowed, or what to do
	receipt    *push.Receipt // if the notification was attempted
	retryAfter time.Duration // 0 if waiting does not help
}

// document is the JSON form of a problem: the members of RFC 9457 and field, request_id and
// receipt.
type document struct {
	Type      string        `json:"type"`
	Title     string        `json:"title"`
	Status    int           `json:"status"`
	Detail    string        `json:"detail,omitempty"`
	Field     string        `json:"field,omitempty"`
	RequestID string        `json:"request_id,omitempty"`
	Receipt   *push.Receipt `json:"receipt,omitempty"`
}

// reply returns the response for p.
func (p *problem) reply(requestID string) reply {
	body, err := json.Marshal(document{
		Type: ProblemBase + p.slug, Title: p.title, Status: p.status,
		Detail: p.detail, Field: p.field, RequestID: requestID, Receipt: p.receipt,
	})
	if err != nil { // a receipt without a JSON form is a bug
		body = []byte(`{"type":"` + ProblemBase + internal.slug + `","title":"` + internal.title + `","status":500}`)
		return reply{status: http.StatusInternalServerError, contentType: problemType, body: body}
	}
	out := reply{status: p.status, contentType: problemType, body: append(body, '\n')}
	if p.retryAfter > 0 {
		out.retryAfter = []string{strconv.Itoa(wholeSeconds(p.retryAfter))}
	}
	return out
}

// batchReceipt returns the receipt of one of several notifications that has the problem, without its
// position. It is refused, except if the notification may be sent later or may have been stored.
func (p *problem) batchReceipt() *push.Receipt {
	verdict := push.Refused
	switch {
	case p.kind == queueUnavailable || p.kind == internal:
		verdict = push.Unknown
	case p.retryAfter > 0:
		verdict = push.Unsent
	}
	return &push.Receipt{Outcome: push.Outcome{
		Verdict: verdict, Reason: p.reason, Field: p.field, Detail: p.detail, RetryAfter: p.retryAfter,
	}}
}

// wholeSeconds rounds up, because Retry-After has no fractions and must not be too early.
func wholeSeconds(d time.Duration) int {
	return int((d + time.Second - 1) / time.Second)
}
