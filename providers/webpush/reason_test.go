// SPDX-License-Identifier: Apache-2.0

package webpush_test

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/sluice-push/sluice/providers/providertest"
	"github.com/sluice-push/sluice/push"
	"github.com/sluice-push/sluice/wire"
)

// row is one row of the error table.
type row struct{ providertest.ErrorCase }

func loadRows(t testing.TB) (rows []row) {
	t.Helper()
	for _, line := range providertest.ErrorCases(t, "webpush") {
		rows = append(rows, row{line})
	}
	return rows
}

func (r row) statuses() []int {
	return r.Statuses(map[string][]int{
		"2xx": {200, 204, 299}, "4xx": {402, 405, 418, 499}, "5xx": {501, 504, 599},
		"any": {200, 204, 301, 302, 303, 307, 308, 400, 401, 403, 404, 407, 410, 413, 418, 451, 500, 502, 503, 511},
	})
}

// responses returns sample responses of the row.
func (r row) responses(status int) (all []fakeService) {
	switch r.Service {
	case "apple":
		for _, body := range []string{`{"reason":%q}`, ` { "new": [1], "reason" : %q } `} {
			all = append(all, respond(status, fmt.Sprintf(body, r.Code)))
		}
	case "mozilla":
		errno := strings.TrimPrefix(r.Code, "errno ")
		if errno == "-" {
			errno = "null"
		}
		all = append(all, respond(status, fmt.Sprintf(`{"code":%d,"errno":%s,"error":"x","message":"reason of %s"}`, status, errno, endpoint)))
	case "fcm-web":
		text := map[string]string{
			"UnauthorizedRegistration": "<HTML>\n<TITLE>UnauthorizedRegistration</TITLE>", "jwt-invalid": "invalid JWT provided",
			"vapid-mismatch": "the VAPID credentials in the authorization header do not correspond to the credentials used to create the subscriptions.\n",
		}[r.Code]
		all = append(all, respond(status, text))
	case "wns":
		all = append(all, respond(status, "", wire.Field{Name: "x-wns-status", Value: "dropped"},
			wire.Field{Name: "x-wns-notificationstatus", Value: strings.TrimPrefix(r.Code, "*")}))
	default:
		all = r.otherResponses(status)
	}
	return all
}

// otherResponses returns sample responses of the rows for services without a format of their own.
func (r row) otherResponses(status int) (all []fakeService) {
	switch {
	case r.Code == push.IntermediaryResponse:
		for _, body := range pages {
			all = append(all, respond(status, body))
		}
		html := wire.Field{Name: "content-type", Value: "Text/HTML; charset=utf-8"}
		all = append(all, respond(status, "", html), respond(status, "Access denied", html))
		if status/100 == 2 || status/100 == 3 || status == 407 || status == 451 || status == 511 {
			all = append(all, respond(status, ""))
		}
	case status == 200:
		all = append(all, respond(status, "", wire.Field{Name: "location", Value: "/m/1"}), respond(status, "", wire.Field{Name: "ttl", Value: "60"}),
			respond(status, `{"id":"x","time":1,"event":"message","topic":"upAbc"}`))
	case status/100 == 2:
		all = append(all, respond(status, "", wire.Field{Name: "location", Value: "/m/1"}))
	case status == 429:
		all = append(all, respond(status, ""), respond(status, `{"code":42901,"http":429,"error":"limit reached"}`), respond(status, "Too many requests"))
	default:
		all = append(all, respond(status, ""), respond(status, "", wire.Field{Name: "content-length", Value: "0"}))
	}
	return all
}

// pages are bodies of responses that are not from a push service.
var pages = []string{
	"<!DOCTYPE html><title>Blocked</title>", "\r\n <HTML>", "\ufeff<html>", "Access denied by policy", "access token required", "{}", "[]", "null",
	`{"error":"forbidden"}`, `{"message":"Forbidden"}`, `{"reason":7}`, `{"reason":"blocked by policy"}`, `{"reason":"` + endpoint + `"}`, `{"errno":"x"}`,
	strings.Repeat("x", 1<<12),
}

func TestErrorTable(t *testing.T) {
	checked := 0
	for _, r := range loadRows(t) {
		for _, status := range r.statuses() {
			for i, conn := range r.responses(status) {
				t.Run(fmt.Sprintf("%v %d %d", r, status, i), func(t *testing.T) { r.check(t, status, conn) })
				checked++
			}
		}
	}
	if checked < 100 {
		t.Fatalf("only %d responses", checked)
	}
}

