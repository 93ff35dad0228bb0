// SPDX-License-Identifier: Apache-2.0

package apns

import (
	"bytes"
	"cmp"
	"errors"
	"strings"
	"time"

	"github.com/go-json-experiment/json"
	"github.com/go-json-experiment/json/jsontext"

	"github.com/sluice-push/sluice/push"
	"github.com/sluice-push/sluice/wire"
)

// unknownReason stands in for every reason that is not in the table: Apple's
// text goes no further than here.
const unknownReason = "UnknownReason"

// The judgements that several reasons share.
var (
	refused      = push.Outcome{Verdict: push.Refused}
	unregistered = push.Outcome{Verdict: push.Unregistered, ForgetToken: true}
	unauthorized = push.Outcome{Verdict: push.Unauthorized, Scope: push.ScopeCredential}
	// unauthorizedClose: what is sent after it on the same connection is refused as well.
	unauthorizedClose = push.Outcome{Verdict: push.Unauthorized, Scope: push.ScopeCredential, CloseConnection: true}
	unavailable       = push.Outcome{Verdict: push.Unavailable, Scope: push.ScopeEndpoint}
)

// responseKey is what Apple's documents tell answers apart by. The status alone
// never does: 400 is a bad token as well as our own mistake.
type responseKey struct {
	status int
	reason string
}

// outcomes are Apple's answers and our judgement: "Handling notification responses
// from APNs", read 2026-11-22, but for what is marked otherwise. RetryAfter is
// our own choice, for Apple names no time.
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

	// Our own mistake, and no judgement on the token.
	{400, "MissingDeviceToken"}: refused,
	{404, "BadPath"}:            refused,
	{405, "MethodNotAllowed"}:   refused,

	// Not to be forgotten: a key of the wrong environment, or an app's mix-up,
	// brings these for every token that there is.
	{400, "BadDeviceToken"}:         {Verdict: push.Refused, WrongEnvironment: true},
	{400, "DeviceTokenNotForTopic"}: refused,

	// Housekeeping: the connection is over, its endpoint well.
	{400, "IdleTimeout"}: {Verdict: push.Unavailable, Scope: push.ScopeConnection, CloseConnection: true},

	{403, "BadCertificate"}:            unauthorizedClose,
	{403, "BadCertificateEnvironment"}: unauthorizedClose,
	{403, "InvalidProviderToken"}:      unauthorizedClose,
	{403, "Forbidden"}:                 unauthorized,
	{403, "MissingProviderToken"}:      unauthorized,
	// Send decides whether there is another token to try. The connection stays
	// stuck even with a good one (seen; Pushy closes it, too).
	{403, "ExpiredProviderToken"}: unauthorizedClose,
	// The connection belongs to another key. On another one the same token is
	// as good as new.
	{403, "UnrelatedKeyIdInToken"}: {Verdict: push.Unauthorized, Scope: push.ScopeConnection, Renewed: true},
	// The first spelling is documented, the second is what arrives (seen since 2025).
	{403, "BadEnvironmentKeyIdInToken"}: unauthorized,
	{403, "BadEnvironmentKeyInToken"}:   unauthorized,

	// Apple gives the time since when; a registration that is newer wins.
	{410, "ExpiredToken"}: unregistered,
	{410, "Unregistered"}: unregistered,

	{413, "PayloadTooLarge"}: refused,

	{429, "TooManyProviderTokenUpdates"}: {Verdict: push.Throttled, Scope: push.ScopeCredential, RetryAfter: time.Minute},
	{429, "TooManyRequests"}:             {Verdict: push.Throttled, Scope: push.ScopeDevice, RetryAfter: 30 * time.Second},

	// Sticks to a connection that was idle for long (seen): a new one cures it.
	{500, "InternalServerError"}: {Verdict: push.Unavailable, Scope: push.ScopeEndpoint, CloseConnection: true},
	{503, "ServiceUnavailable"}:  unavailable,
	{503, "Shutdown"}:            {Verdict: push.Unavailable, Scope: push.ScopeEndpoint, CloseConnection: true},
}

// outcomeByStatus judges an answer whose reason is unknown or unreadable. What is no
// HTTP API's answer at all, such as a redirect, did not come from Apple: the
// endpoint, or what stands before it, is sick.
func outcomeByStatus(status int) push.Outcome {
	switch {
	case status == 403:
		return unauthorized
	case status == 410:
		return push.Outcome{Verdict: push.Unregistered} // suspect only: nobody said that it is dead
	case status == 429:
		return push.Outcome{Verdict: push.Throttled, Scope: push.ScopeDevice, RetryAfter: 30 * time.Second}
	case status/100 == 4:
		return refused
	}
	return unavailable
}

// judge turns an answer into its outcome.
func (p *Provider) judge(a *wire.Response, broadcast bool, used *token) push.Outcome {
	if a.Status/100 == 2 {
		return push.Outcome{Verdict: push.Accepted, HTTP: a.Status}
	}
	reason := parseReason(a.Body)
	o, known := findOutcome(responseKey{a.Status, reason}, broadcast)
	if !known {
		o, reason = outcomeByStatus(a.Status), unknownReason
	}
	o.HTTP, o.Reason = a.Status, reason
	if asked := a.RetryAfter(); asked > 0 && o.Retryable() {
		o.RetryAfter = asked
	}
	if o.Verdict == push.Unregistered {
		o.DeadSince = parseTimestamp(a.Body)
	}
	return p.informSigner(o, used)
}

// informSigner lets the Signer hear of what concerns it.
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

// providerID returns Apple's name for an accepted notification. It is the one that
// we gave it; Apple may spell a UUID in capitals.
func providerID(a *wire.Response, n *push.Notification) string {
	name := cmp.Or(a.Get("apns-id"), a.Get("apns-request-id"))
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

// lenient forgives in an answer what changes nothing about its meaning.
var lenient = json.JoinOptions(jsontext.AllowInvalidUTF8(true), jsontext.AllowDuplicateNames(true))

// parseReason returns the reason in an error's body, or "" where there is none to
// read.
func parseReason(body []byte) string {
	var in struct {
		Reason string `json:"reason"`
	}
	if json.Unmarshal(body, &in, lenient) != nil {
		return ""
	}
	return in.Reason
}

// parseTimestamp returns the time in the body of a 410, in milliseconds since
// 1970 there, or zero.
func parseTimestamp(body []byte) time.Time {
	var in struct {
		Timestamp int64 `json:"timestamp"`
	}
	if json.Unmarshal(body, &in, lenient) != nil || in.Timestamp <= 0 {
		return time.Time{}
	}
	return time.UnixMilli(in.Timestamp).UTC()
}

// streamLimit is what Apple says when we had more streams open than it allows:
// our own doing (seen; Pushy #356).
var streamLimit = []byte("Maximum active streams violated")

// judgeNoResponse is the outcome of an attempt without an answer. Apple can say
// in a GOAWAY why it closes: then its reason counts for what it reaches. It
// never makes an attempt safe to repeat that may have been processed.
func (p *Provider) judgeNoResponse(err error, used *token) push.Outcome {
	o := push.NoResponse(err)
	lost, ok := errors.AsType[*wire.Error](err)
	if !ok || len(lost.DebugData) == 0 || o.Verdict == push.Abandoned {
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

// outcomeByReason returns the row of a reason that came without a status.
func outcomeByReason(reason string) (push.Outcome, bool) {
	for a, o := range outcomes {
		if a.reason == reason {
			o.Reason = reason
			return o, true
		}
	}
	return push.Outcome{}, false
}
