// SPDX-License-Identifier: Apache-2.0

package mockprovider

import (
	"encoding/json"
	"strconv"
	"strings"

	"github.com/google/uuid"
)

// webPushFault is what is wrong with a push; "" is nothing. Each service has its own words for it.
type webPushFault string

const (
	badPath        webPushFault = "path"
	badMethod      webPushFault = "method"
	noSubscription webPushFault = "subscription"
	gone           webPushFault = "gone"
	noTTL          webPushFault = "no TTL"
	badTTL         webPushFault = "TTL"
	badUrgency     webPushFault = "urgency"
	badTopicHeader webPushFault = "topic"
	tooLarge       webPushFault = "size"
	badEncoding    webPushFault = "encoding"
	noVAPID        webPushFault = "no VAPID"
	badVAPIDKey    webPushFault = "VAPID key"
	badVAPIDToken  webPushFault = "VAPID token"
	otherVAPIDKey  webPushFault = "other VAPID key"
)

// webPushAnswers are the three services' ways to say a fault.
var webPushAnswers = map[Flavour]func(webPushFault) answer{
	Google:  func(f webPushFault) answer { return googlePush(googleFaults[f]) },
	Mozilla: func(f webPushFault) answer { return autopush(autopushFaults[f]) },
	Apple:   func(f webPushFault) answer { return applePush(appleFaults[f]) },
}

// autopushFault is a status with Mozilla's errno and the name of the status.
type autopushFault struct {
	Code     int    `json:"code"`
	Errno    int    `json:"errno"`
	Error    string `json:"error"`
	Message  string `json:"message"`
	MoreInfo string `json:"more_info"`
}

// autopushFaults are from autopush's "Error Codes" (read 2026-11); the messages are this mock's own.
var autopushFaults = map[webPushFault]autopushFault{
	badPath:        {404, 102, "Not Found", "Endpoint not found", autopushDocs},
	badMethod:      {405, 0, "Method Not Allowed", "Only POST is allowed", autopushDocs},
	noSubscription: {404, 102, "Not Found", "Endpoint not found", autopushDocs},
	gone:           {410, 106, "Gone", "No such subscription", autopushDocs},
	noTTL:          {400, 111, "Bad Request", "Missing TTL header", autopushDocs},
	badTTL:         {400, 112, "Bad Request", "Invalid TTL header", autopushDocs},
	badUrgency:     {400, 110, "Bad Request", "Invalid Urgency header", autopushDocs},
	badTopicHeader: {400, 113, "Bad Request", "Invalid Topic header", autopushDocs},
	tooLarge:       {413, 104, "Payload Too Large", "Payload too large", autopushDocs},
	badEncoding:    {400, 110, "Bad Request", "Invalid aes128gcm encryption", autopushDocs},
	noVAPID:        {401, 109, "Unauthorized", "Missing or malformed authorization", autopushDocs},
	badVAPIDKey:    {401, 109, "Unauthorized", "Invalid VAPID public key", autopushDocs},
	badVAPIDToken:  {401, 109, "Unauthorized", "Invalid VAPID token", autopushDocs},
	otherVAPIDKey:  {401, 109, "Unauthorized", "VAPID public key mismatch", autopushDocs},
}

const autopushDocs = "http://autopush.readthedocs.io/en/latest/http.html#error-codes"

// autopush answers in Mozilla's shape.
func autopush(f autopushFault) answer {
	body, _ := json.Marshal(f)
	a := answer{status: f.Code, reason: "errno " + strconv.Itoa(f.Errno), body: body}
	a.header = append(a.header, field("content-type", "application/json"))
	return a
}

// appleFaults are from "Sending web push notifications in web apps and browsers" (read 2026-11). Apple documents no
// answer for a subscription that has ended; 410 is what clients report. One report has VapidPkHashMismatch as 403.
var appleFaults = map[webPushFault]refusal{
	badPath:        {404, "BadPath"},
	badMethod:      {405, "MethodNotAllowed"},
	noSubscription: {410, "Unregistered"},
	gone:           {410, "Unregistered"},
	noTTL:          {400, "BadTtl"},
	badTTL:         {400, "BadTtl"},
	badUrgency:     {400, "BadUrgency"},
	badTopicHeader: {400, "BadWebPushTopic"},
	tooLarge:       {413, "PayloadTooLarge"},
	badEncoding:    {400, "BadWebPushRequest"},
	noVAPID:        {403, "BadAuthorizationHeader"},
	badVAPIDKey:    {403, "BadVapidPublicKey"},
	badVAPIDToken:  {403, "BadJwtToken"},
	otherVAPIDKey:  {400, "VapidPkHashMismatch"},
}

