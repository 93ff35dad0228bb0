// SPDX-License-Identifier: Apache-2.0

package fcm

import (
	"regexp"
	"strings"
	"time"

	"github.com/go-json-experiment/json"
	"github.com/go-json-experiment/json/jsontext"

	"github.com/sluice-push/sluice/push"
	"github.com/sluice-push/sluice/wire"
)

// unknownReason replaces every reason that is not in the tables, so that free text from Google goes
// no further.
const unknownReason = "UnknownReason"

// defaultQuotaWait is how long to wait after an exceeded quota without a Retry-After. Firebase,
// "Best practices when sending FCM messages at scale": 60 s.
const defaultQuotaWait = time.Minute

// Outcomes that several errors share.
var (
	refused      = push.Outcome{Verdict: push.Refused}
	unauthorized = push.Outcome{Verdict: push.Unauthorized, Scope: push.ScopeCredential}
	throttled    = push.Outcome{Verdict: push.Throttled, Scope: push.ScopeProject, RetryAfter: defaultQuotaWait}
	unavailable  = push.Outcome{Verdict: push.Unavailable, Scope: push.ScopeEndpoint}
)

// thirdPartyAdvice says how to fix the credential that FCM uses at another push service.
const thirdPartyAdvice = "the APNs key or the Web Push key pair in the Firebase project is missing or invalid " +
	"(Firebase console, Project settings, Cloud Messaging); the service account is valid"

// unauthorizedBecause returns unauthorized with a text for the operator.
func unauthorizedBecause(detail string) push.Outcome {
	o := unauthorized
	o.Detail = detail
	return o
}

// errorSource is the part of an error response that a code comes from. The same code has different
// meanings: NOT_FOUND from FCM means an unregistered token, from the front end it means a wrong
// URL.
type errorSource uint8

const (
	sourceAny       errorSource = iota
	sourceFCM                   // FcmError.errorCode: FCM judged the message
	sourceErrorInfo             // ErrorInfo.reason
	sourceStatus                // error.status
	sourceNotFCM                // one of the latter two without an FcmError: a server in front of FCM responded
)

// errorRow is one of FCM's errors and its outcome.
type errorRow struct {
	status    int // 0 matches any status
	code      string
	source    errorSource
	condition func(*errorBody, *push.Target) bool // nil matches always
	outcome   push.Outcome
	renew     bool // the access token must be renewed
}

