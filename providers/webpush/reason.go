// SPDX-License-Identifier: Apache-2.0

package webpush

import (
	"bytes"
	"strconv"
	"strings"
	"time"

	"github.com/go-json-experiment/json"
	"github.com/go-json-experiment/json/jsontext"

	"github.com/sluice-push/sluice/push"
	"github.com/sluice-push/sluice/wire"
)

// defaultQuotaWait is how long to leave a subscription alone when no Retry-After is given: our own choice, for RFC 8030 names
// no time.
const defaultQuotaWait = time.Minute

// The judgements that several answers share.
var (
	refused      = push.Outcome{Verdict: push.Refused}
	unregistered = push.Outcome{Verdict: push.Unregistered, ForgetToken: true}
	unauthorized = push.Outcome{Verdict: push.Unauthorized, Scope: push.ScopeCredential}
	unavailable  = push.Outcome{Verdict: push.Unavailable, Scope: push.ScopeEndpoint}
	// foreignKey: the subscription was made with another VAPID key and can never be reached with this one.
	foreignKey = push.Outcome{Verdict: push.Refused, ForgetToken: true}
)

// responseKey is what a service's documents tell its answers apart by.
type responseKey struct {
	service string
	status  int
	reason  string
}

// The services whose answers have a shape of their own. They are known by that shape and not by their host: Mozilla's
// server, for one, is run by others, too.
const (
	serviceApple   = "apple"   // {"reason": …}
	serviceMozilla = "mozilla" // {"errno": …}
	serviceWNS     = "wns"     // X-WNS-… headers
	serviceGoogle  = "fcm-web" // text
	serviceOther   = "any"     // whoever follows the RFCs
)

// outcomes are the answers that a status alone does not judge. Apple, "Sending web push notifications in web apps and
// browsers"; Mozilla, autopush-rs, "Error codes"; both read 2026-11-22. What Google and Microsoft answer was seen.
var outcomes = map[responseKey]push.Outcome{
	{serviceApple, 400, "BadTtl"}:            refused,
	{serviceApple, 400, "BadUrgency"}:        refused,
	{serviceApple, 400, "BadWebPushRequest"}: refused,
	{serviceApple, 400, "BadWebPushTopic"}:   refused,
	{serviceApple, 404, "BadPath"}:           refused, // our own mistake, and no judgement on the subscription
	{serviceApple, 405, "MethodNotAllowed"}:  refused,
	{serviceApple, 413, "PayloadTooLarge"}:   refused,

	{serviceApple, 400, "VapidPkHashMismatch"}: foreignKey,
	{serviceApple, 403, "VapidPkHashMismatch"}: foreignKey, // (seen once)

	{serviceApple, 400, "IdleTimeout"}: {Verdict: push.Unavailable, Scope: push.ScopeConnection, CloseConnection: true},

	{serviceApple, 403, "BadAuthorizationHeader"}: unauthorized,
	{serviceApple, 403, "BadJwtToken"}:            unauthorized,
	{serviceApple, 403, "BadVapidPublicKey"}:      unauthorized,

	{serviceApple, 429, "TooManyRequests"}:     {Verdict: push.Throttled, Scope: push.ScopeDevice, RetryAfter: 30 * time.Second},
	{serviceApple, 500, "InternalServerError"}: unavailable,
	{serviceApple, 503, "ServiceUnavailable"}:  unavailable,
	{serviceApple, 503, "Shutdown"}:            {Verdict: push.Unavailable, Scope: push.ScopeEndpoint, CloseConnection: true},

	{serviceMozilla, 400, "errno 101"}: refused, // missing header
	{serviceMozilla, 400, "errno 108"}: refused,
	{serviceMozilla, 400, "errno 110"}: refused, // crypto headers
	{serviceMozilla, 400, "errno 111"}: refused, // TTL
	{serviceMozilla, 400, "errno 112"}: refused,
	{serviceMozilla, 400, "errno 113"}: refused, // Topic
	{serviceMozilla, 401, "errno 109"}: unauthorized,
	{serviceMozilla, 404, "errno 102"}: unregistered,
	{serviceMozilla, 410, "errno 103"}: unregistered,
	{serviceMozilla, 410, "errno 105"}: unregistered,
	{serviceMozilla, 410, "errno 106"}: unregistered,
	{serviceMozilla, 413, "errno 104"}: refused,
	{serviceMozilla, 500, "errno 999"}: unavailable,
	{serviceMozilla, 502, "errno 900"}: unavailable,
	{serviceMozilla, 502, "errno 901"}: unavailable,
	{serviceMozilla, 502, "errno 902"}: unavailable,
	{serviceMozilla, 502, "errno 903"}: unavailable,
	{serviceMozilla, 503, "errno 201"}: unavailable,
	{serviceMozilla, 503, "errno 202"}: {Verdict: push.Unavailable, Scope: push.ScopeDevice}, // the browser is connecting elsewhere

	{serviceGoogle, 400, "UnauthorizedRegistration"}: unauthorized,
	{serviceGoogle, 403, "vapid-mismatch"}:           foreignKey,
	{serviceGoogle, 403, "jwt-invalid"}:              unauthorized,

	// The sender is too fast for this one service.
	{serviceWNS, 406, "appthrottled"}: {Verdict: push.Throttled, Scope: push.ScopeEndpoint, RetryAfter: 15 * time.Minute},
	{serviceWNS, 429, "appthrottled"}: {Verdict: push.Throttled, Scope: push.ScopeEndpoint, RetryAfter: 15 * time.Minute},
}

