// SPDX-License-Identifier: Apache-2.0

package fcm_test

import (
	"cmp"
	"fmt"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/sluice-push/sluice/providers/providertest"
	"github.com/sluice-push/sluice/push"
	"github.com/sluice-push/sluice/wire"
)

// row is one row of the error table.
type row struct{ providertest.ErrorCase }

func loadRows(t testing.TB, provider string) (rows []row) {
	t.Helper()
	for _, line := range providertest.ErrorCases(t, provider) {
		rows = append(rows, row{line})
	}
	return rows
}

// statuses returns the status codes of the row.
func (r row) statuses() []int {
	all := map[string][]int{"4xx": {402, 405, 409, 413, 418, 499}, "5xx": {501, 502, 504, 505, 599}, "any": {500, 503, 504}}
	if r.Code == push.IntermediaryResponse {
		all["any"] = []int{200, 201, 204, 301, 302, 307, 400, 401, 403, 404, 407, 410, 413, 418, 429, 451, 500, 502, 503, 504, 511}
	}
	return r.Statuses(all)
}

// errorResponse returns the body of an error in FCM's format.
func errorResponse(status int, word, message string, details ...string) string {
	return fmt.Sprintf(`{ "error": { "code": %d, "message": %q, "status": %q, "details": [ %s ] } }`+"\n",
		status, message, word, strings.Join(details, ", "))
}

func fcmError(code string) string {
	return fmt.Sprintf(`{"@type":"type.googleapis.com/google.firebase.fcm.v1.FcmError","errorCode":%q}`, code)
}

func errorInfo(reason string) string {
	return fmt.Sprintf(`{"@type":"type.googleapis.com/google.rpc.ErrorInfo","reason":%q,"domain":"googleapis.com"}`, reason)
}

func badRequest(field string) string {
	return fmt.Sprintf(`{"@type":"type.googleapis.com/google.rpc.BadRequest","fieldViolations":[{"field":%q,"description":"x"}]}`, field)
}

func quotaFailure(subject, text string) string {
	return fmt.Sprintf(`{"@type":"type.googleapis.com/google.rpc.QuotaFailure","violations":[{"subject":%q,"description":%q}]}`, subject, text)
}

const (
	help              = `{"@type":"type.googleapis.com/google.rpc.Help","links":[{"description":"x","url":"https://example.com"}]}`
	apnsError         = `{"@type":"type.googleapis.com/google.firebase.fcm.v1.ApnsError","statusCode":403,"reason":"InvalidProviderToken"}`
	irrelevantDetails = `{"@type":7,"errorCode":["UNREGISTERED"]}, null, "x", {"@type":"example.com/google.firebase.fcm.v2.FcmError","errorCode":"UNREGISTERED"}`

	generic401 = "Request had invalid authentication credentials. Expected OAuth 2 access token, login cookie or other valid authentication credential."
)

// sample is a response of a row.
type sample struct {
	body   string
	target push.Target
	scope  string // if the row allows more than one
}

var (
	device       = push.Target{Token: deviceToken}
	installation = push.Target{Installation: "cE3dZp4rQ0mUx7sYt1kLwA"}
	newsTopic    = push.Target{Topic: "news"}
)

