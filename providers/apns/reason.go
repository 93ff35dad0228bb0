// SPDX-License-Identifier: Apache-2.0

package apns

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"regexp"
	"strings"
	"time"

	"github.com/go-json-experiment/json"
	"github.com/go-json-experiment/json/jsontext"

	"github.com/sluice-push/sluice/push"
	"github.com/sluice-push/sluice/wire"
)

// unknownReason replaces every reason that is not in the table, so that free text from APNs goes no
// further.
const unknownReason = "UnknownReason"

// Outcomes that several reasons share.
var (
	refused      = push.Outcome{Verdict: push.Refused}
	unregistered = push.Outcome{Verdict: push.Unregistered, ForgetToken: true}
	unauthorized = push.Outcome{Verdict: push.Unauthorized, Scope: push.ScopeCredential}
	// unauthorizedClose also closes the connection: APNs refuses every later request on it.
	unauthorizedClose = push.Outcome{Verdict: push.Unauthorized, Scope: push.ScopeCredential, CloseConnection: true}
	unavailable       = push.Outcome{Verdict: push.Unavailable, Scope: push.ScopeEndpoint}
)

// responseKey identifies a documented response. The status is not enough: 400 can mean a bad device
// token or a malformed request.
type responseKey struct {
	status int
	reason string
}

// outcomes maps APNs' responses to outcomes: "Handling notification responses from APNs", read
// 2026-11-22, unless noted. APNs documents no waiting time; the values of RetryAfter are our
// choice.
var outcomes = map[responseKey]push.Outcome{
	{400, "BadCollapseId"}:     refused, // longer than 64 bytes
	{400, "BadExpirationDate"}: refused,
	{400, "BadMessageId"}:      refused,
	{400, "BadPriority"}:       refused,
	{400, "BadTopic"}:          refused,
	{400, "DuplicateHeaders"}:  refused,
	{400, "InvalidPushType"}:   refused,
	{400, "MissingTopic"}:      refused,
	{400, "PayloadEmpty"}:      refused,
	{400, "TopicDisallowed"}:   refused,

	// A malformed request. This says nothing about the device token.
	{400, "MissingDeviceToken"}: refused,
	{404, "BadPath"}:            refused,
	{405, "MethodNotAllowed"}:   refused,

	// ForgetToken is not set: a credential for the wrong environment or app causes these for every
	// token.
	{400, "BadDeviceToken"}:         {Verdict: push.Refused, WrongEnvironment: true},
	{400, "DeviceTokenNotForTopic"}: refused,

	// Only the connection ends; the endpoint is healthy.
	{400, "IdleTimeout"}: {Verdict: push.Unavailable, Scope: push.ScopeConnection, CloseConnection: true},

	{403, "BadCertificate"}:            unauthorizedClose,
	{403, "BadCertificateEnvironment"}: unauthorizedClose,
	{403, "InvalidProviderToken"}:      unauthorizedClose,
	{403, "Forbidden"}:                 unauthorized,
	{403, "MissingProviderToken"}:      unauthorized,
	// informSigner decides whether a newer token can be tried. Later requests on the connection
	// fail even with a valid token (observed; Pushy closes it as well).
	{403, "ExpiredProviderToken"}: unauthorizedClose,
	// The connection is bound to another key. The token is valid on a new connection.
	{403, "UnrelatedKeyIdInToken"}: {Verdict: push.Unauthorized, Scope: push.ScopeConnection, Renewed: true},
	// The first spelling is documented, the second is what APNs sends (observed since 2025).
	{403, "BadEnvironmentKeyIdInToken"}: unauthorized,
	{403, "BadEnvironmentKeyInToken"}:   unauthorized,

	// APNs includes the time since which the token is invalid. A newer registration is valid.
	{410, "ExpiredToken"}: unregistered,
	{410, "Unregistered"}: unregistered,

	{413, "PayloadTooLarge"}: refused,

	{429, "TooManyProviderTokenUpdates"}: {Verdict: push.Throttled, Scope: push.ScopeCredential, RetryAfter: time.Minute},
	{429, "TooManyRequests"}:             {Verdict: push.Throttled, Scope: push.ScopeDevice, RetryAfter: 30 * time.Second},

	// Occurs on connections that were idle for a long time (observed); a new connection works.
	{500, "InternalServerError"}: {Verdict: push.Unavailable, Scope: push.ScopeEndpoint, CloseConnection: true},
	{503, "ServiceUnavailable"}:  unavailable,
	{503, "Shutdown"}:            {Verdict: push.Unavailable, Scope: push.ScopeEndpoint, CloseConnection: true},
}

// isFromAPNs reports whether a response came from APNs: it has one of APNs' IDs or, if it is an
// error, a reason. APNs sends both with every error.
func isFromAPNs(resp *wire.Response, reason string) bool {
	return resp.Get("apns-id") != "" || resp.Get("apns-request-id") != "" || resp.Status/100 != 2 && isReason(reason)
}

// isReason matches APNs' reasons, including future ones. A text for people does not match.
var isReason = regexp.MustCompile(`^([A-Z][A-Za-z]*|Service Unavailable)$`).MatchString

