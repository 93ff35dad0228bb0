// SPDX-License-Identifier: Apache-2.0

package apns_test

import (
	"context"
	"errors"
	"fmt"
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
	return r.Statuses(map[string][]int{
		"4xx": {402, 404, 405, 418, 431, 499}, "5xx": {500, 501, 502, 503, 504, 599},
		"any": {200, 201, 204, 301, 302, 307, 400, 403, 404, 407, 410, 413, 418, 429, 451, 500, 502, 503, 511},
	})
}

// bodies returns sample bodies of the row.
func (r row) bodies() []string {
	switch r.Code {
	case "":
		return []string{"", "{}", "not JSON", `{"reason":"BadDeviceToken"}`}
	case push.IntermediaryResponse:
		return notAPNsBodies
	case "*":
		return []string{
			"", "{", "null", "[]", `"x"`, "{}", `{"reason":null}`, `{"reason":7}`, `{"reason":""}`, `{"reason":"SomethingNew"}`,
			"<html><body>Bad Gateway</body></html>", strings.Repeat("x", 1<<16), `{"reason":"` + deviceToken + `"}`,
		}
	}
	return []string{
		fmt.Sprintf(`{"reason":%q}`, r.Code),
		fmt.Sprintf(` { "timestamp" : 1454948015990, "new": [1, {}], "reason" : %q } `, r.Code),
		fmt.Sprintf("{\"text\":\"\xff\",\"reason\":%q}", r.Code),
		fmt.Sprintf(`{"reason":%q,"timestamp":"soon"}`, r.Code),
	}
}

// notAPNsBodies are bodies of responses that are not from APNs.
var notAPNsBodies = []string{
	"", "<!DOCTYPE html><title>Blocked</title>", "\ufeff<html>", "Blocked by policy", "{}", "null", "{", `{"error":"forbidden"}`, `{"message":"Forbidden"}`,
	`{"reason":""}`, `{"reason":7}`, `{"reason":"blocked by policy"}`, `{"reason":"` + deviceToken + `"}`, strings.Repeat("x", 1<<16),
}

// response returns a response of the row: only those of APNs have its ID.
func (r row) response(status int, body string) fakeAPNs {
	if r.Code == push.IntermediaryResponse {
		return respondWithoutID(status, body)
	}
	return respond(status, body)
}

func TestErrorTable(t *testing.T) {
	for _, r := range loadRows(t, "apns") {
		for _, status := range r.statuses() {
			for _, body := range r.bodies() {
				t.Run(fmt.Sprintf("%v %d %.40s", r, status, body), func(t *testing.T) {
					synctest.Test(t, func(t *testing.T) {
						r.check(t, status, body)
					})
				})
			}
		}
	}
}

// check sends half an hour after the provider token was minted, so that it can be renewed.
func (r row) check(t *testing.T, status int, body string) {
	p := newKeyProvider(t)
	send(t, p, respond(200, ""), newNotification())
	time.Sleep(30 * time.Minute)
	o := send(t, p, r.response(status, body), newNotification())

	want := push.Outcome{
		Verdict: providertest.VerdictFor(r.Class), HTTP: status, ForgetToken: r.ForgetToken, CloseConnection: r.Close,
		Scope: o.Scope, Reason: o.Reason, Renewed: o.Renewed, DeadSince: o.DeadSince, Detail: o.Detail,
		WrongEnvironment: r.Code == "BadDeviceToken", // the token may be of the other environment
	}
	switch {
	case r.Code == "":
		want.ProviderID = notificationID
	case r.Code == "*":
		want.Reason = "UnknownReason"
	default:
		want.Reason = r.Code
	}
	if want.Verdict == push.Throttled { // for Unavailable the retry backoff applies: another endpoint may be healthy
		want.RetryAfter = time.Duration(*r.MinBackoff) * time.Second
	}
	equal(t, "outcome", o, want)
	equal(t, "scope", o.Scope.String(), r.Scope)
	equal(t, "retryable", o.Retryable(), r.Retryable)
	equal(t, "endpoint fault", o.EndpointFault(), r.EndpointFault)
	equal(t, "contains the device token", strings.Contains(fmt.Sprintf("%+v", o), deviceToken), false)
}

func TestTransportErrorTable(t *testing.T) {
	for _, r := range loadRows(t, "transport") {
		t.Run(r.Code, func(t *testing.T) {
			if why := r.SkipReason(); why != "" {
				t.Skip(why)
			}
			switch r.Code {
			case "MALFORMED_SUCCESS_BODY":
				equal(t, "with an ID", send(t, newKeyProvider(t), respond(200, "\x00<html>"), newNotification()).Verdict, push.Accepted)
				equal(t, "faults", endpointFaults(t, 200, 204), []bool{true, true})
				return
			case "MALFORMED_ERROR_BODY":
				equal(t, "faults", endpointFaults(t, 400, 404, 418), []bool{true, true, true})
				equal(t, "faults", endpointFaults(t, 500, 502, 504), []bool{true, true, true})
				return
			}
			r.checkNoResponse(t)
		})
	}
}

