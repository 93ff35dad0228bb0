// SPDX-License-Identifier: Apache-2.0

package webpush

import (
	"bytes"
	"regexp"
	"strconv"
	"strings"
	"time"

	"github.com/go-json-experiment/json"
	"github.com/go-json-experiment/json/jsontext"

	"github.com/sluice-push/sluice/push"
	"github.com/sluice-push/sluice/wire"
)

// defaultQuotaWait is how long to wait after 429 without a Retry-After. It is our choice, because
// RFC 8030 gives no time.
const defaultQuotaWait = time.Minute

// Outcomes that several responses share.
var (
	refused      = push.Outcome{Verdict: push.Refused}
	unregistered = push.Outcome{Verdict: push.Unregistered, ForgetToken: true}
	unauthorized = push.Outcome{Verdict: push.Unauthorized, Scope: push.ScopeCredential}
	unavailable  = push.Outcome{Verdict: push.Unavailable, Scope: push.ScopeEndpoint}
	// foreignKey: the subscription was created with another VAPID key and can never be used with
	// this one.
	foreignKey = push.Outcome{Verdict: push.Refused, ForgetToken: true}
)

// responseKey identifies a response that is documented by a service.
type responseKey struct {
	service string
	status  int
	reason  string
}

// The services with response formats of their own. The format identifies the service, not the host:
// others run Mozilla's server too.
const (
	serviceApple   = "apple"   // {"reason": …}
	serviceMozilla = "mozilla" // {"errno": …}
	serviceWNS     = "wns"     // X-WNS-… headers
	serviceGoogle  = "fcm-web" // plain text
	serviceOther   = "any"     // any service that follows the RFCs
)

// outcomes maps responses to outcomes if the status is not enough. Apple, "Sending web push
// notifications in web apps and browsers"; Mozilla, autopush-rs, "Error codes"; both read
// 2026-11-22. The responses of Google and Microsoft were observed.
var outcomes = map[responseKey]push.Outcome{
	{serviceApple, 400, "BadTtl"}:            refused,
	{serviceApple, 400, "BadUrgency"}:        refused,
	{serviceApple, 400, "BadWebPushRequest"}: refused,
	{serviceApple, 400, "BadWebPushTopic"}:   refused,
	{serviceApple, 404, "BadPath"}:           refused, // a malformed request; says nothing about the subscription
	{serviceApple, 405, "MethodNotAllowed"}:  refused,
	{serviceApple, 413, "PayloadTooLarge"}:   refused,

	{serviceApple, 400, "VapidPkHashMismatch"}: foreignKey,
	{serviceApple, 403, "VapidPkHashMismatch"}: foreignKey, // observed once

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
	{serviceMozilla, 503, "errno 202"}: {Verdict: push.Unavailable, Scope: push.ScopeDevice}, // the browser is connecting to another server

	{serviceGoogle, 400, "UnauthorizedRegistration"}: unauthorized,
	{serviceGoogle, 403, "vapid-mismatch"}:           foreignKey,
	{serviceGoogle, 403, "jwt-invalid"}:              unauthorized,

	// The sender exceeds the rate of this service.
	{serviceWNS, 406, "appthrottled"}: {Verdict: push.Throttled, Scope: push.ScopeCredential, RetryAfter: 15 * time.Minute},
	{serviceWNS, 429, "appthrottled"}: {Verdict: push.Throttled, Scope: push.ScopeCredential, RetryAfter: 15 * time.Minute},
}

// reasonByStatus are the reasons for a status without a known reason of the service.
var reasonByStatus = map[int]string{
	400: "BadRequest", 401: "Unauthorized", 403: "Forbidden", 404: "NotFound", 405: "MethodNotAllowed", 410: "Gone",
	413: "PayloadTooLarge", 429: "TooManyRequests", 500: "InternalServerError", 502: "BadGateway", 503: "ServiceUnavailable",
	504: "GatewayTimeout",
}

// outcomeByStatus returns the outcome of a status according to RFC 8030 and RFC 8292. RFC 8030 does
// not say whether a 429 limits the subscription or the sender, and no service does. The rate limiter
// concludes from many of them that it is the sender.
func outcomeByStatus(status int) push.Outcome {
	switch {
	case status == 401 || status == 403:
		return unauthorized
	case status == 404 || status == 410:
		return unregistered
	case status == 429:
		return push.Outcome{Verdict: push.Throttled, Scope: push.ScopeDevice, RetryAfter: defaultQuotaWait}
	case status/100 == 4:
		return refused
	}
	return unavailable
}

