// SPDX-License-Identifier: Apache-2.0

package push_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/sluice-push/sluice/push"
)

func TestTargetKindRequiresExactlyOneField(t *testing.T) {
	tests := []struct {
		name   string
		target push.Target
		kind   push.TargetKind
		key    string
	}{
		{"empty", push.Target{}, push.NoTarget, ""},
		{"token", push.Target{Token: "ab12"}, push.ToToken, "ab12"},
		{"topic", push.Target{Topic: "news"}, push.ToTopic, "news"},
		{"condition", push.Target{Condition: "'a' in topics"}, push.ToCondition, "'a' in topics"},
		{"channel", push.Target{Channel: "Zm9v"}, push.ToChannel, "Zm9v"},
		{"installation", push.Target{Installation: "fid1"}, push.ToInstallation, "fid1"},
		{"subscription", push.Target{Subscription: &push.Subscription{Endpoint: "https://p"}}, push.ToSubscription, "https://p"},
		{"two", push.Target{Token: "ab12", Topic: "news"}, push.NoTarget, ""},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			if got := test.target.Kind(); got != test.kind {
				t.Errorf("Kind() = %v, want %v", got, test.kind)
			}
			if got := test.target.Key(); got != test.key {
				t.Errorf("Key() = %q, want %q", got, test.key)
			}
		})
	}
}

func TestDeviceTokenOfAPNsIsCaseInsensitive(t *testing.T) {
	for _, test := range []struct {
		platform push.Platform
		target   push.Target
		want     string
	}{
		{push.APNs, push.Target{Token: "00Ab"}, "00ab"},
		{push.FCM, push.Target{Token: "a:Ab"}, "a:Ab"},
		{push.APNs, push.Target{Channel: "Zm9v"}, "Zm9v"},
		{push.WebPush, push.Target{Subscription: &push.Subscription{Endpoint: "https://p/Ab"}}, "https://p/Ab"},
	} {
		n := push.Notification{Platform: test.platform, Target: test.target}
		if got := n.Key(); got != test.want {
			t.Errorf("Key() = %q, want %q", got, test.want)
		}
	}
}

func TestHeaderNamesAreCaseInsensitive(t *testing.T) {
	for _, name := range []string{"apns-collapse-id", "Apns-Collapse-Id", "APNS-COLLAPSE-ID"} {
		n := push.Notification{APNs: &push.APNsBlock{Headers: map[string]string{"apns-topic": "", name: "x"}}}
		if !n.Collapsible() || n.APNs.Header("apns-collapse-id") != "x" || n.APNs.Header("apns-topic") != "" {
			t.Errorf("%s is not found", name)
		}
	}
}

func TestEnumsRejectUnknownValuesAndListAllowedOnes(t *testing.T) {
	tests := []struct {
		field  string
		values []string
	}{
		{"platform", []string{"apns", "fcm", "webpush"}},
		{"priority", []string{"high", "normal", "low"}},
		{"lane", []string{"critical", "normal", "bulk"}},
		{"on_unknown", []string{"never", "if_collapsible", "always"}},
	}
	for _, test := range tests {
		for _, value := range test.values {
			var n push.Notification
			if err := json.Unmarshal(fmt.Appendf(nil, `{%q:%q}`, test.field, value), &n); err != nil {
				t.Errorf("%s %q: %v", test.field, value, err)
			}
		}
		var n push.Notification
		err := json.Unmarshal(fmt.Appendf(nil, `{%q:"c0ffee-token"}`, test.field), &n)
		if err == nil {
			t.Errorf("%s accepts an unknown value", test.field)
			continue
		}
		for _, value := range test.values {
			if !strings.Contains(err.Error(), value) {
				t.Errorf("%s: %q does not list the allowed value %q", test.field, err, value)
			}
		}
		if strings.Contains(err.Error(), "c0ffee") {
			t.Errorf("%s: %q contains the value, which may be a misplaced token", test.field, err)
		}
	}
}

func TestDurationUsesGoSyntax(t *testing.T) {
	var n push.Notification
	if err := json.Unmarshal([]byte(`{"ttl":"1h30m"}`), &n); err != nil {
		t.Fatal(err)
	}
	if got := time.Duration(*n.TTL); got != 90*time.Minute {
		t.Errorf("ttl = %v, want 90 minutes", got)
	}
	for _, bad := range []string{`"-1s"`, `"soon"`, `"90"`} {
		if err := json.Unmarshal([]byte(`{"ttl":`+bad+`}`), &n); err == nil {
			t.Errorf("ttl %s is accepted", bad)
		}
	}
}

