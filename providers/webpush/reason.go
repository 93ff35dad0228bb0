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

// quotaWait is how long to leave a subscription alone when no Retry-After is given: our own choice, for RFC 8030 names
// no time.
const quotaWait = time.Minute

// The judgements that several answers share.
var (
	refused   = push.Outcome{Verdict: push.Refused}
	dead      = push.Outcome{Verdict: push.Unregistered, ForgetToken: true}
	forbidden = push.Outcome{Verdict: push.Unauthorized, Scope: push.ScopeCredential}
	sick      = push.Outcome{Verdict: push.Unavailable, Scope: push.ScopeEndpoint}
	// alien: the subscription was made with another VAPID key and can never be reached with this one.
	alien = push.Outcome{Verdict: push.Refused, ForgetToken: true}
)

// answer is what a service's documents tell its answers apart by.
type answer struct {
	service string
	status  int
	word    string
}

// The services whose answers have a shape of their own. They are known by that shape and not by their host: Mozilla's
// server, for one, is run by others, too.
const (
	apple   = "apple"   // {"reason": …}
	mozilla = "mozilla" // {"errno": …}
	wns     = "wns"     // X-WNS-… headers
	google  = "fcm-web" // text
	any     = "any"     // whoever follows the RFCs
)

// rows are the answers that a status alone does not judge. Apple, "Sending web push notifications in web apps and
// browsers"; Mozilla, autopush-rs, "Error codes"; both read 2026-11-22. What Google and Microsoft answer was seen.
var rows = map[answer]push.Outcome{
	{apple, 400, "BadTtl"}:            refused,
	{apple, 400, "BadUrgency"}:        refused,
	{apple, 400, "BadWebPushRequest"}: refused,
	{apple, 400, "BadWebPushTopic"}:   refused,
	{apple, 404, "BadPath"}:           refused, // our own mistake, and no judgement on the subscription
	{apple, 405, "MethodNotAllowed"}:  refused,
	{apple, 413, "PayloadTooLarge"}:   refused,

	{apple, 400, "VapidPkHashMismatch"}: alien,
	{apple, 403, "VapidPkHashMismatch"}: alien, // (seen once)

	{apple, 400, "IdleTimeout"}: {Verdict: push.Unavailable, Scope: push.ScopeConnection, CloseConnection: true},

	{apple, 403, "BadAuthorizationHeader"}: forbidden,
	{apple, 403, "BadJwtToken"}:            forbidden,
	{apple, 403, "BadVapidPublicKey"}:      forbidden,

	{apple, 429, "TooManyRequests"}:     {Verdict: push.Throttled, Scope: push.ScopeDevice, RetryAfter: 30 * time.Second},
	{apple, 500, "InternalServerError"}: sick,
	{apple, 503, "ServiceUnavailable"}:  sick,
	{apple, 503, "Shutdown"}:            {Verdict: push.Unavailable, Scope: push.ScopeEndpoint, CloseConnection: true},

	{mozilla, 400, "errno 101"}: refused, // missing header
	{mozilla, 400, "errno 108"}: refused,
	{mozilla, 400, "errno 110"}: refused, // crypto headers
	{mozilla, 400, "errno 111"}: refused, // TTL
	{mozilla, 400, "errno 112"}: refused,
	{mozilla, 400, "errno 113"}: refused, // Topic
	{mozilla, 401, "errno 109"}: forbidden,
	{mozilla, 404, "errno 102"}: dead,
	{mozilla, 410, "errno 103"}: dead,
	{mozilla, 410, "errno 105"}: dead,
	{mozilla, 410, "errno 106"}: dead,
	{mozilla, 413, "errno 104"}: refused,
	{mozilla, 500, "errno 999"}: sick,
	{mozilla, 502, "errno 900"}: sick,
	{mozilla, 502, "errno 901"}: sick,
	{mozilla, 502, "errno 902"}: sick,
	{mozilla, 502, "errno 903"}: sick,
	{mozilla, 503, "errno 201"}: sick,
	{mozilla, 503, "errno 202"}: {Verdict: push.Unavailable, Scope: push.ScopeDevice}, // the browser is connecting elsewhere

	{google, 400, "UnauthorizedRegistration"}: forbidden,
	{google, 403, "vapid-mismatch"}:           alien,
	{google, 403, "jwt-invalid"}:              forbidden,

	// The sender is too fast for this one service.
	{wns, 406, "appthrottled"}: {Verdict: push.Throttled, Scope: push.ScopeEndpoint, RetryAfter: 15 * time.Minute},
	{wns, 429, "appthrottled"}: {Verdict: push.Throttled, Scope: push.ScopeEndpoint, RetryAfter: 15 * time.Minute},
}

