// SPDX-License-Identifier: Apache-2.0

package webpush

import (
	"cmp"
	"encoding/json"
	"strconv"
	"strings"

	"github.com/google/uuid"
	"golang.org/x/net/http2/hpack"

	"github.com/sluice-push/sluice/mockprovider/h2"
	"github.com/sluice-push/sluice/mockprovider/script"
)

// cause is why a push is rejected; "" means that it is not. Each service responds differently to it.
type cause string

const (
	badPath        cause = "path"
	badMethod      cause = "method"
	noSubscription cause = "no subscription"
	gone           cause = "subscription ended"
	noTTL          cause = "no TTL"
	badTTL         cause = "TTL"
	ttlConflict    cause = "TTL and X-WNS-Cache-Policy"
	badUrgency     cause = "urgency"
	badTopic       cause = "topic"
	tooLarge       cause = "size"
	badEncoding    cause = "encoding"
	noVAPID        cause = "no VAPID"
	badVAPIDKey    cause = "VAPID key"
	badVAPIDToken  cause = "VAPID token"
	otherVAPIDKey  cause = "other VAPID key"
)

// reject responds as the service of that flavour does.
func reject(flavour Flavour, c cause) h2.Response {
	switch flavour {
	case Google:
		return googleResponse(googleErrors[c])
	case Apple:
		return appleResponse(appleErrors[c])
	case Windows:
		return windowsResponse(windowsErrors[c])
	}
	return mozillaResponse(mozillaErrors[c])
}

// mozillaError is the body of an error response of autopush, Mozilla's service.
type mozillaError struct {
	Code     int    `json:"code"`
	Errno    int    `json:"errno"`
	Error    string `json:"error"`
	Message  string `json:"message"`
	MoreInfo string `json:"more_info"`
}

// mozillaErrors is from autopush's "Error Codes" (read 2026-11). The messages are not autopush's.
var mozillaErrors = map[cause]mozillaError{
	badPath:        {404, 102, "Not Found", "Endpoint not found", autopushDocs},
	badMethod:      {405, 0, "Method Not Allowed", "Only POST is allowed", autopushDocs},
	noSubscription: {404, 102, "Not Found", "Endpoint not found", autopushDocs},
	gone:           {410, 106, "Gone", "No such subscription", autopushDocs},
	noTTL:          {400, 111, "Bad Request", "Missing TTL header", autopushDocs},
	badTTL:         {400, 112, "Bad Request", "Invalid TTL header", autopushDocs},
	badUrgency:     {400, 110, "Bad Request", "Invalid Urgency header", autopushDocs},
	badTopic:       {400, 113, "Bad Request", "Invalid Topic header", autopushDocs},
	tooLarge:       {413, 104, "Payload Too Large", "Payload too large", autopushDocs},
	badEncoding:    {400, 110, "Bad Request", "Invalid aes128gcm encryption", autopushDocs},
	noVAPID:        {401, 109, "Unauthorized", "Missing or malformed authorization", autopushDocs},
	badVAPIDKey:    {401, 109, "Unauthorized", "Invalid VAPID public key", autopushDocs},
	badVAPIDToken:  {401, 109, "Unauthorized", "Invalid VAPID token", autopushDocs},
	otherVAPIDKey:  {401, 109, "Unauthorized", "VAPID public key mismatch", autopushDocs},
}

const autopushDocs = "http://autopush.readthedocs.io/en/latest/http.html#error-codes"

func mozillaResponse(e mozillaError) h2.Response {
	body, _ := json.Marshal(e)
	resp := h2.Response{Status: e.Code, Reason: "errno " + strconv.Itoa(e.Errno), Body: body}
	resp.Header = append(resp.Header, h2.Field("content-type", "application/json"))
	return resp
}

// appleError is a status with Apple's reason.
type appleError struct {
	status int
	reason string
}

