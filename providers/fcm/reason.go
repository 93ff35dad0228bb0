// SPDX-License-Identifier: Apache-2.0

package fcm

import (
	"strings"
	"time"

	"github.com/go-json-experiment/json"
	"github.com/go-json-experiment/json/jsontext"

	"github.com/sluice-push/sluice/push"
	"github.com/sluice-push/sluice/wire"
)

// unknownReason stands in for every reason that is not in the tables: Google's
// text goes no further than here.
const unknownReason = "UnknownReason"

// defaultQuotaWait is how long to leave a quota alone when no Retry-After is given.
// Firebase, "Best practices when sending FCM messages at scale": 60 s.
const defaultQuotaWait = time.Minute

// The judgements that several errors share.
var (
	refused      = push.Outcome{Verdict: push.Refused}
	unauthorized = push.Outcome{Verdict: push.Unauthorized, Scope: push.ScopeCredential}
	throttled    = push.Outcome{Verdict: push.Throttled, Scope: push.ScopeProject, RetryAfter: defaultQuotaWait}
	unavailable  = push.Outcome{Verdict: push.Unavailable, Scope: push.ScopeEndpoint}
)

// errorSource is where in an error its word stood. One word in another place is
// another error: a NOT_FOUND of FCM's is a dead token, one of the front end's
// a wrong URL.
type errorSource uint8

const (
	sourceAny       errorSource = iota
	sourceFCM                   // FcmError.errorCode: FCM itself judged the message
	sourceErrorInfo             // ErrorInfo.reason
	sourceStatus                // error.status, or what stands for it
	sourceNotFCM                // one of the latter two and no FcmError: something before FCM judged
)

// errorRow is one of FCM's errors and our judgement.
type errorRow struct {
	status    int // 0 is any
	code      string
	source    errorSource
	condition func(*errorBody, *push.Target) bool // nil is always
	outcome   push.Outcome
	renew     bool // the access token is to blame
}

// errorTable are read from the top; the first that fits counts. "ErrorCode" and "FCM
// error codes" of the Firebase reference, read 2026-11-22, but for what is
// marked otherwise.
var errorTable = []errorRow{
	// One code for three troubles. Only the first speaks of the token, and the
	// document calls it safe to delete then.
	{status: 400, code: "INVALID_ARGUMENT", condition: isInvalidToken, outcome: push.Outcome{Verdict: push.Refused, ForgetToken: true}},
	{status: 400, code: "INVALID_ARGUMENT", outcome: refused}, // a bad field; or too big, which is never a 413 (seen)

	// The push credential inside the Firebase project: a new access token would
	// change nothing. The message can be the same as that of an expired one.
	{status: 401, code: "THIRD_PARTY_AUTH_ERROR", source: sourceFCM, outcome: unauthorized},
	{status: 401, code: "APNS_AUTH_ERROR", source: sourceFCM, outcome: unauthorized}, // its older name
	{status: 401, code: "UNAUTHENTICATED", source: sourceNotFCM, outcome: unauthorized, renew: true},

	// Not to be forgotten: a swapped service account brings this for every token.
	{status: 403, code: "SENDER_ID_MISMATCH", outcome: refused},
	{status: 403, code: "PERMISSION_DENIED", source: sourceNotFCM, outcome: unauthorized},

	// A live installation was seen to answer so while its token was well.
	{status: 404, code: "UNREGISTERED", source: sourceFCM, condition: targetsInstallation, outcome: push.Outcome{Verdict: push.Unregistered}},
	{status: 404, code: "UNREGISTERED", source: sourceFCM, outcome: push.Outcome{Verdict: push.Unregistered, ForgetToken: true}},
	{status: 404, code: "NOT_FOUND", source: sourceNotFCM, outcome: refused}, // the project or the path, never the token

	{status: 429, code: "QUOTA_EXCEEDED", condition: isDeviceQuota, outcome: push.Outcome{Verdict: push.Throttled, Scope: push.ScopeDevice, RetryAfter: defaultQuotaWait}},
	{status: 429, code: "QUOTA_EXCEEDED", condition: isTopicQuota, outcome: push.Outcome{Verdict: push.Throttled, Scope: push.ScopeTopic, RetryAfter: defaultQuotaWait}},
	{status: 429, code: "QUOTA_EXCEEDED", outcome: throttled},
	{status: 429, code: "RATE_LIMIT_EXCEEDED", source: sourceErrorInfo, outcome: throttled}, // the project's, without an FcmError (firebase-admin-go #719)

	{status: 500, code: "INTERNAL", outcome: unavailable},
	{status: 503, code: "UNAVAILABLE", outcome: unavailable},

	// "No more information is available": the status is all there is.
	{code: "UNSPECIFIED_ERROR", source: sourceFCM, condition: isNot4xx, outcome: unavailable},
	{status: 429, code: "UNSPECIFIED_ERROR", source: sourceFCM, outcome: throttled},
	{code: "UNSPECIFIED_ERROR", source: sourceFCM, outcome: refused},
}