// errorTable lists FCM's errors. The first row that matches applies. "ErrorCode" and "FCM error
// codes" of the Firebase reference, read 2026-11-22, unless noted.
var errorTable = []errorRow{
	// One code for three errors. Only the first is about the token, and the reference says that the
	// token can then be deleted.
	{status: 400, code: "INVALID_ARGUMENT", condition: isInvalidToken, outcome: push.Outcome{Verdict: push.Refused, ForgetToken: true}},
	{status: 400, code: "INVALID_ARGUMENT", outcome: refused}, // an invalid field, or too large, which is never a 413 (observed)

	// The push credential in the Firebase project is invalid; a new access token does not help. The
	// error message can be the same as for an expired access token.
	{status: 401, code: "THIRD_PARTY_AUTH_ERROR", source: sourceFCM, outcome: unauthorizedBecause(thirdPartyAdvice)},
	{status: 401, code: "APNS_AUTH_ERROR", source: sourceFCM, outcome: unauthorizedBecause(thirdPartyAdvice)}, // the older name
	{status: 401, code: "UNAUTHENTICATED", source: sourceNotFCM, outcome: unauthorized, renew: true},

	// ForgetToken is not set: a service account of another project causes this for every token.
	{status: 403, code: "SENDER_ID_MISMATCH", outcome: refused},
	// The project, not the account, is the cause ("ErrorReason" of google.api).
	{status: 403, code: "SERVICE_DISABLED", source: sourceErrorInfo, outcome: unauthorizedBecause(
		"the Firebase Cloud Messaging API is disabled in the project: enable fcm.googleapis.com in the Google Cloud console; the credential is valid")},
	{status: 403, code: "BILLING_DISABLED", source: sourceErrorInfo, outcome: unauthorizedBecause("the project has no active billing account")},
	{status: 403, code: "CONSUMER_SUSPENDED", source: sourceErrorInfo, outcome: unauthorizedBecause("Google has suspended the project")},
	{status: 403, code: "CONSUMER_INVALID", source: sourceErrorInfo, outcome: unauthorizedBecause("the project does not exist: check project_id")},
	{status: 403, code: "ACCESS_TOKEN_SCOPE_INSUFFICIENT", source: sourceErrorInfo, outcome: unauthorizedBecause(
		"the access token does not have the scope " + scope + ": the service account of a machine needs it, or cloud-platform")},
	{status: 403, code: "PERMISSION_DENIED", source: sourceNotFCM, outcome: unauthorizedBecause(
		"the service account must not send in this project: check project_id, and grant the permission cloudmessaging.messages.create " +
			"(role Firebase Cloud Messaging API Admin)")},

	// An app that registers again after it was unregistered or expired keeps its installation ID, and
	// uploads it again in onRegistered ("Best practices for FCM registration management").
	{status: 404, code: "UNREGISTERED", source: sourceFCM, condition: targetsInstallation,
		outcome: push.Outcome{Verdict: push.Unregistered, ForgetToken: true, TokenMayReturn: true}},
	{status: 404, code: "UNREGISTERED", source: sourceFCM, outcome: push.Outcome{Verdict: push.Unregistered, ForgetToken: true}},
	{status: 404, code: "NOT_FOUND", source: sourceNotFCM, outcome: refused}, // the project or the path, not the token

	{status: 429, code: "QUOTA_EXCEEDED", condition: isDeviceQuota, outcome: push.Outcome{Verdict: push.Throttled, Scope: push.ScopeDevice, RetryAfter: defaultQuotaWait}},
	{status: 429, code: "QUOTA_EXCEEDED", condition: isTopicQuota, outcome: push.Outcome{Verdict: push.Throttled, Scope: push.ScopeTopic, RetryAfter: defaultQuotaWait}},
	{status: 429, code: "QUOTA_EXCEEDED", outcome: throttled},
	{status: 429, code: "RATE_LIMIT_EXCEEDED", source: sourceErrorInfo, outcome: throttled}, // the project's quota, without an FcmError (firebase-admin-go #719)

	{status: 500, code: "INTERNAL", outcome: unavailable},
	{status: 503, code: "UNAVAILABLE", outcome: unavailable},

	// "No more information is available": only the status is known.
	{code: "UNSPECIFIED_ERROR", source: sourceFCM, condition: isNot4xx, outcome: unavailable},
	{status: 429, code: "UNSPECIFIED_ERROR", source: sourceFCM, outcome: throttled},
	{code: "UNSPECIFIED_ERROR", source: sourceFCM, outcome: refused},
}

// statusCodes are the google.rpc.Code names that can become a reason if no row matches.
var statusCodes = map[string]bool{
	"INVALID_ARGUMENT": true, "FAILED_PRECONDITION": true, "OUT_OF_RANGE": true, "UNAUTHENTICATED": true,
	"PERMISSION_DENIED": true, "NOT_FOUND": true, "ABORTED": true, "ALREADY_EXISTS": true, "RESOURCE_EXHAUSTED": true,
	"CANCELLED": true, "INTERNAL": true, "UNKNOWN": true, "DATA_LOSS": true, "UNIMPLEMENTED": true, "UNAVAILABLE": true,
	"DEADLINE_EXCEEDED": true,
}

// outcomeByStatus returns the outcome of an error that no row matches.
func outcomeByStatus(status int) push.Outcome {
	switch {
	case status == 429:
		return throttled // or overload, which needs the same reaction
	case status/100 == 4:
		return refused
	}
	return unavailable
}

// errorBody holds the parts of an error response that determine its outcome.
type errorBody struct {
	status     int
	message    string
	fcmError   string
	errorInfo  string
	statusName string // error.status
	fields     []string
	quotas     []string
}

// judge returns the outcome of a response. renew is true if the access token must be renewed.
func judge(resp *wire.Response, t *push.Target) (o push.Outcome, renew bool) {
	if resp.Status/100 == 2 {
		if name, ok := parseName(resp.Body); ok {
			return push.Outcome{Verdict: push.Accepted, HTTP: resp.Status, ProviderID: name}, false
		}
		return push.Intermediary(resp.Status, resp.RetryAfter()), false
	}
	f, ok := parseError(resp)
	if !ok {
		return push.Intermediary(resp.Status, resp.RetryAfter()), false
	}
	return f.outcome(resp, t)
}