// appleErrors is from "Sending web push notifications in web apps and browsers" (read 2026-11). Apple
// does not document the response for a subscription that has ended; 410 is what clients report. One
// report has VapidPkHashMismatch with 403.
var appleErrors = map[cause]appleError{
	badPath:        {404, "BadPath"},
	badMethod:      {405, "MethodNotAllowed"},
	noSubscription: {410, "Unregistered"},
	gone:           {410, "Unregistered"},
	noTTL:          {400, "BadTtl"},
	badTTL:         {400, "BadTtl"},
	badUrgency:     {400, "BadUrgency"},
	badTopic:       {400, "BadWebPushTopic"},
	tooLarge:       {413, "PayloadTooLarge"},
	badEncoding:    {400, "BadWebPushRequest"},
	noVAPID:        {403, "BadAuthorizationHeader"},
	badVAPIDKey:    {403, "BadVapidPublicKey"},
	badVAPIDToken:  {403, "BadJwtToken"},
	otherVAPIDKey:  {400, "VapidPkHashMismatch"},
}

// appleResponse responds in the format of APNs.
func appleResponse(e appleError) h2.Response {
	body, _ := json.Marshal(struct {
		Reason string `json:"reason"`
	}{e.reason})
	resp := h2.Response{Status: e.status, Reason: e.reason, Body: body}
	resp.Header = append(resp.Header,
		h2.UniqueField("apns-id", strings.ToUpper(uuid.NewString())), h2.Field("content-type", "application/json"))
	return resp
}

// googleError is a status with a line of text. reason is for the ledger.
type googleError struct {
	status       int
	reason, text string
}

// googleErrors is from captures of fcm.googleapis.com (read 2026-11), because Google does not document
// its errors. Where there is no capture, the text is a guess.
var googleErrors = map[cause]googleError{
	badPath:        {404, "NotFound", "A valid push subscription endpoint should be specified in the URL as such: https://fcm.googleapis.com/wp/dHIoDxE7Hdg:APA91b..."},
	badMethod:      {405, "MethodNotAllowed", "only POST is allowed."},
	noSubscription: {404, "NotFound", "push subscription has unsubscribed or expired."},
	gone:           {410, "Gone", "push subscription has unsubscribed or expired."},
	noTTL:          {400, "TTL", "the TTL header is required."},
	badTTL:         {400, "TTL", "the TTL header is invalid."},
	badUrgency:     {400, "Urgency", "the urgency header is invalid."},
	badTopic:       {400, "Topic", "the topic header is invalid."},
	tooLarge:       {413, "PayloadTooLarge", "the payload is too large."},
	badEncoding:    {400, "Encoding", "the content encoding is invalid."},
	noVAPID:        {400, "UnauthorizedRegistration", "UnauthorizedRegistration"},
	badVAPIDKey:    {403, "jwt-invalid", "invalid key in the authorization header."},
	badVAPIDToken:  {403, "jwt-invalid", "invalid JWT provided."},
	otherVAPIDKey:  {403, "vapid-mismatch", "the VAPID credentials in the authorization header do not correspond to the credentials used to create the subscriptions."},
}

// googleResponse responds in plain text.
func googleResponse(e googleError) h2.Response {
	resp := h2.Response{Status: e.status, Reason: e.reason, Body: []byte(e.text + "\n")}
	resp.Header = append(resp.Header, h2.Field("content-type", "text/plain; charset=UTF-8"))
	return resp
}

// windowsError is a status with the description in X-WNS-Error-Description.
type windowsError struct {
	status      int
	description string
}