// samples returns responses of the row, with details in both orders and with unknown details
// between them.
func (r row) samples(status int) []sample {
	one := func(body string) []sample { return []sample{{body: body, target: device}} }
	switch key := r.Code + " " + r.Class; key {
	case " accepted":
		return one(`{"name":"projects/demo-project/messages/0:1671819112768910%fbb99cf6fbb99cf6"}`)
	case "INVALID_ARGUMENT invalid_request":
		return append(bothOrders(device, status, "INVALID_ARGUMENT", "Invalid value at 'message.data[0].value' (TYPE_STRING), 12",
			badRequest("message.data[0].value"), fcmError("INVALID_ARGUMENT")),
			one(errorResponse(status, "INVALID_ARGUMENT", "Request contains an invalid argument."))[0])
	case "INVALID_ARGUMENT invalid_token":
		return slices.Concat(
			bothOrders(device, status, "INVALID_ARGUMENT", "The registration token is not a valid FCM registration token", fcmError("INVALID_ARGUMENT"), help),
			bothOrders(device, status, "INVALID_ARGUMENT", "Invalid registration", badRequest("message.token"), fcmError("INVALID_ARGUMENT")),
			bothOrders(installation, status, "INVALID_ARGUMENT", "Invalid installation", badRequest("message.fid"), fcmError("INVALID_ARGUMENT")))
	case "INVALID_ARGUMENT payload_too_large":
		return bothOrders(device, status, "INVALID_ARGUMENT", "Android message is too big", fcmError("INVALID_ARGUMENT"),
			`{"@type":"type.googleapis.com/google.rpc.BadRequest"}`)
	case "UNAUTHENTICATED credential":
		return slices.Concat(
			bothOrders(device, status, r.Code, generic401, errorInfo("ACCESS_TOKEN_EXPIRED"), help),
			bothOrders(device, status, r.Code, generic401, errorInfo("ACCESS_TOKEN_TYPE_UNSUPPORTED"), irrelevantDetails))
	case "THIRD_PARTY_AUTH_ERROR credential":
		return slices.Concat(
			bothOrders(device, status, "UNAUTHENTICATED", generic401, fcmError(r.Code), apnsError),
			bothOrders(device, status, "UNAUTHENTICATED", generic401, errorInfo("ACCESS_TOKEN_EXPIRED"), fcmError("APNS_AUTH_ERROR")))
	case "SERVICE_DISABLED credential":
		return bothOrders(device, status, "PERMISSION_DENIED", "Firebase Cloud Messaging API has not been used in project 1 before or it is disabled.", errorInfo(r.Code), help)
	case "PERMISSION_DENIED credential":
		return bothOrders(device, status, r.Code, "Permission denied", errorInfo("IAM_PERMISSION_DENIED"), help)
	case "UNREGISTERED unregistered_token":
		targets := []push.Target{device}
		if strings.HasSuffix(r.Match, "fid") {
			targets = []push.Target{installation, {Token: installation.Installation}}
		}
		var all []sample
		for _, target := range targets {
			all = slices.Concat(all, bothOrders(target, status, "NOT_FOUND", "Requested entity was not found.", fcmError(r.Code), apnsError),
				bothOrders(target, status, "NOT_FOUND", "NotRegistered", irrelevantDetails, fcmError(r.Code)))
		}
		return all
	case "NOT_FOUND invalid_request":
		return bothOrders(device, status, r.Code, "Requested entity was not found.", help, irrelevantDetails)
	case "QUOTA_EXCEEDED quota":
		return quotaSamples(status)
	case "RATE_LIMIT_EXCEEDED quota":
		return bothOrders(newsTopic, status, "RESOURCE_EXHAUSTED", "Quota exceeded for a topic or device", errorInfo(r.Code), help)
	case "UNSPECIFIED_ERROR provider_internal":
		return bothOrders(device, status, "INTERNAL", "", fcmError(r.Code), errorInfo("ACCESS_TOKEN_EXPIRED"))
	case "SENDER_ID_MISMATCH invalid_token", "INTERNAL provider_internal", "UNAVAILABLE provider_unavailable":
		return slices.Concat(bothOrders(device, status, "X", "SenderId mismatch", fcmError(r.Code), help), one(errorResponse(status, r.Code, "")))
	case push.IntermediaryResponse + " provider_unavailable":
		return intermediarySamples(status)
	}
	return slices.Concat(one(errorResponse(status, "SOMETHING_NEW", "text")),
		bothOrders(device, status, "SOMETHING_NEW", "text", fcmError("NEWER"), errorInfo("NEWEST")))
}

// intermediarySamples returns responses that are not from FCM.
func intermediarySamples(status int) (all []sample) {
	for _, body := range []string{
		"", "<!DOCTYPE html><title>Blocked</title>", "Access denied by policy", "{", "{}", "null", `[{"error":{}}]`, `{"error":"x"}`, `{"error":{}}`,
		`{"error":{"code":403,"message":"blocked"}}`, `{"error":{"status":"Access denied"}}`, `{"message":"Forbidden"}`, `{"name":"proxy"}`,
		strings.Repeat("[", 1<<16),
	} {
		all = append(all, sample{body: body, target: device}, sample{body: body, target: newsTopic})
	}
	if status/100 == 2 { // an error's body does not make a 2xx FCM's
		all = append(all, sample{body: errorResponse(404, "NOT_FOUND", "", fcmError("UNREGISTERED")), target: device})
	}
	return all
}

