// SPDX-License-Identifier: Apache-2.0

package gateway_test

import (
	"encoding/json"
	"os"
	"regexp"
	"testing"

	"github.com/sluice-push/sluice/providers/apns"
	"github.com/sluice-push/sluice/push"
)

// TestLiveActivityExamplesInDocs translates every example in docs/live-activities.md.
func TestLiveActivityExamplesInDocs(t *testing.T) {
	text, err := os.ReadFile("../../docs/live-activities.md")
	if err != nil {
		t.Fatal(err)
	}
	provider, err := apns.New(apns.Config{Topic: "com.example.shop"})
	if err != nil {
		t.Fatal(err)
	}
	examples := regexp.MustCompile("(?s)```json\n(.*?)```").FindAllSubmatch(text, -1)
	for _, example := range examples {
		var n push.Notification
		if err := json.Unmarshal(example[1], &n); err != nil {
			t.Errorf("%v in %s", err, example[1])
			continue
		}
		r, err := provider.Translate(&n)
		if err != nil {
			t.Errorf("%v in %s", err, example[1])
			continue
		}
		kind := ""
		for _, f := range r.Header {
			if f.Name == "apns-push-type" {
				kind = f.Value
			}
		}
		if activity := n.Environment() == ""; activity != (kind == "liveactivity") {
			t.Errorf("push type %s in %s", kind, example[1])
		}
	}
	if len(examples) != 6 {
		t.Errorf("%d examples, want 6", len(examples))
	}
}