func TestMayRetryUnknown(t *testing.T) {
	plain := push.Notification{Platform: push.APNs, Title: "2:1"}
	collapsible := push.Notification{Platform: push.APNs, Title: "2:1", CollapseKey: "score"}
	tests := []struct {
		name string
		n    push.Notification
		rule push.OnUnknown
		want bool
	}{
		{"default, plain", plain, "", false},
		{"default, collapsible", collapsible, "", true},
		{"if_collapsible, plain", plain, push.RepeatIfCollapsible, false},
		{"if_collapsible, collapsible", collapsible, push.RepeatIfCollapsible, true},
		{"never, collapsible", collapsible, push.RepeatNever, false},
		{"always, plain", plain, push.RepeatAlways, true},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			test.n.OnUnknown = test.rule
			if got := test.n.MayRetryUnknown(); got != test.want {
				t.Errorf("MayRetryUnknown() = %v, want %v", got, test.want)
			}
		})
	}
}

// A repeat after an unknown result is allowed by default only if the device replaces the first copy.
func TestMayRetryUnknownRequiresReplacementOnDevice(t *testing.T) {
	for body, want := range map[string]bool{
		`{"platform":"apns","token":"ab","title":"2:1","collapse_key":"score"}`:                                                                                 true,
		`{"platform":"apns","token":"ab","title":"2:1","apns":{"headers":{"apns-collapse-id":"score"}}}`:                                                        true,
		`{"platform":"apns","token":"ab","title":"2:1","collapse_key":"score","apns":{"headers":{"apns-push-type":"alert"}}}`:                                   true,
		`{"platform":"apns","token":"ab","collapse_key":"score","apns":{"payload":{"aps":{"alert":"2:1"}}}}`:                                                    true,
		`{"platform":"apns","token":"ab","title":"2:1"}`:                                                                                                        false,
		`{"platform":"apns","token":"ab","collapse_key":"score","data":{"a":"b"}}`:                                                                              false, // background
		`{"platform":"apns","token":"ab","collapse_key":"score","title":"x","apns":{"headers":{"apns-push-type":"voip"}}}`:                                      false,
		`{"platform":"apns","token":"ab","collapse_key":"score","title":"x","apns":{"payload":{"aps":{"content-available":1}}}}`:                                false,
		`{"platform":"apns","token":"ab","collapse_key":"score","apns":{"payload":{"aps":{"alert":null}}}}`:                                                     false,
		`{"platform":"apns","token":"ab","collapse_key":"score","apns":{"payload":{"aps":{"event":"start","content-state":{},"alert":"x"}}}}`:                   false,
		`{"platform":"apns","token":"ab","collapse_key":"score","apns":{"payload":{"aps":{"event":"end","alert":"x"}}}}`:                                        false,
		`{"platform":"apns","token":"ab","collapse_key":"score","apns":{"payload":{"aps":{"event":null,"alert":"x"}}}}`:                                         true,
		`{"platform":"apns","token":"ab","title":"x","apns":{"headers":{"Apns-Collapse-Id":"score"}}}`:                                                          true,
		`{"platform":"apns","channel":"YQ==","collapse_key":"score","apns":{"payload":{"aps":{"alert":"x"}}}}`:                                                  false,
		`{"platform":"apns","token":"ab","title":"2:1","fcm":{"message":{"android":{"notification":{"tag":"score"}}}}}`:                                         false, // the block of another platform
		`{"platform":"fcm","token":"a:b","title":"2:1","collapse_key":"score"}`:                                                                                 false,
		`{"platform":"fcm","token":"a:b","title":"2:1","fcm":{"message":{"android":{"collapse_key":"score"}}}}`:                                                 false,
		`{"platform":"fcm","token":"a:b","title":"2:1","apns":{"headers":{"apns-collapse-id":"score"}}}`:                                                        false, // the block of another platform
		`{"platform":"fcm","token":"a:b","title":"2:1","fcm":{"message":{"apns":{"headers":{"apns-collapse-id":"score"}}}}}`:                                    false, // the device may run Android
		`{"platform":"fcm","token":"a:b","title":"2:1","fcm":{"message":{"android":{"notification":{"tag":""}}}}}`:                                              false,
		`{"platform":"fcm","token":"a:b","title":"2:1","fcm":{"message":{"android":{"notification":{"tag":7}}}}}`:                                               false,
		`{"platform":"fcm","token":"a:b","title":"2:1","collapse_key":"score","fcm":{"message":{"android":{"notification":{"tag":"score"}}}}}`:                  true,
		`{"platform":"fcm","token":"a:b","title":"2:1","fcm":{"message":{"android":{"notification":{"tag":"score"}}}}}`:                                         true,
		`{"platform":"webpush","title":"2:1","collapse_key":"score"}`:                                                                                           true, // the payload has the tag
		`{"platform":"webpush","data":{"a":"b"},"collapse_key":"score"}`:                                                                                        false,
		`{"platform":"webpush","title":"2:1","webpush":{"headers":{"Topic":"score"}}}`:                                                                          false,
		`{"platform":"webpush","title":"2:1","webpush":{"notification":{"tag":"score"}}}`:                                                                       true,
		`{"platform":"webpush","webpush":{"notification":{"tag":"score"}}}`:                                                                                     false, // nothing to show
		`{"platform":"webpush","collapse_key":"score","webpush":{"payload":"opaque"}}`:                                                                          false,
		`{"platform":"webpush","collapse_key":"score","webpush":{"payload":"{\"title\":\"2:1\",\"tag\":\"score\"}"}}`:                                           true,
		`{"platform":"webpush","webpush":{"payload":"{\"web_push\":8030,\"notification\":{\"title\":\"2:1\",\"navigate\":\"https://x/\",\"tag\":\"score\"}}"}}`: true,
	} {
		var n push.Notification
		if err := json.Unmarshal([]byte(body), &n); err != nil {
			t.Fatal(err)
		}
		if got := n.MayRetryUnknown(); got != want {
			t.Errorf("%s: %v, want %v", body, got, want)
		}
	}
}

