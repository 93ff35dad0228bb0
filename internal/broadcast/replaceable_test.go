// SPDX-License-Identifier: Apache-2.0

package broadcast_test

import (
	"strings"
	"testing"

	"github.com/sluice-push/sluice/push"
)

// TestDisplayedMessageHasTag checks the messages to Android, because only a tag lets the recall replace one.
func TestDisplayedMessageHasTag(t *testing.T) {
	n := newTestNode(t, nodeConfig{})
	for message, want := range map[string]string{
		`{"title": "Hello"}`: `{"android":{"notification":{"tag":"KEY"}}}`,
		`{"fcm": {"message": {"notification": {"title": "Hello"}}}}`:                                  `{"android":{"notification":{"tag":"KEY"}},"notification":{"title":"Hello"}}`,
		`{"fcm": {"message": {"android": {"notification": {"title_loc_key": "hello"}}}}}`:             `{"android":{"notification":{"tag":"KEY","title_loc_key":"hello"}}}`,
		`{"title": "Hello", "fcm": {"message": {"android": {"notification": {"tag": "mine"}}}}}`:      `{"android":{"notification":{"tag":"mine"}}}`,
		`{"data": {"a": "1"}, "fcm": {"message": {"notification": null, "android": {"ttl": "60s"}}}}`: `{"notification":null,"android":{"ttl":"60s"}}`,
	} {
		id := n.create(`{"message": `+message+`, "audience": {"platform": "fcm"}}`, "")
		all, err := n.Preview(t.Context(), app, id)
		if err != nil {
			t.Fatal(err)
		}
		for _, p := range all.Message {
			if p.Platform != push.FCM {
				continue
			}
			if got := strings.ReplaceAll(string(p.Notification.FCM.Message), strings.ReplaceAll(id, "-", ""), "KEY"); got != want {
				t.Errorf("%s:\n got %s\nwant %s", message, got, want)
			}
		}
	}
}