// applePush answers in the shape of APNs.
func applePush(r refusal) answer {
	reason, _ := json.Marshal(struct {
		Reason string `json:"reason"`
	}{r.reason})
	a := answer{status: r.status, reason: r.reason, body: reason}
	a.header = append(a.header, passing("apns-id", strings.ToUpper(uuid.NewString())), field("content-type", "application/json"))
	return a
}

// googleFault is a status with a line of text; reason is for the ledger.
type googleFault struct {
	status       int
	reason, text string
}

// googleFaults are from captures of fcm.googleapis.com (read 2026-11), for Google documents none; where no capture is
// known the wording is this mock's own.
var googleFaults = map[webPushFault]googleFault{
	badPath:        {404, "NotFound", "A valid push subscription endpoint should be specified in the URL as such: https://fcm.googleapis.com/wp/dHIoDxE7Hdg:APA91b..."},
	badMethod:      {405, "MethodNotAllowed", "only POST is allowed."},
	noSubscription: {404, "NotFound", "push subscription has unsubscribed or expired."},
	gone:           {410, "Gone", "push subscription has unsubscribed or expired."},
	noTTL:          {400, "TTL", "the TTL header is required."},
	badTTL:         {400, "TTL", "the TTL header is invalid."},
	badUrgency:     {400, "Urgency", "the urgency header is invalid."},
	badTopicHeader: {400, "Topic", "the topic header is invalid."},
	tooLarge:       {413, "PayloadTooLarge", "the payload is too large."},
	badEncoding:    {400, "Encoding", "the content encoding is invalid."},
	noVAPID:        {400, "UnauthorizedRegistration", "UnauthorizedRegistration"},
	badVAPIDKey:    {403, "jwt-invalid", "invalid key in the authorization header."},
	badVAPIDToken:  {403, "jwt-invalid", "invalid JWT provided."},
	otherVAPIDKey:  {403, "vapid-mismatch", "the VAPID credentials in the authorization header do not correspond to the credentials used to create the subscriptions."},
}

// googlePush answers in plain text.
func googlePush(f googleFault) answer {
	a := answer{status: f.status, reason: f.reason, body: []byte(f.text + "\n")}
	a.header = append(a.header, field("content-type", "text/plain; charset=UTF-8"))
	return a
}

// scriptedPush is the answer to a fault's status, and to its reason where the service gives one.
func scriptedPush(flavour Flavour, f *Fault) answer {
	switch flavour {
	case Apple:
		return applePush(refusal{f.Status, or(f.Reason, applePushReasons[f.Status])})
	case Google:
		reason := or(f.Reason, "status "+strconv.Itoa(f.Status))
		return googlePush(googleFault{f.Status, reason, reason})
	}
	return scriptedAutopush(f)
}

var applePushReasons = map[int]string{
	400: "BadWebPushRequest", 403: "BadJwtToken", 404: "BadPath", 405: "MethodNotAllowed", 410: "Unregistered",
	413: "PayloadTooLarge", 429: "TooManyRequests", 500: "InternalServerError", 503: "ServiceUnavailable",
}

// autopushErrno is the errno that a status most often comes with.
var autopushErrno = map[int]autopushFault{
	400: {Errno: 110, Error: "Bad Request"}, 401: {Errno: 109, Error: "Unauthorized"}, 404: {Errno: 102, Error: "Not Found"},
	410: {Errno: 106, Error: "Gone"}, 413: {Errno: 104, Error: "Payload Too Large"}, 500: {Errno: 999, Error: "Internal Server Error"},
	502: {Errno: 902, Error: "Bad Gateway"}, 503: {Errno: 201, Error: "Service Unavailable"},
}

// scriptedAutopush takes a reason like "errno 103". A status without an errno is answered without a body.
func scriptedAutopush(f *Fault) answer {
	known, ok := autopushErrno[f.Status]
	number, named := strings.CutPrefix(f.Reason, "errno ")
	if errno, err := strconv.Atoi(number); named && err == nil {
		known.Errno, ok = errno, true
	}
	if !ok {
		return answer{reason: f.Reason}
	}
	known.Code, known.Message, known.MoreInfo = f.Status, "Scripted answer", autopushDocs
	reply := autopush(known)
	reply.reason = or(f.Reason, reply.reason)
	return reply
}
