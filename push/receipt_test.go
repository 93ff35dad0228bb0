// SPDX-License-Identifier: Apache-2.0

package push_test

import (
	"encoding/json"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/sluice-push/sluice/push"
)

func TestReceiptJSONHasAllFields(t *testing.T) {
	index := 3
	at := time.Date(2026, 11, 22, 7, 8, 9, 10_500_000, time.FixedZone("JST", 9*3600))
	outcome := push.Outcome{
		Verdict: push.Unregistered, Reason: "Unregistered", HTTP: 410, ProviderID: "p", RetryAfter: 12500 * time.Millisecond,
		ForgetToken: true, DeadSince: at.UTC(), Field: "token", Detail: "must be \"x\"\n\u2028é\xff",
	}
	got, err := json.Marshal(push.Receipt{ID: "1", Index: &index, TargetIndex: &index, Outcome: outcome, Warnings: []push.Warning{{Field: "fcm.message.a", Detail: "x\n"}, {Field: "b"}}, Attempts: []push.Attempt{
		{Endpoint: "[::1]:443", Environment: push.Sandbox, Started: at, Took: 41_234_567, Outcome: outcome}, {Endpoint: "b"},
	}})
	if err != nil {
		t.Fatal(err)
	}
	want := `{"id":"1","index":3,"target_index":3,"status":"unregistered","reason":"Unregistered","field":"token",` +
		`"detail":"must be \"x\"\n\u2028é\ufffd","provider_id":"p","retry_after":12.5,"forget_token":true,` +
		`"dead_since":"2026-11-21T22:08:09.0105Z","warnings":[{"field":"fcm.message.a","detail":"x\n"},{"field":"b","detail":""}],"attempts":[` +
		`{"endpoint":"[::1]:443","environment":"sandbox","status":"unregistered","reason":"Unregistered","http":410,"at":"2026-11-21T22:08:09.01Z","ms":41.235},` +
		`{"endpoint":"b","status":"unsent","ms":0}]}`
	if diff := cmp.Diff(want, string(got)); diff != "" {
		t.Fatal(diff)
	}
}

func TestEmptyReceiptIsAnObject(t *testing.T) {
	if got := string(push.Receipt{}.AppendJSON(nil)); got != `{"status":"unavailable","attempts":[]}` {
		t.Fatal(got)
	}
}