// outcomeByStatus returns the outcome of a response without a known reason.
func outcomeByStatus(status int) push.Outcome {
	switch {
	case status == 403:
		return unauthorized
	case status == 410:
		return push.Outcome{Verdict: push.Unregistered} // without ForgetToken: the reason is unknown
	case status == 429:
		return push.Outcome{Verdict: push.Throttled, Scope: push.ScopeDevice, RetryAfter: 30 * time.Second}
	case status/100 == 4:
		return refused
	}
	return unavailable
}

// judge returns the outcome of a response.
func (p *Provider) judge(resp *wire.Response, broadcast bool, used *token) push.Outcome {
	reason := parseReason(resp.Body)
	switch {
	case !isFromAPNs(resp, reason):
		return push.Intermediary(resp.Status, resp.RetryAfter())
	case resp.Status/100 == 2:
		return push.Outcome{Verdict: push.Accepted, HTTP: resp.Status}
	}
	o, known := findOutcome(responseKey{resp.Status, reason}, broadcast)
	if !known {
		o, reason = outcomeByStatus(resp.Status), unknownReason
	}
	o.HTTP, o.Reason = resp.Status, reason
	if retryAfter := resp.RetryAfter(); retryAfter > 0 && o.Retryable() {
		o.RetryAfter = retryAfter
	}
	if o.Verdict == push.Unregistered {
		o.DeadSince = parseTimestamp(resp.Body)
	}
	return p.informSigner(o, used)
}

// informSigner passes errors about the provider token to the Signer, and sets Renewed if a newer
// one exists.
func (p *Provider) informSigner(o push.Outcome, used *token) push.Outcome {
	if used == nil {
		return o
	}
	switch o.Reason {
	case "ExpiredProviderToken":
		o.Renewed = p.signer.onExpired(used)
	case "InvalidProviderToken":
		p.signer.onInvalid(used)
	case "TooManyProviderTokenUpdates":
		p.signer.onTooManyUpdates()
	}
	return o
}

// providerID returns the ID that APNs gave an accepted notification. It returns n.ID if that ID is
// n.ID in upper case, or not a UUID.
func providerID(resp *wire.Response, n *push.Notification) string {
	name := cmp.Or(resp.Get("apns-id"), resp.Get("apns-request-id"))
	if name == n.ID || strings.EqualFold(name, n.ID) || !isUUID(name) {
		return n.ID
	}
	return name
}

func isUUID(s string) bool {
	if len(s) != 36 || s[8] != '-' || s[13] != '-' || s[18] != '-' || s[23] != '-' {
		return false
	}
	return strings.Count(s, "-") == 4 && allBytes(s, func(c byte) bool { return c == '-' || isHex(c) })
}

// lenient accepts errors in a response's JSON that do not change its meaning.
var lenient = json.JoinOptions(jsontext.AllowInvalidUTF8(true), jsontext.AllowDuplicateNames(true))

// parseReason returns the reason in an error's body, or "" if there is none.
func parseReason(body []byte) string {
	if len(body) == 0 { // of a response with status 200
		return ""
	}
	var in struct {
		Reason string `json:"reason"`
	}
	if json.Unmarshal(body, &in, lenient) != nil {
		return ""
	}
	return in.Reason
}

// parseTimestamp returns the timestamp in the body of a response with status 410, or zero. It is in
// milliseconds since 1970.
func parseTimestamp(body []byte) time.Time {
	var in struct {
		Timestamp int64 `json:"timestamp"`
	}
	if json.Unmarshal(body, &in, lenient) != nil || in.Timestamp <= 0 {
		return time.Time{}
	}
	return time.UnixMilli(in.Timestamp).UTC()
}

// streamLimit is the debug data of a GOAWAY for more concurrent streams than APNs allows. That is
// an error of the client (observed; Pushy #356).
var streamLimit = []byte("Maximum active streams violated")

// judgeNoResponse returns the outcome of an attempt without a response. A reason in the debug data
// of APNs' GOAWAY determines the scope. It never makes an attempt safe to retry that may have been
// processed.
func (p *Provider) judgeNoResponse(err error, used *token) push.Outcome {
	o := push.NoResponse(err)
	lost, ok := errors.AsType[*wire.Error](err)
	if !ok || len(lost.DebugData) == 0 || errors.Is(err, context.Canceled) {
		return o
	}
	if bytes.Contains(lost.DebugData, streamLimit) {
		o.Scope = push.ScopeConnection
		return o
	}
	why, known := outcomeByReason(parseReason(lost.DebugData))
	switch {
	case !known:
		return o
	case why.Verdict == push.Unauthorized && lost.Unprocessed():
		return p.informSigner(why, used)
	case why.Scope != push.ScopeEndpoint:
		o.Scope = cmp.Or(why.Scope, push.ScopeConnection)
	}
	o.Reason, o.CloseConnection = why.Reason, why.CloseConnection
	return o
}

// outcomeByReason returns the outcome of a reason that came without a status.
func outcomeByReason(reason string) (push.Outcome, bool) {
	for key, o := range outcomes {
		if key.reason == reason {
			o.Reason = reason
			return o, true
		}
	}
	return push.Outcome{}, false
}