// words are what a status is called where the service gives no word of its own that we know.
var words = map[int]string{
	400: "BadRequest", 401: "Unauthorized", 403: "Forbidden", 404: "NotFound", 405: "MethodNotAllowed", 410: "Gone",
	413: "PayloadTooLarge", 429: "TooManyRequests", 500: "InternalServerError", 502: "BadGateway", 503: "ServiceUnavailable",
	504: "GatewayTimeout",
}

// byStatus judges by what RFC 8030 and RFC 8292 say of a status. A redirect is not followed and says that the
// subscription's URL is not what it was: the same subscription will never work.
func byStatus(status int) push.Outcome {
	switch {
	case status == 401 || status == 403:
		return forbidden
	case status == 404 || status == 410:
		return dead
	case status == 429:
		return push.Outcome{Verdict: push.Throttled, Scope: push.ScopeDevice, RetryAfter: quotaWait}
	case status/100 == 3 || status/100 == 4:
		return refused
	}
	return sick
}

// judge turns an answer into its outcome.
func judge(a *wire.Response, s *push.Subscription) push.Outcome {
	if a.Status/100 == 2 { // RFC 8030, section 5: 201, or 202; others were seen
		return push.Outcome{Verdict: push.Accepted, HTTP: a.Status, ProviderID: nameOf(a, s)}
	}
	service, word := speaker(a)
	o, known := rows[answer{service, a.Status, word}]
	if !known {
		if o, word = byStatus(a.Status), words[a.Status]; word == "" {
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

// speaker returns whose shape an answer has, and its word. It goes no further than a look-up in rows.
func speaker(a *wire.Response) (service, word string) {
	for _, f := range a.Header {
		if strings.HasPrefix(f.Name, "x-wns-") {
			return wns, wnsWord(a)
		}
	}
	var in struct {
		Reason string  `json:"reason"`
		Errno  float64 `json:"errno"`
	}
	switch err := json.Unmarshal(a.Body, &in, lenient); {
	case err == nil && in.Reason != "":
		return apple, in.Reason
	case err == nil && in.Errno != 0:
		return mozilla, "errno " + strconv.Itoa(int(in.Errno))
	case err == nil:
		return any, ""
	}
	return google, googleWord(bytes.ToLower(a.Body))
}

func wnsWord(a *wire.Response) string {
	if a.Status == 406 || a.Status == 429 || strings.EqualFold(a.Get("x-wns-notificationstatus"), "appthrottled") {
		return "appthrottled"
	}
	return ""
}

// googleWord gives the sentences that Google answers a word.
func googleWord(body []byte) string {
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

// nameOf returns the service's name for an accepted message: Apple's, or the last part of its Location (RFC 8030,
// section 5). It is left out where the service uses a part of the subscription's own URL for it, which is a secret.
func nameOf(a *wire.Response, s *push.Subscription) string {
	name := a.Get("apns-id")
	if name == "" {
		at := a.Get("location")
		name = at[strings.LastIndexByte(at, '/')+1:]
	}
	if len(name) > 256 || !each(name, isPlain) || strings.Contains(s.Endpoint, name) {
		return ""
	}
	return name
}