// judge returns the outcome of a response.
func judge(resp *wire.Response, s *push.Subscription) push.Outcome {
	service, reason := identifyService(resp)
	switch {
	case !isFromService(resp, service):
		return push.Intermediary(resp.Status, resp.RetryAfter())
	case resp.Status/100 == 2:
		return push.Outcome{Verdict: push.Accepted, HTTP: resp.Status, ProviderID: providerID(resp, s)}
	}
	o, known := outcomes[responseKey{service, resp.Status, reason}]
	if !known {
		if o, reason = outcomeByStatus(resp.Status), reasonByStatus[resp.Status]; reason == "" {
			reason = "UnknownReason"
		}
	}
	o.HTTP, o.Reason = resp.Status, reason
	if retryAfter := resp.RetryAfter(); retryAfter > 0 && o.Retryable() {
		o.RetryAfter = retryAfter
	}
	return o
}

// lenient accepts errors in a response's JSON that do not change its meaning.
var lenient = json.JoinOptions(jsontext.AllowInvalidUTF8(true), jsontext.AllowDuplicateNames(true))

// isFromService reports whether a response came from a push service. Services without a known format
// answer with the statuses of RFC 8030 and without a body; some describe a 429. Intermediaries
// answer with a page, or with statuses that no push service uses. RFC 8030, section 5, requires 201
// or 202, but Mozilla, WNS and ntfy also use 200 (autopush-rs #800).
func isFromService(resp *wire.Response, service string) bool {
	switch status := resp.Status; {
	case service != serviceOther:
		return true
	case isHTML(resp), status == 407, status == 451, status == 511:
		return false
	case status == 201, status == 202, status == 429:
		return true
	case status/100 == 2:
		return resp.Get("location") != "" || resp.Get("ttl") != "" || isFromNtfy(resp.Body)
	}
	return resp.Status/100 != 3 && len(resp.Body) == 0
}

func isHTML(resp *wire.Response) bool {
	return strings.Contains(strings.ToLower(resp.Get("content-type")), "html") ||
		bytes.HasPrefix(bytes.TrimLeft(resp.Body, "\ufeff \t\r\n"), []byte("<"))
}

// isFromNtfy reports whether body is the message that ntfy, a UnifiedPush server, has stored.
func isFromNtfy(body []byte) bool {
	var in struct {
		Event string `json:"event"`
	}
	return json.Unmarshal(body, &in, lenient) == nil && in.Event == "message"
}

// identifyService returns the service whose format the response has, and its reason. The reason is
// only used as a key of outcomes, so that free text goes no further.
func identifyService(resp *wire.Response) (service, reason string) {
	for _, f := range resp.Header {
		if strings.HasPrefix(f.Name, "x-wns-") {
			return serviceWNS, wnsReason(resp)
		}
	}
	var in struct {
		Reason string  `json:"reason"`
		Errno  float64 `json:"errno"`
	}
	err := json.Unmarshal(resp.Body, &in, lenient)
	switch isError := resp.Status >= 400; {
	case resp.Get("apns-id") != "", err == nil && isError && isAppleReason(in.Reason):
		return serviceApple, in.Reason
	case err == nil && isError && in.Errno != 0:
		return serviceMozilla, "errno " + strconv.Itoa(int(in.Errno))
	case err != nil && isError:
		return googleReason(resp)
	}
	return serviceOther, ""
}

// isAppleReason matches Apple's reasons, including future ones. A text for people does not match.
var isAppleReason = regexp.MustCompile(`^[A-Z][A-Za-z]*$`).MatchString

func wnsReason(resp *wire.Response) string {
	if resp.Status == 406 || resp.Status == 429 || strings.EqualFold(resp.Get("x-wns-notificationstatus"), "appthrottled") {
		return "appthrottled"
	}
	return ""
}

// googleReason returns a reason for the text of Google's response, and serviceOther if the text is
// not Google's. Only an old response is HTML.
func googleReason(resp *wire.Response) (service, reason string) {
	body := bytes.ToLower(resp.Body)
	switch {
	case bytes.Contains(body, []byte("unauthorizedregistration")):
		return serviceGoogle, "UnauthorizedRegistration"
	case isHTML(resp):
		return serviceOther, ""
	case bytes.Contains(body, []byte("do not correspond")):
		return serviceGoogle, "vapid-mismatch"
	case bytes.Contains(body, []byte("jwt")):
		return serviceGoogle, "jwt-invalid"
	}
	for _, word := range [...]string{"push subscription", "registration", "vapid", "authorization header", "crypto-key header", "encryption header"} {
		if bytes.Contains(body, []byte(word)) {
			return serviceGoogle, ""
		}
	}
	return serviceOther, ""
}

// providerID returns the service's ID of an accepted message: Apple's apns-id, or the last path
// element of Location (RFC 8030, section 5). It returns "" if the ID is a part of the
// subscription's URL, which is secret.
func providerID(resp *wire.Response, s *push.Subscription) string {
	name := resp.Get("apns-id")
	if name == "" {
		location := resp.Get("location")
		name = location[strings.LastIndexByte(location, '/')+1:]
	}
	if len(name) > 256 || !allBytes(name, isURLByte) || strings.Contains(s.Endpoint, name) {
		return ""
	}
	return name
}
