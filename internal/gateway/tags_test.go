// SPDX-License-Identifier: Apache-2.0

package gateway_test

import (
	"encoding/json"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"testing"

	"github.com/sluice-push/sluice/internal/gateway"
	"github.com/sluice-push/sluice/push"
)

// countEnds returns the counts of ends by status and platform, and the total.
func (h testGateway) countEnds(query string) map[string]int {
	h.t.Helper()
	r, err := http.NewRequest(http.MethodGet, h.url+"/v1/apps/shop/stats"+query, nil)
	if err != nil {
		h.t.Fatal(err)
	}
	r.Header.Set("Authorization", "Bearer "+h.key)
	response, err := http.DefaultClient.Do(r)
	if err != nil {
		h.t.Fatal(err)
	}
	defer func() { _ = response.Body.Close() }()
	var stats push.Stats
	if err := json.NewDecoder(response.Body).Decode(&stats); err != nil || response.StatusCode != http.StatusOK {
		h.t.Fatal(response.Status, err)
	}
	ends := map[string]int{"total": int(stats.Total)}
	for _, c := range stats.Counts {
		ends[fmt.Sprint(c.Status, " ", c.Platform)] += int(c.Count)
	}
	return ends
}

// TestTagsAreInEvents sends tagged notifications in every way. It finds them, reads their events and counts
// them, also after a restart.
func TestTagsAreInEvents(t *testing.T) {
	s, dir := newMockEnv(t), t.TempDir()
	text := listenConfig + slowTimeouts + fmt.Sprintf("queue: {dir: %q}\n", dir) + "apps:\n" + s.appBlock("shop", s.apnsBlock())
	h := s.start(t, text)
	body := func(token string) string { return apnsNotificationWith(token, `,"tags":["campaign:spring/27","a"]`) }
	dead := "dead0000" + deviceToken[8:]
	want := map[any]string{}
	send := func(body, events string, headers ...string) {
		t.Helper()
		code, got := h.request("POST", "", body, headers...)
		if code >= 300 {
			t.Fatal(code, got)
		}
		want[got["id"]] = events
	}
	send(body(deviceToken), "accepted+")
	send(body(dead), "unregistered+")
	send(body(deviceToken), "sending+ accepted+", "Idempotency-Key", "k")
	send(body(deviceToken), "queued+ sending accepted+", "Prefer", "respond-async")
	send(body(dead), "queued+ unregistered+", "Prefer", "respond-async", "Idempotency-Key", "l")
	send(strings.Replace(body(deviceToken), "{", `{"send_at":"+1h",`, 1), "scheduled+ cancelled+", "Prefer", "respond-async")
	send(apnsNotification(deviceToken), "queued sending accepted", "Prefer", "respond-async")
	for id, events := range want {
		if strings.HasSuffix(events, "cancelled+") {
			if code, got := h.request("DELETE", fmt.Sprint("/", id), ""); code != 200 {
				t.Error(code, got)
			}
		}
		words := strings.Fields(events)
		h.waitStatus(id, strings.TrimSuffix(words[len(words)-1], "+"))
	}
	checkSearch := func() {
		t.Helper()
		found, cursor := map[any]int{}, ""
		for pages := 0; pages == 0 || cursor != ""; pages++ {
			code, got := h.request("GET", "?tag=a&limit=4&since=-1h&cursor="+cursor, "")
			if code != 200 || pages > 3 {
				t.Fatal(code, got)
			}
			for _, n := range got["notifications"].([]any) {
				found[n.(map[string]any)["id"]]++
			}
			cursor, _ = got["next_cursor"].(string)
		}
		for id, events := range want {
			if found[id] != strings.Count(events[:strings.IndexAny(events+" ", " ")], "+") {
				t.Errorf("%s: found %d times", events, found[id])
			}
		}
		if _, got := h.request("GET", "?status=cancelled,refused", ""); len(got["notifications"].([]any)) != 1 {
			t.Errorf("cancelled: %v", got)
		}
	}
	for range 2 {
		checkSearch()
		for id, events := range want {
			_, got := h.request("GET", fmt.Sprint("/", id), "")
			var found struct {
				Tags   []string
				Events []struct {
					Status string
					Tags   []string
				}
			}
			text, _ := json.Marshal(got)
			if err := json.Unmarshal(text, &found); err != nil {
				t.Fatal(err)
			}
			var words []string
			tagged := func(tags []string) bool { return slices.Equal(tags, []string{"campaign:spring/27", "a"}) }
			for _, e := range found.Events {
				if words = append(words, e.Status); tagged(e.Tags) {
					words[len(words)-1] += "+"
				}
			}
			if line := strings.Join(words, " "); line != events || tagged(found.Tags) != strings.Contains(events, "+") {
				t.Errorf("%s, want %s: %s", line, events, text)
			}
		}
		all, tagged := h.countEnds(""), h.countEnds("?tag=a")
		for id, events := range want {
			words := strings.Fields(events)
			status := strings.TrimSuffix(words[len(words)-1], "+") + " apns"
			if all[status]--; strings.Contains(events, "+") {
				tagged[status]--
			}
			if all[status] < 0 || tagged[status] < 0 {
				t.Errorf("%v is not counted as %s", id, status)
			}
		}
		if err := h.stop(); err != nil {
			t.Fatal(err)
		}
		report, err := gateway.Audit(t.Context(), parse(t, text))
		if err != nil || !report.Clean() || all["total"] != int(report.Notifications-report.Waiting) || tagged["total"] != len(want)-1 {
			t.Errorf("counted %v, %v; audit %+v %v", all, tagged, report, err)
		}
		h = s.start(t, text)
	}
}