// bothOrders returns an error with its details in both orders.
func bothOrders(target push.Target, status int, word, message string, first, second string) []sample {
	return []sample{
		{body: errorResponse(status, word, message, first, second), target: target},
		{body: errorResponse(status, word, message, second, help, first), target: target},
	}
}

func quotaSamples(status int) []sample {
	newSample := func(target push.Target, scope, message, quota string) sample {
		return sample{errorResponse(status, "RESOURCE_EXHAUSTED", message, quota, fcmError("QUOTA_EXCEEDED")), target, scope}
	}
	return []sample{
		newSample(device, "device", "x", quotaFailure("device:abc", "Device message rate exceeded")),
		newSample(device, "device", "Device message rate exceeded.", help),
		newSample(installation, "device", "x", quotaFailure("x", "device message rate")),
		newSample(newsTopic, "topic", "Topic quota exceeded.", help),
		newSample(newsTopic, "topic", "x", quotaFailure("topic:news", "x")),
		newSample(device, "project", "Quota exceeded.", quotaFailure("project:demo", "messages per minute")),
		newSample(newsTopic, "project", "x", quotaFailure("projects/my-device-app", "x")),
	}
}

func TestErrorTable(t *testing.T) {
	for _, r := range loadRows(t, "fcm") {
		for _, status := range r.statuses() {
			for i, s := range r.samples(status) {
				t.Run(fmt.Sprintf("%v %d %d", r, status, i), func(t *testing.T) {
					synctest.Test(t, func(t *testing.T) { r.check(t, status, s) })
				})
			}
		}
	}
}

// check sends ten minutes after the access token was fetched, so that it can be renewed.
func (r row) check(t *testing.T, status int, s sample) {
	p := newProvider(t)
	send(t, p, accept, newNotification())
	time.Sleep(10 * time.Minute)
	o := send(t, p, respond(status, s.body), newNotification(withTarget(s.target)))

	want := push.Outcome{
		Verdict: providertest.VerdictFor(r.Class), HTTP: status, ForgetToken: r.ForgetToken, CloseConnection: r.Close,
		TokenMayReturn: r.Code == "UNREGISTERED" && strings.HasSuffix(r.Match, "fid"),
		Scope:          o.Scope, Reason: o.Reason, Renewed: o.Renewed, Detail: o.Detail,
	}
	switch r.Code {
	case "":
		want.ProviderID = "projects/demo-project/messages/0:1671819112768910%fbb99cf6fbb99cf6"
	case "*":
		want.Reason = "UnknownReason"
	case "THIRD_PARTY_AUTH_ERROR":
		want.Reason = r.Code
		if strings.Contains(s.body, "APNS_AUTH_ERROR") {
			want.Reason = "APNS_AUTH_ERROR"
		}
	default:
		want.Reason = r.Code
	}
	if want.Verdict == push.Throttled { // for Unavailable the retry backoff applies: another endpoint may be healthy
		want.RetryAfter = time.Duration(*r.MinBackoff) * time.Second
	}
	scope := r.Scope
	if s.scope != "" {
		scope = s.scope
	}
	equal(t, "outcome", o, want)
	equal(t, "scope", o.Scope.String(), scope)
	equal(t, "retryable", o.Retryable(), r.Retryable)
	equal(t, "endpoint fault", o.EndpointFault(), r.EndpointFault)
}

// TestDetailNamesWhatToFix covers errors whose cause is not the service account that the caller would
// suspect.
func TestDetailNamesWhatToFix(t *testing.T) {
	for _, c := range []struct{ reason, body, detail string }{
		{"SERVICE_DISABLED", errorResponse(403, "PERMISSION_DENIED", "x", errorInfo("SERVICE_DISABLED")), "enable fcm.googleapis.com"},
		{"BILLING_DISABLED", errorResponse(403, "PERMISSION_DENIED", "x", errorInfo("BILLING_DISABLED")), "billing"},
		{"CONSUMER_INVALID", errorResponse(403, "PERMISSION_DENIED", "x", errorInfo("CONSUMER_INVALID")), "project_id"},
		{"CONSUMER_SUSPENDED", errorResponse(403, "PERMISSION_DENIED", "x", errorInfo("CONSUMER_SUSPENDED")), "suspended"},
		{"ACCESS_TOKEN_SCOPE_INSUFFICIENT", errorResponse(403, "PERMISSION_DENIED", "x", errorInfo("ACCESS_TOKEN_SCOPE_INSUFFICIENT")), "scope"},
		{"PERMISSION_DENIED", errorResponse(403, "PERMISSION_DENIED", "x", errorInfo("IAM_PERMISSION_DENIED")), "cloudmessaging.messages.create"},
		{"THIRD_PARTY_AUTH_ERROR", errorResponse(401, "UNAUTHENTICATED", generic401, fcmError("THIRD_PARTY_AUTH_ERROR")), "APNs key"},
	} {
		status := 403
		if c.reason == "THIRD_PARTY_AUTH_ERROR" {
			status = 401
		}
		o := send(t, newProvider(t), respond(status, c.body), newNotification())
		equal(t, "reason", o.Reason, c.reason)
		equal(t, "verdict", o.Verdict, push.Unauthorized)
		equal(t, o.Detail, strings.Contains(o.Detail, c.detail), true)
	}
}