// statusCodes are the words of google.rpc.Code that our own reasons may be,
// for errors that no row fits.
var statusCodes = map[string]bool{
	"INVALID_ARGUMENT": true, "FAILED_PRECONDITION": true, "OUT_OF_RANGE": true, "UNAUTHENTICATED": true,
	"PERMISSION_DENIED": true, "NOT_FOUND": true, "ABORTED": true, "ALREADY_EXISTS": true, "RESOURCE_EXHAUSTED": true,
	"CANCELLED": true, "INTERNAL": true, "UNKNOWN": true, "DATA_LOSS": true, "UNIMPLEMENTED": true, "UNAVAILABLE": true,
	"DEADLINE_EXCEEDED": true,
}

// codeByStatus is what a status says by itself, as google.rpc.Code maps them, for
// answers that are not FCM's JSON: a front end's page, an empty body.
var codeByStatus = map[int]string{
	400: "INVALID_ARGUMENT", 401: "UNAUTHENTICATED", 403: "PERMISSION_DENIED", 404: "NOT_FOUND", 429: "RESOURCE_EXHAUSTED",
	500: "INTERNAL", 503: "UNAVAILABLE", 504: "DEADLINE_EXCEEDED",
}

// outcomeByStatus judges an error that no row fits.
func outcomeByStatus(status int) push.Outcome {
	switch {
	case status == 429:
		return throttled // or overload, which wants the same
	case status/100 == 4:
		return refused
	}
	return unavailable // 5xx; and what is no answer of an API, such as a redirect
}

// errorBody is what we read of an error's body.
type errorBody struct {
	status     int
	message    string
	fcmError   string
	errorInfo  string
	statusName string // error.status
	fields     []string
	quotas     []string
}

// judge turns an answer into its outcome. renew says that the access token is
// to blame.
func judge(a *wire.Response, t *push.Target) (o push.Outcome, renew bool) {
	if a.Status/100 == 2 {
		return push.Outcome{Verdict: push.Accepted, HTTP: a.Status, ProviderID: parseName(a.Body)}, false
	}
	f := parseError(a)
	o, renew = f.judge(t)
	o.HTTP = a.Status
	if asked := a.RetryAfter(); asked > 0 && o.Retryable() {
		o.RetryAfter = asked
	}
	return o, renew
}

// judge finds the row. The order of the words is Google's rule: FcmError
// before ErrorInfo before the status word.
func (f *errorBody) judge(t *push.Target) (o push.Outcome, renew bool) {
	for _, said := range f.codes() {
		for i := range errorTable {
			if r := &errorTable[i]; r.matches(f, said, t) {
				o, o.Reason = r.outcome, r.code
				return o, r.renew
			}
		}
	}
	o, o.Reason = outcomeByStatus(f.status), unknownReason
	for _, said := range f.codes() {
		if statusCodes[said.code] {
			o.Reason = said.code
			break
		}
	}
	return o, false
}

// errorCode is a word of an error, and where it stood.
type errorCode struct {
	code   string
	source errorSource
}

func (f *errorBody) codes() [3]errorCode {
	return [...]errorCode{{f.fcmError, sourceFCM}, {f.errorInfo, sourceErrorInfo}, {f.statusName, sourceStatus}}
}

