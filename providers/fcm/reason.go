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

// quotaWait is how long to leave a quota alone when no Retry-After is given.
// Firebase, "Best practices when sending FCM messages at scale": 60 s.
const quotaWait = time.Minute

// The judgements that several errors share.
var (
	refused   = push.Outcome{Verdict: push.Refused}
	forbidden = push.Outcome{Verdict: push.Unauthorized, Scope: push.ScopeCredential}
	throttled = push.Outcome{Verdict: push.Throttled, Scope: push.ScopeProject, RetryAfter: quotaWait}
	sick      = push.Outcome{Verdict: push.Unavailable, Scope: push.ScopeEndpoint}
)

// place is where in an error its word stood. One word in another place is
// another error: a NOT_FOUND of FCM's is a dead token, one of the front end's
// a wrong URL.
type place uint8

const (
	anywhere  place = iota
	inFCM           // FcmError.errorCode: FCM itself judged the message
	inInfo          // ErrorInfo.reason
	inStatus        // error.status, or what stands for it
	outsideIt       // one of the latter two and no FcmError: something before FCM judged
)

// row is one of FCM's errors and our judgement.
type row struct {
	status  int // 0 is any
	word    string
	in      place
	when    func(*failure, *push.Target) bool // nil is always
	outcome push.Outcome
	renew   bool // the access token is to blame
}

// rows are read from the top; the first that fits counts. "ErrorCode" and "FCM
// error codes" of the Firebase reference, read 2026-11-22, but for what is
// marked otherwise.
var rows = []row{
	// One code for three troubles. Only the first speaks of the token, and the
	// document calls it safe to delete then.
	{status: 400, word: "INVALID_ARGUMENT", when: blamesToken, outcome: push.Outcome{Verdict: push.Refused, ForgetToken: true}},
	{status: 400, word: "INVALID_ARGUMENT", outcome: refused}, // a bad field; or too big, which is never a 413 (seen)

	// The push credential inside the Firebase project: a new access token would
	// change nothing. The message can be the same as that of an expired one.
	{status: 401, word: "THIRD_PARTY_AUTH_ERROR", in: inFCM, outcome: forbidden},
	{status: 401, word: "APNS_AUTH_ERROR", in: inFCM, outcome: forbidden}, // its older name
	{status: 401, word: "UNAUTHENTICATED", in: outsideIt, outcome: forbidden, renew: true},

	// Not to be forgotten: a swapped service account brings this for every token.
	{status: 403, word: "SENDER_ID_MISMATCH", outcome: refused},
	{status: 403, word: "PERMISSION_DENIED", in: outsideIt, outcome: forbidden},

	// A live installation was seen to answer so while its token was well.
	{status: 404, word: "UNREGISTERED", in: inFCM, when: toInstallation, outcome: push.Outcome{Verdict: push.Unregistered}},
	{status: 404, word: "UNREGISTERED", in: inFCM, outcome: push.Outcome{Verdict: push.Unregistered, ForgetToken: true}},
	{status: 404, word: "NOT_FOUND", in: outsideIt, outcome: refused}, // the project or the path, never the token

	{status: 429, word: "QUOTA_EXCEEDED", when: ofDevice, outcome: push.Outcome{Verdict: push.Throttled, Scope: push.ScopeDevice, RetryAfter: quotaWait}},
	{status: 429, word: "QUOTA_EXCEEDED", when: ofTopic, outcome: push.Outcome{Verdict: push.Throttled, Scope: push.ScopeTopic, RetryAfter: quotaWait}},
	{status: 429, word: "QUOTA_EXCEEDED", outcome: throttled},
	{status: 429, word: "RATE_LIMIT_EXCEEDED", in: inInfo, outcome: throttled}, // the project's, without an FcmError (firebase-admin-go #719)

	{status: 500, word: "INTERNAL", outcome: sick},
	{status: 503, word: "UNAVAILABLE", outcome: sick},

	// "No more information is available": the status is all there is.
	{word: "UNSPECIFIED_ERROR", in: inFCM, when: no4xx, outcome: sick},
	{status: 429, word: "UNSPECIFIED_ERROR", in: inFCM, outcome: throttled},
	{word: "UNSPECIFIED_ERROR", in: inFCM, outcome: refused},
}

// statusWords are the words of google.rpc.Code that our own reasons may be,
// for errors that no row fits.
var statusWords = map[string]bool{
	"INVALID_ARGUMENT": true, "FAILED_PRECONDITION": true, "OUT_OF_RANGE": true, "UNAUTHENTICATED": true,
	"PERMISSION_DENIED": true, "NOT_FOUND": true, "ABORTED": true, "ALREADY_EXISTS": true, "RESOURCE_EXHAUSTED": true,
	"CANCELLED": true, "INTERNAL": true, "UNKNOWN": true, "DATA_LOSS": true, "UNIMPLEMENTED": true, "UNAVAILABLE": true,
	"DEADLINE_EXCEEDED": true,
}