// reasonByStatus are what a status is called where the service gives no word of its own that we know.
var reasonByStatus = map[int]string{
	400: "BadRequest", 401: "Unauthorized", 403: "Forbidden", 404: "NotFound", 405: "MethodNotAllowed", 410: "Gone",
	413: "PayloadTooLarge", 429: "TooManyRequests", 500: "InternalServerError", 502: "BadGateway", 503: "ServiceUnavailable",
	504: "GatewayTimeout",
}

// outcomeByStatus judges by what RFC 8030 and RFC 8292 say of a status. A redirect is not followed and says that the
// subscription's URL is not what it was: the same subscription will never work.
func outcomeByStatus(status int) push.Outcome {
	switch {
	case status == 401 || status == 403:
		return unauthorized
	case status == 404 || status == 410:
		return unregistered
	case status == 429:
		return push.Outcome{Verdict: push.Throttled, Scope: push.ScopeDevice, RetryAfter: defaultQuotaWait}
	case status/100 == 3 || status/100 == 4:
		return refused
	}
	return unavailable
}

// judge turns an answer into its outcome.
func judge(a *wire.Response, s *push.Subscription) push.Outcome {
	if a.Status/100 == 2 { // RFC 8030, section 5: 201, or 202; others were seen
		return push.Outcome{Verdict: push.Accepted, HTTP: a.Status, ProviderID: providerID(a, s)}
	}
	service, word := identifyService(a)
	o, known := outcomes[responseKey{service, a.Status, word}]
	if !known {
		if o, word = outcomeByStatus(a.Status), reasonByStatus[a.Status]; word == "" {
			word = "UnknownReason"
		}
	}
	o.HTTP, o.Reason = a.Status, word
	if asked := a.RetryAfter(); asked > 0 && o.Retryable() {
		o.RetryAfter = asked
	}
	return o
}

// lenient forgives in an answer what changes nothing about its meaning.
var lenient = json.JoinOptions(jsontext.AllowInvalidUTF8(true), jsontext.AllowDuplicateNames(true))

// identifyService returns whose shape an answer has, and its word. It goes no further than a look-up in rows.
func identifyService(a *wire.Response) (service, word string) {
	for _, f := range a.Header {
		if strings.HasPrefix(f.Name, "x-wns-") {
			return serviceWNS, wnsReason(a)
		}
	}
	var in struct {
		Reason string  `json:"reason"`
		Errno  float64 `json:"errno"`
	}
	switch err := json.Unmarshal(a.Body, &in, lenient); {
	case err == nil && in.Reason != "":
		return serviceApple, in.Reason
	case err == nil && in.Errno != 0:
		return serviceMozilla, "errno " + strconv.Itoa(int(in.Errno))
	case err == nil:
		return serviceOther, ""
	}
	return serviceGoogle, googleReason(bytes.ToLower(a.Body))
}

func wnsReason(a *wire.Response) string {
	if a.Status == 406 || a.Status == 429 || strings.EqualFold(a.Get("x-wns-notificationstatus"), "appthrottled") {
		return "appthrottled"
	}
	return ""
}

// googleReason gives the sentences that Google answers a word.
func googleReason(body []byte) string {
	switch {
	case bytes.Contains(body, []byte("unauthorizedregistration")):
		return "UnauthorizedRegistration"
	case bytes.Contains(body, []byte("do not correspond")):
		return "vapid-mismatch"
	case bytes.Contains(body, []byte("jwt")), bytes.Contains(body, []byte("token")):
		return "jwt-invalid"
	}
	return ""
}

// providerID returns the service's name for an accepted message: Apple's, or the last part of its Location (RFC 8030,
// section 5). It is left out where the service uses a part of the subscription's own URL for it, which is a secret.
func providerID(a *wire.Response, s *push.Subscription) string {
	name := a.Get("apns-id")
	if name == "" {
		at := a.Get("location")
		name = at[strings.LastIndexByte(at, '/')+1:]
	}
	if len(name) > 256 || !allBytes(name, isURLByte) || strings.Contains(s.Endpoint, name) {
		return ""
	}
	return name
}
