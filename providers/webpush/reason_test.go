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
	return r.Statuses(map[string][]int{"2xx": {200, 204, 299}, "4xx": {402, 405, 418, 499}, "5xx": {501, 504, 599}})
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
		for _, body := range []string{"", "{}", "[]", "null", "<html>", strings.Repeat("x", 1<<12), `{"reason":7}`, `{"errno":999999}`, `{"reason":"` + endpoint + `"}`} {
			all = append(all, respond(status, body))
		}
	}
	return all
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
