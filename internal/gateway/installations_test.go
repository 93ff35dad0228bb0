// SPDX-License-Identifier: Apache-2.0

package gateway_test

import (
	"encoding/json"
	"fmt"
	"net/http"
	"strings"
	"testing"

	"github.com/sluice-push/sluice/internal/testwait"
	"github.com/sluice-push/sluice/mockprovider"
)

// A device whose app has moved to its installation ID: the mock answers UNREGISTERED for the token, and
// accepts the ID.
const (
	movedID    = "dGhpcy1pcy1hLUZJRC0wMQ"
	movedToken = movedID + ":deadAPA91b"
	goneToken  = "deadGhpcy1hLUZJRC0wMQ1:deadAPA91b"
)

// TestLearnInstallation sends to a device that has moved in each way of the API, and looks for its
// installation ID in the receipt, the history and the feed.
func TestLearnInstallation(t *testing.T) {
	s := newMockEnv(t)
	h := s.start(t, listenConfig+fmt.Sprintf("queue: {dir: %q}\n", t.TempDir())+"apps:\n"+s.appBlock("shop", replace(s.fcmBlock(), "fcm: {", "fcm: {learn_installation: true, ")))
	message := func(token string) string {
		return fmt.Sprintf(`{"platform":"fcm","token":%q,"title":"x"}`, token)
	}
	replaced := func(receipt map[string]any) string {
		target, _ := receipt["replaced"].(map[string]any)
		attempts, _ := receipt["attempts"].([]any)
		return fmt.Sprint(receipt["status"], " ", target["installation"], " ", len(attempts))
	}
	_, first := h.request("POST", "", message(movedToken))
	if got := replaced(first); got != "accepted "+movedID+" 2" {
		t.Errorf("first: %s", got)
	}
	if _, stored := h.request("GET", fmt.Sprint("/", first["id"]), ""); replaced(stored) != "accepted "+movedID+" 2" {
		t.Errorf("history: %v", stored)
	}
	if _, second := h.request("POST", "", message(movedToken)); replaced(second) != "accepted "+movedID+" 1" {
		t.Errorf("second: %v", second)
	}
	_, several := h.request("POST", "", fmt.Sprintf(`{"platform":"fcm","tokens":[%q,%q,"live:APA91b"],"title":"x"}`, movedToken, goneToken))
	var got []string
	for _, one := range several["receipts"].([]any) {
		got = append(got, replaced(one.(map[string]any)))
	}
	if fmt.Sprint(got) != "[accepted "+movedID+" 1 unregistered <nil> 2 accepted <nil> 1]" {
		t.Errorf("several: %v", got)
	}
	if _, again := h.request("POST", "", message(goneToken)); replaced(again) != "unregistered <nil> 0" || again["forget_token"] != true {
		t.Errorf("a device that is gone, again: %v", again)
	}
	code, queued := h.request("POST", "", message("dGhpcy1pcy1hLUZJRC0wMg:deadAPA91b"), "Prefer", "respond-async")
	if code != http.StatusAccepted {
		t.Fatalf("%d %v", code, queued)
	}
	var ended map[string]any
	testwait.Until(t, func() bool {
		_, ended = h.request("GET", fmt.Sprint("/", queued["id"]), "")
		return ended["status"] == "accepted"
	}, "the end of the queued notification")
	if replaced(ended) != "accepted dGhpcy1pcy1hLUZJRC0wMg 2" {
		t.Errorf("queued: %v", ended)
	}
	feed := ""
	h.readFeed(func(data string) bool {
		feed += data + "\n"
		return !strings.Contains(data, fmt.Sprint(queued["id"])) || !strings.Contains(data, `"receipt"`)
	})
	for _, token := range []string{movedToken, "dGhpcy1pcy1hLUZJRC0wMg:deadAPA91b"} {
		if !strings.Contains(feed, `"target":{"token":"`+token+`"}`) {
			t.Errorf("the feed does not have the token %s that was replaced:\n%s", token, feed)
		}
	}
	if _, metrics := h.get(h.adminURL + "/metrics"); !strings.Contains(metrics, `sluice_notifications_replaced_total{app="shop",platform="fcm"} 4`) || strings.Contains(metrics, movedID) {
		t.Error("the metrics do not have 4 replaced notifications, or they have an ID")
	}
	if count := s.mock.Ledger().Count(mockprovider.Query{Service: mockprovider.FCM, Token: movedID}); count != 3 {
		t.Errorf("the mock got %d messages to the ID, want 3", count)
	}
}

// TestInstallationsAreNotRemembered checks that a Firebase installation ID, in either field, is asked for
// each time: an app registers again with the same ID. Without learn_installation nothing else is tried.
func TestInstallationsAreNotRemembered(t *testing.T) {
	s := newMockEnv(t)
	h := s.start(t, listenConfig+"apps:\n"+s.appBlock("shop", s.fcmBlock()))
	for _, target := range []string{`"installation":"deadGhpcy1hLUZJRC0wMQ1"`, `"token":"deadGhpcy1hLUZJRC0wMQ2"`, `"token":"` + goneToken + `"`} {
		want := 2
		if strings.Contains(target, ":dead") {
			want = 1 // a token is remembered
		}
		for range 2 {
			if _, receipt := h.post("shop", `{"platform":"fcm",`+target+`,"title":"x"}`); receipt["status"] != "unregistered" || receipt["replaced"] != nil {
				t.Errorf("%s: %v", target, receipt)
			}
		}
		var value struct{ Token, Installation string }
		_ = json.Unmarshal([]byte("{"+target+"}"), &value)
		if count := s.mock.Ledger().Count(mockprovider.Query{Service: mockprovider.FCM, Token: value.Token + value.Installation}); count != want {
			t.Errorf("%s: %d requests, want %d", target, count, want)
		}
	}
}