// windowsErrors has the statuses of "Push notification service request and response headers" (read
// 2026-11), and the one description that was captured (webpush-go #66). The others are guesses.
var windowsErrors = map[cause]windowsError{
	badPath:        {404, "The channel URI is not valid."},
	badMethod:      {405, "Only POST is allowed."},
	noSubscription: {404, "The channel URI is not recognized."},
	gone:           {410, "The channel has expired."},
	noTTL:          {400, "The TTL header is missing."},
	badTTL:         {400, "The TTL header is not valid."},
	ttlConflict:    {400, "Ttl value conflicts with X-WNS-Cache-Policy."},
	badUrgency:     {400, "The Urgency header is not valid."},
	badTopic:       {400, "The Topic header is not valid."},
	tooLarge:       {413, "The payload is too large."},
	badEncoding:    {400, "The content encoding is not valid."},
	noVAPID:        {401, "The authorization is missing."},
	badVAPIDKey:    {401, "The VAPID key is not valid."},
	badVAPIDToken:  {401, "The VAPID token is not valid."},
	otherVAPIDKey:  {403, "The VAPID key is not that of the channel."},
}

// windowsResponse responds without a body. The header says what happened.
func windowsResponse(e windowsError) h2.Response {
	status := "dropped"
	if e.status == 406 || e.status == 429 {
		status = "appthrottled"
	}
	return h2.Response{Status: e.status, Reason: e.description, Header: windowsHeader(status, e.description)}
}

// windowsHeader returns the header fields of WNS.
func windowsHeader(status, description string) []hpack.HeaderField {
	fields := []hpack.HeaderField{
		h2.Field("x-wns-status", status), h2.Field("x-wns-notificationstatus", status),
		h2.UniqueField("x-wns-msg-id", strings.ToUpper(uuid.NewString()[:18])), h2.UniqueField("x-wns-debug-trace", "mock"),
	}
	if description != "" {
		return append(fields, h2.Field("x-wns-error-description", description))
	}
	return append(fields, h2.Field("x-wns-deviceconnectionstatus", "connected"))
}

// faultResponse responds with the status and the reason of a fault. The default of the reason is the
// most common one for the status.
func faultResponse(flavour Flavour, f *script.Fault) h2.Response {
	switch flavour {
	case Apple:
		return appleResponse(appleError{f.Status, cmp.Or(f.Reason, commonAppleReasons[f.Status])})
	case Google:
		reason := cmp.Or(f.Reason, "status "+strconv.Itoa(f.Status))
		return googleResponse(googleError{f.Status, reason, reason})
	case Windows:
		return windowsResponse(windowsError{f.Status, cmp.Or(f.Reason, "status "+strconv.Itoa(f.Status))})
	}
	return mozillaFaultResponse(f)
}

var commonAppleReasons = map[int]string{
	400: "BadWebPushRequest", 403: "BadJwtToken", 404: "BadPath", 405: "MethodNotAllowed", 410: "Unregistered",
	413: "PayloadTooLarge", 429: "TooManyRequests", 500: "InternalServerError", 503: "ServiceUnavailable",
}

// commonMozillaErrors holds the most common errno for each status.
var commonMozillaErrors = map[int]mozillaError{
	400: {Errno: 110, Error: "Bad Request"}, 401: {Errno: 109, Error: "Unauthorized"}, 404: {Errno: 102, Error: "Not Found"},
	410: {Errno: 106, Error: "Gone"}, 413: {Errno: 104, Error: "Payload Too Large"}, 500: {Errno: 999, Error: "Internal Server Error"},
	502: {Errno: 902, Error: "Bad Gateway"}, 503: {Errno: 201, Error: "Service Unavailable"},
}

// mozillaFaultResponse is faultResponse for Mozilla. The reason has the form "errno 103". Without an
// errno, the response has no body.
func mozillaFaultResponse(f *script.Fault) h2.Response {
	e, ok := commonMozillaErrors[f.Status]
	number, found := strings.CutPrefix(f.Reason, "errno ")
	if errno, err := strconv.Atoi(number); found && err == nil {
		e.Errno, ok = errno, true
	}
	if !ok {
		return h2.Response{Reason: f.Reason}
	}
	e.Code, e.Message, e.MoreInfo = f.Status, "Scripted answer", autopushDocs
	resp := mozillaResponse(e)
	resp.Reason = cmp.Or(f.Reason, resp.Reason)
	return resp
}