// endpointFaults returns for which of these statuses, with an HTML body, the endpoint is at fault.
// It checks that only those are retryable.
func endpointFaults(t *testing.T, statuses ...int) (faults []bool) {
	for _, status := range statuses {
		o := send(t, newKeyProvider(t), respondWithoutID(status, "<html>"), newNotification())
		equal(t, "retryable", o.Retryable(), o.EndpointFault())
		faults = append(faults, o.EndpointFault())
	}
	return faults
}

// checkNoResponse checks an attempt without a response. The backoff is not checked: a failing
// connection closes itself, so the outcome only has to say whether the endpoint is at fault.
func (r row) checkNoResponse(t *testing.T) {
	lost, want := r.TransportError()
	o := send(t, newKeyProvider(t), failWith(fmt.Errorf("lease: %w", lost)), newNotification())
	equal(t, "verdict", o.Verdict, want)
	equal(t, "reason", o.Reason, r.Code)
	equal(t, "retryable", o.Retryable(), r.Retryable)
	equal(t, "endpoint fault", o.EndpointFault(), r.EndpointFault)
	equal(t, "HTTP", o.HTTP, 0)
}

func TestUnexpectedStatusIsEndpointFault(t *testing.T) {
	for _, status := range []int{0, 101, 204 + 100, 302, 600} {
		o := send(t, newKeyProvider(t), respond(status, `{"reason":"BadDeviceToken"}`), newNotification())
		equal(t, fmt.Sprint(status), o.EndpointFault() && o.Retryable(), true)
	}
}

func TestReasonMatchesOnlyItsOwnStatus(t *testing.T) {
	o := send(t, newKeyProvider(t), respond(500, `{"reason":"Unregistered"}`), newNotification())
	equal(t, "outcome", o, push.Outcome{Verdict: push.Unavailable, Scope: push.ScopeEndpoint, Reason: "UnknownReason", HTTP: 500})
}

func TestUnregisteredTokenHasTimestamp(t *testing.T) {
	for body, want := range map[string]time.Time{
		`{"reason":"Unregistered","timestamp":1454948015990}`:     time.UnixMilli(1454948015990).UTC(),
		`{"reason":"ExpiredToken","timestamp":1454948015990}`:     time.UnixMilli(1454948015990).UTC(),
		`{"reason":"Unregistered"}`:                               {},
		`{"reason":"Unregistered","timestamp":-1}`:                {},
		`{"reason":"Unregistered","timestamp":"1454948015990"}`:   {},
		`{"reason":"Unregistered","timestamp":1e400}`:             {},
		`{"reason":"SomethingNew","timestamp":1454948015990}`:     time.UnixMilli(1454948015990).UTC(),
		`{"reason":"BadDeviceToken","timestamp":1454948015990} x`: {},
	} {
		o := send(t, newKeyProvider(t), respond(410, body), newNotification())
		equal(t, body, o.DeadSince, want)
		equal(t, body, o.Verdict, push.Unregistered)
	}
}

func TestRetryAfterIsHonouredWhenRetryable(t *testing.T) {
	for _, c := range []struct {
		status int
		body   string
		want   time.Duration
	}{
		{429, `{"reason":"TooManyRequests"}`, 7 * time.Second},
		{503, `{"reason":"ServiceUnavailable"}`, 7 * time.Second},
		{502, `<html>`, 7 * time.Second},
		{400, `{"reason":"BadDeviceToken"}`, 0},
		{410, `{"reason":"Unregistered"}`, 0},
		{200, ``, 0},
	} {
		o := send(t, newKeyProvider(t), func(*wire.Request) (*wire.Response, error) {
			return &wire.Response{Status: c.status, Header: append([]wire.Field{{Name: "retry-after", Value: "7"}}, apnsID...), Body: []byte(c.body)}, nil
		}, newNotification())
		equal(t, c.body, o.RetryAfter, c.want)
	}
}

func TestAcceptedNotificationHasProviderID(t *testing.T) {
	for header, want := range map[string]string{
		notificationID:                         notificationID,
		strings.ToUpper(notificationID):        notificationID,
		"B2D6F0C1-5A0E-4B8E-9F0C-3D1C2B4A5E6F": "B2D6F0C1-5A0E-4B8E-9F0C-3D1C2B4A5E6F",
		"<script>":                             notificationID,
		"b2d6f0c1-5a0e-4b8e-9f0c-3d1c2b4a5e6":  notificationID,
		"b2d6f0c15a0e-4b8e-9f0c-3d1c2b4a-5e6f": notificationID,
		deviceToken[:36]:                       notificationID,
	} {
		o := send(t, newKeyProvider(t), func(*wire.Request) (*wire.Response, error) {
			return &wire.Response{Status: 200, Header: []wire.Field{{Name: "apns-id", Value: header}}}, nil
		}, newNotification())
		equal(t, header, o, push.Outcome{Verdict: push.Accepted, HTTP: 200, ProviderID: want})
	}
}