func TestUnspecifiedErrorIsJudgedByStatus(t *testing.T) {
	for status, want := range map[int]push.Verdict{
		400: push.Refused, 401: push.Refused, 404: push.Refused, 429: push.Throttled, 500: push.Unavailable, 503: push.Unavailable,
	} {
		o := send(t, newProvider(t), respond(status, errorResponse(status, "X", "", fcmError("UNSPECIFIED_ERROR"))), newNotification())
		equal(t, fmt.Sprint(status), o.Verdict, want)
		equal(t, "reason", o.Reason, "UNSPECIFIED_ERROR")
		equal(t, "endpoint fault", o.EndpointFault(), status >= 500)
	}
}

func TestFCMErrorKeepsAccessToken(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newProvider(t)
		mustAccept(t, p)
		time.Sleep(10 * time.Minute)
		for status, word := range map[int]string{401: "UNAUTHENTICATED", 403: "PERMISSION_DENIED", 404: "NOT_FOUND"} {
			o := send(t, p, respond(status, errorResponse(status, word, generic401, fcmError("SOMETHING_NEW"))), newNotification())
			equal(t, word, o, push.Outcome{Verdict: push.Refused, Reason: word, HTTP: status})
		}
		equal(t, "token", mustAccept(t, p), accessToken(1))
	})
}

func TestUnexpectedStatusIsEndpointFault(t *testing.T) {
	for _, status := range []int{0, 101, 302, 600} {
		o := send(t, newProvider(t), respond(status, errorResponse(404, "NOT_FOUND", "", fcmError("UNREGISTERED"))), newNotification())
		equal(t, fmt.Sprint(status), o.EndpointFault() && o.Retryable(), true)
	}
}

func TestForgetTokenRequiresDeviceTarget(t *testing.T) {
	body := errorResponse(400, "INVALID_ARGUMENT", "The registration token is not a valid FCM registration token", fcmError("INVALID_ARGUMENT"))
	o := send(t, newProvider(t), respond(400, body), newNotification(withTarget(newsTopic)))
	equal(t, "outcome", o, push.Outcome{Verdict: push.Refused, Reason: "INVALID_ARGUMENT", HTTP: 400})
}

func TestRetryAfterIsHonouredWhenRetryable(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		date := time.Now().Add(90 * time.Second).UTC().Format("Mon, 02 Jan 2006 15:04:05 GMT")
		for _, c := range []struct {
			status       int
			header, body string
			want         time.Duration
		}{
			{429, "7", errorResponse(429, "RESOURCE_EXHAUSTED", ""), 7 * time.Second},
			{429, date, errorResponse(429, "RESOURCE_EXHAUSTED", ""), 90 * time.Second},
			{429, "soon", errorResponse(429, "RESOURCE_EXHAUSTED", ""), time.Minute},
			{503, "15", errorResponse(503, "UNAVAILABLE", ""), 15 * time.Second},
			{503, date, errorResponse(503, "UNAVAILABLE", ""), 90 * time.Second},
			{503, "15", "<html>", 15 * time.Second},
			{403, "15", "<html>", 15 * time.Second},
			{500, "", errorResponse(500, "INTERNAL", ""), 0},
			{400, "7", errorResponse(400, "INVALID_ARGUMENT", ""), 0},
			{200, "7", acceptedBody, 0},
		} {
			o := send(t, newProvider(t), func(*wire.Request) (*wire.Response, error) {
				return &wire.Response{Status: c.status, Header: []wire.Field{{Name: "retry-after", Value: c.header}}, Body: []byte(c.body)}, nil
			}, newNotification())
			equal(t, fmt.Sprint(c.status, c.header), o.RetryAfter, c.want)
		}
	})
}