func TestExpiryCountsFromAcceptanceOrSendAt(t *testing.T) {
	accepted := time.Date(2026, 12, 31, 23, 59, 0, 0, time.UTC)
	minute := push.Duration(time.Minute)
	n := push.Notification{AcceptedAt: accepted, TTL: &minute}
	if got, ok := n.Expiry(); !ok || !got.Equal(accepted.Add(time.Minute)) {
		t.Errorf("Expiry() = %v, %v", got, ok)
	}
	n.SendAt = accepted.Add(-time.Hour)
	if got, _ := n.Expiry(); !got.Equal(accepted.Add(time.Minute)) {
		t.Errorf("Expiry() = %v for a SendAt in the past", got)
	}
	n.SendAt = accepted.Add(time.Hour)
	if got, _ := n.Expiry(); !got.Equal(accepted.Add(61 * time.Minute)) {
		t.Errorf("Expiry() = %v for a SendAt in the future", got)
	}
	n.TTL = nil
	if _, ok := n.Expiry(); ok {
		t.Error("a notification without a TTL expires")
	}
}

func TestOutcomeMethods(t *testing.T) {
	tests := []struct {
		name                 string
		outcome              push.Outcome
		retryable, fault, ok bool
		status               push.Status
	}{
		{"the zero value is safe to retry", push.Outcome{}, true, false, false, push.StatusUnavailable},
		{"accepted", push.Outcome{Verdict: push.Accepted, HTTP: 200}, false, false, true, push.StatusAccepted},
		{"an unregistered token shows a working endpoint", push.Outcome{Verdict: push.Unregistered, HTTP: 410}, false, false, true, push.StatusUnregistered},
		{"a refusal shows a working endpoint", push.Outcome{Verdict: push.Refused, HTTP: 400}, false, false, true, push.StatusRefused},
		{"a 429 is no endpoint fault", push.Outcome{Verdict: push.Throttled, HTTP: 429, Scope: push.ScopeEndpoint}, true, false, true, push.StatusThrottled},
		{"an invalid credential", push.Outcome{Verdict: push.Unauthorized, HTTP: 403, Scope: push.ScopeCredential}, false, false, true, push.StatusUnauthorized},
		{"a renewed credential", push.Outcome{Verdict: push.Unauthorized, HTTP: 403, Renewed: true}, true, false, true, push.StatusUnauthorized},
		{"a 500", push.Outcome{Verdict: push.Unavailable, HTTP: 500, Scope: push.ScopeEndpoint}, true, true, false, push.StatusUnavailable},
		{"no response", push.Outcome{Verdict: push.Unknown, Scope: push.ScopeEndpoint}, true, true, false, push.StatusUnknown},
		{"cancelled", push.Outcome{Verdict: push.Abandoned}, false, false, false, push.StatusUnavailable},
		{"expired", push.Outcome{Verdict: push.Expired}, false, false, false, push.StatusExpired},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			o := test.outcome
			if o.Retryable() != test.retryable || o.EndpointFault() != test.fault || o.EndpointOK() != test.ok {
				t.Errorf("Retryable, EndpointFault, EndpointOK = %v, %v, %v; want %v, %v, %v",
					o.Retryable(), o.EndpointFault(), o.EndpointOK(), test.retryable, test.fault, test.ok)
			}
			if o.Status() != test.status {
				t.Errorf("Status() = %s, want %s", o.Status(), test.status)
			}
		})
	}
}

// fakeTransportError is an error of a transport, such as *wire.Error.
type fakeTransportError struct {
	unprocessed, fault bool
	cause              error
}