// outcome returns the outcome of an error. renew is true if the access token must be renewed.
func (f *errorBody) outcome(resp *wire.Response, t *push.Target) (o push.Outcome, renew bool) {
	o, renew = f.judge(t)
	o.HTTP = resp.Status
	if retryAfter := resp.RetryAfter(); retryAfter > 0 && o.Retryable() {
		o.RetryAfter = retryAfter
	}
	return o, renew
}

// judge finds the matching row. Google defines the order of the codes: FcmError, then ErrorInfo,
// then the status.
func (f *errorBody) judge(t *push.Target) (o push.Outcome, renew bool) {
	for _, c := range f.codes() {
		for i := range errorTable {
			if r := &errorTable[i]; r.matches(f, c, t) {
				o, o.Reason = r.outcome, r.code
				return o, r.renew
			}
		}
	}
	o, o.Reason = outcomeByStatus(f.status), unknownReason
	for _, c := range f.codes() {
		if statusCodes[c.code] {
			o.Reason = c.code
			break
		}
	}
	return o, false
}

// errorCode is a code of an error and its source.
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

// The conditions that distinguish errors with the same code.

// isInvalidToken reports whether the error is about the token of a message to one device.
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

// targetsInstallation reports whether the target is a Firebase installation ID, which FCM also
// accepts as a token. A registration token has a colon after its installation ID.
func targetsInstallation(_ *errorBody, t *push.Target) bool {
	return t.Kind() == push.ToInstallation || t.Kind() == push.ToToken && !strings.Contains(t.Token, ":")
}

func isNot4xx(f *errorBody, _ *push.Target) bool { return f.status/100 != 4 }

func isDeviceQuota(f *errorBody, t *push.Target) bool {
	return targetsDevice(t) && f.mentions("device")
}

func isTopicQuota(f *errorBody, t *push.Target) bool { return !targetsDevice(t) && f.mentions("topic") }

func targetsDevice(t *push.Target) bool {
	kind := t.Kind()
	return kind == push.ToToken || kind == push.ToInstallation
}

// mentions reports whether a QuotaFailure or the message mentions that kind of quota. It is free
// text, but FCM reports the kind of quota nowhere else.
func (f *errorBody) mentions(kind string) bool {
	for _, text := range append(f.quotas, f.message) {
		if strings.Contains(strings.ToLower(text), kind) {
			return true
		}
	}
	return false
}

// lenient accepts errors in a response's JSON that do not change its meaning.
var lenient = json.JoinOptions(jsontext.AllowInvalidUTF8(true), jsontext.AllowDuplicateNames(true))

// parseError parses an error's body. It returns false if the body is not an error in the format of
// Google's APIs, which a server in front of FCM uses too.
func parseError(resp *wire.Response) (f *errorBody, ok bool) {
	f = &errorBody{status: resp.Status}
	var body struct {
		Error struct {
			Message string           `json:"message"`
			Status  string           `json:"status"`
			Details []jsontext.Value `json:"details"`
		} `json:"error"`
	}
	if json.Unmarshal(resp.Body, &body, lenient) != nil {
		return nil, false
	}
	f.message, f.statusName = body.Error.Message, body.Error.Status
	for _, detail := range body.Error.Details {
		f.addDetail(detail)
	}
	return f, f.fcmError != "" || isRPCCode(f.statusName)
}

// isRPCCode matches the names of google.rpc.Code, including future ones.
var isRPCCode = regexp.MustCompile(`^[A-Z][A-Z_]*$`).MatchString

// addDetail adds one detail. Details come in any order, and unknown kinds are ignored.
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

// parseName returns FCM's name of an accepted message, and false if there is none. The name is ""
// if it has characters that do not belong in an ID.
func parseName(body []byte) (name string, ok bool) {
	var in struct {
		Name string `json:"name"`
	}
	if json.Unmarshal(body, &in, lenient) != nil || !strings.HasPrefix(in.Name, "projects/") {
		return "", false
	}
	disallowed := func(r rune) bool { return r <= ' ' || r > '~' }
	if len(in.Name) > 256 || strings.ContainsFunc(in.Name, disallowed) {
		return "", true
	}
	return in.Name, true
}