func TestAcceptedMessageHasProviderID(t *testing.T) {
	for body, want := range map[string]string{
		`{"name":"projects/p/messages/fake_message_id"}`:       "projects/p/messages/fake_message_id",
		`{ "new": {}, "name": "projects/p/messages/0:1%ab" }`:  "projects/p/messages/0:1%ab",
		`{"name":"projects/a b"}`:                              "",
		`{"name":"projects/\u007f"}`:                           "",
		`{"name":"projects/` + strings.Repeat("x", 300) + `"}`: "",
	} {
		o := send(t, newProvider(t), respond(200, body), newNotification())
		equal(t, body, o, push.Outcome{Verdict: push.Accepted, HTTP: 200, ProviderID: want})
	}
}

func TestTransportErrorTable(t *testing.T) {
	covered := map[string]string{
		"MALFORMED_ERROR_BODY":   "covered by the fallback rows of FCM",
		"MALFORMED_SUCCESS_BODY": "covered by TestAcceptedMessageHasProviderID",
	}
	for _, r := range loadRows(t, "transport") {
		t.Run(r.Code, func(t *testing.T) {
			if why := cmp.Or(r.SkipReason(), covered[r.Code]); why != "" {
				t.Skip(why)
			}
			lost, want := r.TransportError()
			lost.DebugData = []byte(`{"reason":"Shutdown"}`)
			o := send(t, newProvider(t), failWith(fmt.Errorf("lease: %w", lost)), newNotification())
			equal(t, "verdict", o.Verdict, want)
			equal(t, "reason", o.Reason, r.Code)
			equal(t, "retryable", o.Retryable(), r.Retryable)
			equal(t, "endpoint fault", o.EndpointFault(), r.EndpointFault)
			equal(t, "HTTP", o.HTTP, 0)
		})
	}
}

func TestOutcomeHoldsNoResponseText(t *testing.T) {
	leak := "LEAK " + deviceToken + " " + accessToken(1)
	for _, status := range []int{200, 400, 401, 403, 404, 429, 500, 503} {
		for _, body := range []string{
			leak, fmt.Sprintf(`{"name":%q}`, leak),
			errorResponse(status, leak, leak, fcmError(leak), errorInfo(leak), badRequest(leak), quotaFailure(leak, leak)),
		} {
			o := send(t, newProvider(t), respond(status, body), newNotification())
			if text := fmt.Sprintf("%+v", o); strings.Contains(text, "LEAK") || strings.Contains(text, deviceToken) {
				t.Errorf("%d: %s", status, text)
			}
		}
	}
}

func FuzzJudge(f *testing.F) {
	known := map[string]bool{
		"": true, "UnknownReason": true, "APNS_AUTH_ERROR": true,
		"FAILED_PRECONDITION": true, "OUT_OF_RANGE": true, "ABORTED": true, "ALREADY_EXISTS": true, "RESOURCE_EXHAUSTED": true,
		"CANCELLED": true, "UNKNOWN": true, "DATA_LOSS": true, "UNIMPLEMENTED": true, "DEADLINE_EXCEEDED": true,
	}
	for _, r := range loadRows(f, "fcm") {
		known[r.Code] = true
		for _, status := range r.statuses() {
			for _, s := range r.samples(status) {
				f.Add(status, []byte(s.body))
			}
		}
	}
	p := newProvider(f)
	n := newNotification()
	r := translate(f, p, n)
	f.Fuzz(func(t *testing.T, status int, body []byte) {
		o := providertest.Send(t.Context(), p, respond(status, string(body)), n, r)
		switch {
		case !known[o.Reason]:
			t.Errorf("reason %q is not in the table", o.Reason)
		case o.Reason == push.IntermediaryResponse:
			if o != push.Intermediary(status, 0) {
				t.Errorf("%+v", o)
			}
		case (o.Verdict == push.Accepted) != (status/100 == 2):
			t.Errorf("status %d is %v", status, o.Verdict)
		case o.ForgetToken && status != 400 && status != 404:
			t.Errorf("ForgetToken is set for status %d", status)
		case o.EndpointFault() != (status < 200 || status/100 == 3 || status >= 500):
			t.Errorf("status %d: endpoint fault %v", status, o.EndpointFault())
		}
	})
}