func (fakeTransportError) Error() string         { return "no response" }
func (e fakeTransportError) Unwrap() error       { return e.cause }
func (e fakeTransportError) Unprocessed() bool   { return e.unprocessed }
func (e fakeTransportError) EndpointFault() bool { return e.fault }
func (fakeTransportError) Code() string          { return "RESPONSE_TIMEOUT" }

func TestNoResponseIsUnknownByDefault(t *testing.T) {
	tests := []struct {
		name string
		err  error
		want push.Outcome
	}{
		{"any error", errors.New("?"), push.Outcome{Verdict: push.Unknown, Reason: "NO_ANSWER"}},
		{"sent, endpoint fault", fakeTransportError{fault: true}, push.Outcome{Verdict: push.Unknown, Reason: "RESPONSE_TIMEOUT", Scope: push.ScopeEndpoint}},
		{"never sent", fakeTransportError{unprocessed: true}, push.Outcome{Verdict: push.Unsent, Reason: "RESPONSE_TIMEOUT"}},
		{"cancelled before it was sent", fakeTransportError{unprocessed: true, cause: context.Canceled}, push.Outcome{Verdict: push.Abandoned, Reason: "RESPONSE_TIMEOUT"}},
		{"cancelled after it was sent", fakeTransportError{fault: true, cause: context.Canceled}, push.Outcome{Verdict: push.Unknown, Reason: "RESPONSE_TIMEOUT"}},
		{"deadline exceeded", fakeTransportError{cause: context.DeadlineExceeded}, push.Outcome{Verdict: push.Unknown, Reason: "RESPONSE_TIMEOUT"}},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			if got := push.NoResponse(test.err); got != test.want {
				t.Errorf("NoResponse() = %+v, want %+v", got, test.want)
			}
		})
	}
}

func TestInvalidNotificationNamesField(t *testing.T) {
	o := push.InvalidNotification(&push.FieldError{Field: "token", Reason: "BadDeviceToken", Allowed: "hex digits"})
	if o.Verdict != push.Refused || o.Field != "token" || o.Reason != "BadDeviceToken" || o.Detail != "token: must be hex digits" {
		t.Errorf("InvalidNotification() = %+v", o)
	}
}

func ExampleReceipt() {
	receipt := push.Receipt{
		ID:      "7c1b4f3e-3c58-4c5d-9a53-3f8f0f7f2f11",
		Outcome: push.Outcome{Verdict: push.Accepted, HTTP: 200, ProviderID: "7c1b4f3e-3c58-4c5d-9a53-3f8f0f7f2f11"},
		Attempts: []push.Attempt{
			{Endpoint: "17.188.143.98:443", Took: 41200 * time.Microsecond,
				Outcome: push.Outcome{Verdict: push.Unavailable, Reason: "ServiceUnavailable", HTTP: 503}},
			{Endpoint: "17.188.168.5:443", Took: 38700 * time.Microsecond,
				Outcome: push.Outcome{Verdict: push.Accepted, HTTP: 200}},
		},
	}
	text, _ := json.MarshalIndent(receipt, "", "  ")
	fmt.Println(string(text))
	// Output:
	// {
	//   "id": "7c1b4f3e-3c58-4c5d-9a53-3f8f0f7f2f11",
	//   "status": "accepted",
	//   "provider_id": "7c1b4f3e-3c58-4c5d-9a53-3f8f0f7f2f11",
	//   "attempts": [
	//     {
	//       "endpoint": "17.188.143.98:443",
	//       "status": "unavailable",
	//       "reason": "ServiceUnavailable",
	//       "http": 503,
	//       "ms": 41.2
	//     },
	//     {
	//       "endpoint": "17.188.168.5:443",
	//       "status": "accepted",
	//       "http": 200,
	//       "ms": 38.7
	//     }
	//   ]
	// }
}

func TestWarn(t *testing.T) {
	n := push.Notification{}
	for range 100 {
		if err := n.Warn("fcm.message.x", "absent"); err != nil {
			t.Fatal(err)
		}
	}
	if len(n.Warnings) != 16 || n.Warnings[0].Field != "fcm.message.x" || !strings.Contains(n.Warnings[0].Detail, "absent") {
		t.Errorf("%d warnings, the first is %+v", len(n.Warnings), n.Warnings[0])
	}
	strict := push.Notification{Strict: true}
	err, ok := errors.AsType[*push.FieldError](strict.Warn("fcm.message.x", "absent"))
	if !ok || err.Field != "fcm.message.x" || err.Reason == "" || !strings.Contains(err.Allowed, "absent") || strict.Warnings != nil {
		t.Errorf("strict: %v, %v", err, strict.Warnings)
	}
}