// An error can lack the ID if its reason is APNs'.
func TestReasonWithoutIDIsFromAPNs(t *testing.T) {
	for reason, want := range map[string]push.Verdict{"BadDeviceToken": push.Refused, "SomethingNew": push.Refused, "Something new": push.Unavailable} {
		o := send(t, newKeyProvider(t), respondWithoutID(400, `{"reason":"`+reason+`"}`), newNotification())
		equal(t, reason, o.Verdict, want)
	}
}

func TestIntermediaryOutcomeNamesCause(t *testing.T) {
	o := send(t, newKeyProvider(t), respondWithoutID(410, "<html>"), newNotification())
	equal(t, "outcome", o, push.Intermediary(410, 0))
	equal(t, "detail", strings.Contains(o.Detail, "proxy, firewall"), true)
}

func TestGoAwayReason(t *testing.T) {
	type result struct {
		verdict push.Verdict
		reason  string
		scope   push.Scope
	}
	for _, c := range []struct {
		debug     string
		processed wire.Processed
		want      result
	}{
		{`{"reason":"Shutdown"}`, wire.Unknown, result{push.Unknown, "Shutdown", push.ScopeEndpoint}},
		{`{"reason":"Shutdown"}`, wire.Never, result{push.Unsent, "Shutdown", push.ScopeEndpoint}},
		{`{"reason":"IdleTimeout"}`, wire.Unknown, result{push.Unknown, "IdleTimeout", push.ScopeConnection}},
		{`{"reason":"BadCertificate"}`, wire.Never, result{push.Unauthorized, "BadCertificate", push.ScopeCredential}},
		{`{"reason":"BadCertificate"}`, wire.Unknown, result{push.Unknown, "BadCertificate", push.ScopeCredential}},
		{`{"reason":"BadDeviceToken"}`, wire.Unknown, result{push.Unknown, "BadDeviceToken", push.ScopeConnection}},
		{`{"reason":"SomethingNew"}`, wire.Unknown, result{push.Unknown, "GOAWAY_ERROR_CODE", push.ScopeEndpoint}},
		{"Maximum active streams violated for this endpoint.", wire.Unknown, result{push.Unknown, "GOAWAY_ERROR_CODE", push.ScopeConnection}},
		{"", wire.Unknown, result{push.Unknown, "GOAWAY_ERROR_CODE", push.ScopeEndpoint}},
	} {
		lost := &wire.Error{Reason: wire.GoAwayErrorCode, Processed: c.processed, EndpointAtFault: true, DebugData: []byte(c.debug)}
		o := send(t, newKeyProvider(t), failWith(lost), newNotification())
		equal(t, fmt.Sprint(c.debug, c.processed), result{o.Verdict, o.Reason, o.Scope} == c.want, true)
		equal(t, "contains free text", strings.Contains(fmt.Sprintf("%+v", o), "violated"), false)
	}
}

func TestCancelledSendBlamesNobody(t *testing.T) {
	for _, err := range []error{context.Canceled, &wire.Error{Reason: wire.Canceled, Err: context.Canceled,
		DebugData: []byte(`{"reason":"Shutdown"}`)}} {
		o := send(t, newKeyProvider(t), failWith(err), newNotification())
		equal(t, "verdict", o.Verdict, push.Unknown)
		equal(t, "faults", o.EndpointFault() || o.EndpointOK(), false)
	}
	equal(t, "verdict", send(t, newKeyProvider(t), failWith(errors.New("unknown")), newNotification()).Verdict, push.Unknown)
}

func FuzzJudge(f *testing.F) {
	known := map[string]bool{"": true, "UnknownReason": true}
	for _, r := range loadRows(f, "apns") {
		known[r.Code] = true
		for _, status := range r.statuses() {
			for _, body := range r.bodies() {
				f.Add(status, []byte(body), r.Code != push.IntermediaryResponse)
			}
		}
	}
	p := newKeyProvider(f)
	n := newNotification()
	r := translate(f, p, n)
	f.Fuzz(func(t *testing.T, status int, body []byte, withID bool) {
		responder := respondWithoutID
		if withID {
			responder = respond
		}
		o := providertest.Send(t.Context(), p, responder(status, string(body)), n, r)
		switch {
		case !known[o.Reason]:
			t.Errorf("reason %q is not in the table", o.Reason)
		case (o.Verdict == push.Accepted) != (status/100 == 2 && withID):
			t.Errorf("status %d is %v", status, o.Verdict)
		case o.Reason == push.IntermediaryResponse:
			if withID || !o.Retryable() {
				t.Errorf("status %d, with ID %t: %+v", status, withID, o)
			}
		case o.ForgetToken && status != 410, !o.DeadSince.IsZero() && o.Verdict != push.Unregistered:
			t.Errorf("status %d reports an unregistered token", status)
		case o.Retryable() != (status < 200 || status/100 == 3 || status >= 500 || status == 429 ||
			o.Reason == "IdleTimeout" || o.Reason == "UnrelatedKeyIdInToken"):
			t.Errorf("status %d, reason %q: retryable %v", status, o.Reason, o.Retryable())
		}
	})
}