func (r *errorRow) matches(f *errorBody, s errorCode, t *push.Target) bool {
	if s.code != r.code || (r.status != 0 && r.status != f.status) || (r.condition != nil && !r.condition(f, t)) {
		return false
	}
	switch r.source {
	case sourceAny:
		return true
	case sourceNotFCM:
		return f.fcmError == ""
	}
	return r.source == s.source
}

// The conditions that tell errors with the same code apart.

// isInvalidToken holds only for a message to one device, and when the error speaks
// of that device's name by itself.
func isInvalidToken(f *errorBody, t *push.Target) bool {
	if !targetsDevice(t) {
		return false
	}
	if f.message == "The registration token is not a valid FCM registration token" {
		return true
	}
	for _, field := range f.fields {
		if field == "message.token" || field == "message.fid" {
			return true
		}
	}
	return false
}

func targetsInstallation(_ *errorBody, t *push.Target) bool { return t.Kind() == push.ToInstallation }

func isNot4xx(f *errorBody, _ *push.Target) bool { return f.status/100 != 4 }

func isDeviceQuota(f *errorBody, t *push.Target) bool {
	return targetsDevice(t) && f.mentions("device")
}

func isTopicQuota(f *errorBody, t *push.Target) bool { return !targetsDevice(t) && f.mentions("topic") }

func targetsDevice(t *push.Target) bool {
	kind := t.Kind()
	return kind == push.ToToken || kind == push.ToInstallation
}

// mentions reports whether a QuotaFailure or the message names that kind of
// quota. It is text for people, but the only place where FCM says which.
func (f *errorBody) mentions(kind string) bool {
	for _, text := range append(f.quotas, f.message) {
		if strings.Contains(strings.ToLower(text), kind) {
			return true
		}
	}
	return false
}

// lenient forgives in an answer what changes nothing about its meaning.
var lenient = json.JoinOptions(jsontext.AllowInvalidUTF8(true), jsontext.AllowDuplicateNames(true))

// parseError takes from an error's body what it can; a body that is not Google's
// JSON leaves nothing but the word of its status.
func parseError(a *wire.Response) *errorBody {
	f := &errorBody{status: a.Status}
	var body struct {
		Error struct {
			Message string           `json:"message"`
			Status  string           `json:"status"`
			Details []jsontext.Value `json:"details"`
		} `json:"error"`
	}
	if json.Unmarshal(a.Body, &body, lenient) == nil {
		f.message, f.statusName = body.Error.Message, body.Error.Status
		for _, detail := range body.Error.Details {
			f.addDetail(detail)
		}
	}
	if f.statusName == "" && f.fcmError == "" {
		f.statusName = codeByStatus[a.Status]
	}
	return f
}

// addDetail reads one detail. Their order is not fixed, and there are kinds that say
// nothing to us.
func (f *errorBody) addDetail(detail jsontext.Value) {
	var d struct {
		Type       string `json:"@type"`
		ErrorCode  string `json:"errorCode"`
		Reason     string `json:"reason"`
		Violations []struct {
			Subject     string `json:"subject"`
			Description string `json:"description"`
		} `json:"violations"`
		FieldViolations []struct {
			Field string `json:"field"`
		} `json:"fieldViolations"`
	}
	if json.Unmarshal(detail, &d, lenient) != nil {
		return
	}
	_, kind, _ := strings.Cut(d.Type, "/")
	switch kind {
	case "google.firebase.fcm.v1.FcmError":
		f.fcmError = d.ErrorCode
	case "google.rpc.ErrorInfo":
		f.errorInfo = d.Reason
	case "google.rpc.QuotaFailure":
		for _, v := range d.Violations {
			f.quotas = append(f.quotas, v.Subject, v.Description)
		}
	case "google.rpc.BadRequest":
		for _, v := range d.FieldViolations {
			f.fields = append(f.fields, v.Field)
		}
	}
}

// parseName returns FCM's name for an accepted message, or "" when there is none
// to read: it is accepted all the same, and a repeat would double it.
func parseName(body []byte) string {
	var in struct {
		Name string `json:"name"`
	}
	strange := func(r rune) bool { return r <= ' ' || r > '~' }
	if json.Unmarshal(body, &in) != nil || len(in.Name) > 256 ||
		!strings.HasPrefix(in.Name, "projects/") || strings.ContainsFunc(in.Name, strange) {
		return ""
	}
	return in.Name
}
