// SPDX-License-Identifier: Apache-2.0

package gateway_test

import (
	"bufio"
	"fmt"
	"io"
	"net/http"
	"strings"
	"testing"

	"github.com/sluice-push/sluice/mockprovider"
)

// asDryRun returns the notification as a dry run.
func asDryRun(body string) string { return strings.Replace(body, "{", `{"dry_run":true,`, 1) }

// TestDryRun makes dry runs of all kinds: each has the result that the notification would have, and none
// is delivered, recorded or counted.
func TestDryRun(t *testing.T) {
	s := deepEnv{newMockEnv(t, mockprovider.Config{Endpoints: 1}), t}
	h := s.start(t, listenConfig+slowTimeouts+fmt.Sprintf("queue: {dir: %q}\n", t.TempDir())+"apps:\n"+
		s.appBlock("shop", replace(s.byHostName(), "apns: {", "apns: {learn_environment: true, "), s.fcmBlock(), s.webPushBlock()))
	subscription, err := s.mock.Subscribe(mockprovider.Mozilla, "")
	if err != nil {
		t.Fatal(err)
	}
	const local, validated = "[fields payload credential]", "[fields payload credential provider]"
	for _, c := range []struct {
		name, body string
		status     string // and the reason, if there is one; of a problem, its status and field
		checked    string
	}{
		{"apns", apnsNotification(deviceToken), "accepted", local},
		{"apns, sandbox", apnsNotificationWith(deviceToken, `,"apns":{"environment":"sandbox"}`), "accepted", local},
		{"apns, scheduled", apnsNotificationWith(deviceToken, `,"send_at":"+1h"`), "accepted", local},
		{"apns, token", apnsNotification("xyz"), "400 token", "<nil>"},
		{"apns, payload", apnsNotificationWith(deviceToken, fmt.Sprintf(`,"body":%q`, strings.Repeat("x", 5000))), "413 body", "<nil>"},
		{"fcm", fcmNotification, "accepted", validated},
		{"fcm, token", `{"platform":"fcm","token":"id:APA91b","title":"x"}`, "accepted", validated},
		{"fcm, unregistered", `{"platform":"fcm","token":"id:dead","title":"x"}`, "unregistered UNREGISTERED", "[]"},
		{"web push", webPushNotification(t, subscription.Endpoint), "accepted", local},
		{"web push, host", webPushNotification(t, "https://push.example.com/x"), "400 subscription.endpoint", "<nil>"},
	} {
		_, got := h.request("POST", "", asDryRun(c.body), "Idempotency-Key", "same")
		status := fmt.Sprint(got["status"])
		for _, name := range []string{"reason", "field"} {
			if got[name] != nil {
				status += " " + fmt.Sprint(got[name])
			}
		}
		dryRun, _ := got["dry_run"].(map[string]any)
		if status != c.status || fmt.Sprint(dryRun["checked"]) != c.checked {
			t.Errorf("%s: %v, want %s %s", c.name, got, c.status, c.checked)
		}
		if got["id"] == nil {
			continue
		}
		if code, _ := h.request("GET", fmt.Sprint("/", got["id"]), ""); code != http.StatusNotFound {
			t.Errorf("%s: recorded in the history (%d)", c.name, code)
		}
	}
	tokens := fmt.Sprintf(`{"platform":"apns","tokens":[%q,"xyz"],"title":"x"}`, deviceToken)
	if _, got := h.request("POST", "", asDryRun(tokens)); !strings.Contains(fmt.Sprint(got), "dry_run:map[checked:"+local+"]") || !strings.Contains(fmt.Sprint(got), "tokens[1]") {
		t.Errorf("several targets: %v", got)
	}
	for _, platform := range []string{apnsNotification(deviceToken), fcmNotification, webPushNotification(t, subscription.Endpoint)} {
		code, got := h.request("POST", "", asDryRun(platform), "Prefer", "respond-async")
		if code != http.StatusBadRequest || got["field"] != "dry_run" || !strings.Contains(fmt.Sprint(got["detail"]), "Prefer: respond-async") {
			t.Errorf("asynchronous: %d %v", code, got)
		}
	}
	batch := strings.Join([]string{asDryRun(apnsNotification(deviceToken)), asDryRun(fcmNotification), asDryRun(apnsNotification("xyz")), asDryRun(fcmNotification)}, "\n")
	for prefer, want := range map[string]string{"": "3 accepted, 1 refused", "respond-async": "0 accepted, 4 refused"} {
		lines := h.batchLines(batch, prefer)
		got := fmt.Sprintf("%d accepted, %d refused", strings.Count(lines, `"checked":["fields"`), strings.Count(lines, `"status":"refused"`))
		if got != want || prefer == "" && strings.Count(lines, `"checked":["fields","payload","credential","provider"]`) != 2 {
			t.Errorf("batch with Prefer: %s: %s, want %s:\n%s", prefer, got, want, lines)
		}
	}
	for _, entry := range s.mock.Ledger().Entries(mockprovider.Query{}) {
		if entry.Service != mockprovider.OAuth && (entry.Service != mockprovider.FCM || entry.Accepted && !strings.HasSuffix(entry.ID, "/fake_message_id")) {
			t.Errorf("sent: %+v", entry)
		}
	}
	_, page := h.get(h.adminURL + "/metrics")
	for line := range strings.Lines(page) {
		if strings.HasPrefix(line, "sluice_notifications_total") && !strings.HasSuffix(line, " 0\n") {
			t.Errorf("counted: %s", line)
		}
	}
	for range 2 { // the key is unused, and the environment of the token is not known
		if code, got := h.request("POST", "", apnsNotification("5a2db0c0"+deviceToken[8:]), "Idempotency-Key", "same"); code != http.StatusOK || got["status"] != "accepted" || got["dry_run"] != nil {
			t.Errorf("afterwards: %d %v", code, got)
		}
	}
	if n := s.mock.Ledger().Count(mockprovider.Query{Service: mockprovider.APNs}); n != 2 { // one in each environment
		t.Errorf("APNs got %d requests, want 2", n)
	}
}

// batchLines returns the receipts of a batch.
func (h testGateway) batchLines(body, prefer string) string {
	h.t.Helper()
	r, err := http.NewRequest(http.MethodPost, h.url+"/v1/apps/shop/notifications/batch", strings.NewReader(body))
	if err != nil {
		h.t.Fatal(err)
	}
	r.Header.Set("Authorization", "Bearer "+h.key)
	r.Header.Set("Content-Type", "application/x-ndjson")
	if prefer != "" {
		r.Header.Set("Prefer", prefer)
	}
	response, err := http.DefaultClient.Do(r)
	if err != nil {
		h.t.Fatal(err)
	}
	defer func() { _ = response.Body.Close() }()
	text, err := io.ReadAll(bufio.NewReader(response.Body))
	if err != nil {
		h.t.Fatal(err)
	}
	return string(text)
}