// wordOf is what a status says by itself, as google.rpc.Code maps them, for
// answers that are not FCM's JSON: a front end's page, an empty body.
var wordOf = map[int]string{
	400: "INVALID_ARGUMENT", 401: "UNAUTHENTICATED", 403: "PERMISSION_DENIED", 404: "NOT_FOUND", 429: "RESOURCE_EXHAUSTED",
	500: "INTERNAL", 503: "UNAVAILABLE", 504: "DEADLINE_EXCEEDED",
}

// byStatus judges an error that no row fits.
func byStatus(status int) push.Outcome {
	switch {
	case status == 429:
		return throttled // or overload, which wants the same
	case status/100 == 4:
		return refused
	}
	return sick // 5xx; and what is no answer of an API, such as a redirect
}

// failure is what we read of an error's body.
type failure struct {
	status   int
	message  string
	fcmError string
	info     string
	word     string // error.status
	fields   []string
	quotas   []string
}

// judge turns an answer into its outcome. renew says that the access token is
// to blame.
func judge(a *wire.Response, t *push.Target) (o push.Outcome, renew bool) {
	if a.Status/100 == 2 {
		return push.Outcome{Verdict: push.Accepted, HTTP: a.Status, ProviderID: nameIn(a.Body)}, false
	}
	f := read(a)
	o, renew = f.judge(t)
	o.HTTP = a.Status
	if asked := a.RetryAfter(); asked > 0 && o.Retryable() {
		o.RetryAfter = asked
	}
	return o, renew
}

// judge finds the row. The order of the words is Google's rule: FcmError
// before ErrorInfo before the status word.
func (f *failure) judge(t *push.Target) (o push.Outcome, renew bool) {
	for _, said := range f.words() {
		for i := range rows {
			if r := &rows[i]; r.fits(f, said, t) {
				o, o.Reason = r.outcome, r.word
				return o, r.renew
			}
		}
	}
	o, o.Reason = byStatus(f.status), unknownReason
	for _, said := range f.words() {
		if statusWords[said.word] {
			o.Reason = said.word
			break
		}
	}
	return o, false
}

// said is a word of an error, and where it stood.
type said struct {
	word string
	in   place
}

func (f *failure) words() [3]said {
	return [...]said{{f.fcmError, inFCM}, {f.info, inInfo}, {f.word, inStatus}}
}

func (r *row) fits(f *failure, s said, t *push.Target) bool {
	if s.word != r.word || (r.status != 0 && r.status != f.status) || (r.when != nil && !r.when(f, t)) {
		return false
	}
	switch r.in {
	case anywhere:
		return true
	case outsideIt:
		return f.fcmError == ""
	}
	return r.in == s.in
}

// The conditions that tell errors with the same code apart.

// blamesToken holds only for a message to one device, and when the error speaks
// of that device's name by itself.
func blamesToken(f *failure, t *push.Target) bool {
	if !isDevice(t) {
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

func toInstallation(_ *failure, t *push.Target) bool { return t.Kind() == push.ToInstallation }

func no4xx(f *failure, _ *push.Target) bool { return f.status/100 != 4 }

func ofDevice(f *failure, t *push.Target) bool { return isDevice(t) && f.speaksOf("device") }

func ofTopic(f *failure, t *push.Target) bool { return !isDevice(t) && f.speaksOf("topic") }

func isDevice(t *push.Target) bool {
	kind := t.Kind()
	return kind == push.ToToken || kind == push.ToInstallation
}

// speaksOf reports whether a QuotaFailure or the message names that kind of
// quota. It is text for people, but the only place where FCM says which.
func (f *failure) speaksOf(kind string) bool {
	for _, text := range append(f.quotas, f.message) {
		if strings.Contains(strings.ToLower(text), kind) {
			return true
		}
	}
	return false
}

// lenient forgives in an answer what changes nothing about its meaning.
var lenient = json.JoinOptions(jsontext.AllowInvalidUTF8(true), jsontext.AllowDuplicateNames(true))

// read takes from an error's body what it can; a body that is not Google's
// JSON leaves nothing but the word of its status.
func read(a *wire.Response) *failure {
	f := &failure{status: a.Status}
	var body struct {
		Error struct {
			Message string           `json:"message"`
			Status  string           `json:"status"`
			Details []jsontext.Value `json:"details"`
		} `json:"error"`
	}
	if json.Unmarshal(a.Body, &body, lenient) == nil {
		f.message, f.word = body.Error.Message, body.Error.Status
		for _, detail := range body.Error.Details {
			f.add(detail)
		}
	}
	if f.word == "" && f.fcmError == "" {
		f.word = wordOf[a.Status]
	}
	return f
}

// add reads one detail. Their order is not fixed, and there are kinds that say
// nothing to us.
func (f *failure) add(detail jsontext.Value) {
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
		f.info = d.Reason
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

// nameIn returns FCM's name for an accepted message, or "" when there is none
// to read: it is accepted all the same, and a repeat would double it.
func nameIn(body []byte) string {
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
