// SPDX-License-Identifier: Apache-2.0

package push_test

import (
	"encoding/json"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/sluice-push/sluice/push"
)

func TestReceiptRoundTrip(t *testing.T) {
	at, index := time.Date(2026, 11, 22, 1, 2, 3, 4e6, time.UTC), 7
	for verdict := push.Unsent; verdict <= push.Expired; verdict++ {
		attempt := push.Attempt{Endpoint: "192.0.2.1:443", Environment: push.Sandbox, Started: at, Took: 41200 * time.Microsecond,
			Outcome: push.Outcome{Verdict: verdict, Reason: "Reason", HTTP: 200}}
		r := push.Receipt{ID: "id", Index: &index, TargetIndex: &index, Warnings: []push.Warning{{Field: "fcm.message.x", Detail: "d"}, {}}, Attempts: []push.Attempt{attempt}, Outcome: push.Outcome{
			Verdict: verdict, Reason: `"Reason"`, ProviderID: "p", RetryAfter: 1500 * time.Millisecond, ForgetToken: true, DeadSince: at}}
		first, _ := json.Marshal(r)
		var read push.Receipt
		if err := json.Unmarshal(first, &read); err != nil {
			t.Fatal(err)
		}
		second, _ := json.Marshal(read)
		if diff := cmp.Diff(string(first), string(second)); diff != "" {
			t.Error(diff)
		}
	}
}

func TestQueueReceiptRoundTrip(t *testing.T) {
	for state, final := range map[push.Status]bool{
		push.StatusQueued: false, push.StatusScheduled: false, push.StatusSending: false, push.StatusCancelled: true,
	} {
		text, _ := json.Marshal(push.Receipt{ID: "id", State: state})
		var read push.Receipt
		if err := json.Unmarshal(text, &read); err != nil || read.Status() != state || read.IsFinal() != final {
			t.Errorf("%s: %+v, %v", text, read, err)
		}
	}
}

func TestReceiptRejectsUnknownStatus(t *testing.T) {
	if err := new(push.Receipt).UnmarshalJSON([]byte(`{"id":"id","status":"delivered","attempts":[]}`)); err == nil {
		t.Error("UnmarshalJSON() succeeds, want an error")
	}
}