func (r row) check(t *testing.T, status int, conn fakeService) {
	o := send(t, newProvider(t), conn, newNotification())
	equal(t, "verdict", o.Verdict, providertest.VerdictFor(r.Class))
	equal(t, "retryable", o.Retryable(), r.Retryable)
	equal(t, "endpoint fault", o.EndpointFault(), r.EndpointFault)
	equal(t, "ForgetToken", o.ForgetToken, r.ForgetToken)
	equal(t, "close", o.CloseConnection, r.Close)
	equal(t, "status", o.HTTP, status)
	if r.Code != "" && r.Code != "*" && r.Code != "errno -" {
		equal(t, "reason", o.Reason, r.Code)
	}
	wait := time.Duration(0) // for Unavailable the retry backoff applies: another endpoint may be healthy
	if o.Verdict == push.Throttled {
		wait = time.Duration(*r.MinBackoff) * time.Second
	}
	equal(t, "wait", o.RetryAfter, wait)
	scope := r.Scope
	if r.EndpointFault {
		scope = "endpoint" // for Mozilla's 502 the table has scope device and an endpoint fault; the breaker needs the latter
	}
	equal(t, "scope", o.Scope.String(), scope)
	equal(t, "contains the subscription", strings.Contains(fmt.Sprintf("%+v", o), "SECRET"), false)
}

// The texts of Google are not documented: https://github.com/web-push-libs/web-push/issues/940.
func TestGoogleTextsAreFromTheService(t *testing.T) {
	for text, c := range map[string]struct {
		status int
		want   push.Verdict
	}{
		"push subscription has unsubscribed or expired.\n":                                                          {410, push.Unregistered},
		"A valid push subscription endpoint should be specified in the URL as such: https://fcm.googleapis.com/wp/": {404, push.Unregistered},
		"authorization header must be specified.\n":                                                                 {401, push.Unauthorized},
		"invalid push subscription endpoint":                                                                        {400, push.Refused},
	} {
		equal(t, text, send(t, newProvider(t), respond(c.status, text), newNotification()).Verdict, c.want)
	}
}

func TestIntermediaryOutcomeNamesCause(t *testing.T) {
	o := send(t, newProvider(t), respond(410, "<html>", wire.Field{Name: "retry-after", Value: "7"}), newNotification())
	equal(t, "outcome", o, push.Intermediary(410, 7*time.Second))
}

func TestRetryAfterFormats(t *testing.T) {
	for _, status := range []int{429, 503} {
		seconds := respond(status, "", wire.Field{Name: "retry-after", Value: "30"})
		equal(t, "seconds", send(t, newProvider(t), seconds, newNotification()).RetryAfter, 30*time.Second)
		date := respond(status, "", wire.Field{Name: "date", Value: "Sun, 22 Nov 2026 08:00:00 GMT"},
			wire.Field{Name: "retry-after", Value: "Sun, 22 Nov 2026 08:00:40 GMT"})
		equal(t, "date", send(t, newProvider(t), date, newNotification()).RetryAfter, 40*time.Second)
	}
}

func TestProviderIDHoldsNoSecret(t *testing.T) {
	for location, want := range map[string]string{
		"https://updates.push.services.mozilla.com/m/qDIYHNcfAIPP": "qDIYHNcfAIPP", "": "", "/": "",
		endpoint: "", "https://x/" + strings.Repeat("x", 257): "", "https://x/a\nb": "",
	} {
		equal(t, location, send(t, newProvider(t), respond(201, "", wire.Field{Name: "location", Value: location}), newNotification()).ProviderID, want)
	}
	equal(t, "Apple's", send(t, newProvider(t), respond(201, "", wire.Field{Name: "apns-id", Value: "AB-1"}), newNotification()).ProviderID, "AB-1")
}

func TestNoResponse(t *testing.T) {
	for _, lost := range []*wire.Error{
		{Reason: wire.RefusedStream, Processed: wire.Never}, {Reason: wire.ResponseTimeout, EndpointAtFault: true},
	} {
		o := send(t, newProvider(t), func(*wire.Request) (*wire.Response, error) { return nil, lost }, newNotification())
		equal(t, "outcome", o, push.NoResponse(lost))
	}
}
