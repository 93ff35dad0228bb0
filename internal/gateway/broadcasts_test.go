// SPDX-License-Identifier: Apache-2.0

package gateway_test

import (
	"encoding/json"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"testing"

	"github.com/sluice-push/sluice/internal/broadcast"
	"github.com/sluice-push/sluice/internal/gateway"
	"github.com/sluice-push/sluice/internal/testwait"
	"github.com/sluice-push/sluice/mockprovider"
)

// broadcastGateway is a gateway whose key may send broadcasts.
type broadcastGateway struct {
	testGateway
	mock *mockprovider.Mock
}

func newBroadcastGateway(t testing.TB) broadcastGateway {
	s := newMockEnv(t, mockprovider.Config{KeepContent: true})
	app := strings.Replace(s.appBlock("shop", s.apnsBlock(), s.fcmBlock()), "name: test,", "name: test, scopes: [send, read, broadcasts],", 1)
	return broadcastGateway{s.start(t, listenConfig+slowTimeouts+fmt.Sprintf("queue: {dir: %q}\n", t.TempDir())+"apps:\n"+app), s.mock}
}

// call makes a request below the broadcasts of shop, and returns the response with its body.
func (g broadcastGateway) call(method, path, body string, headers ...string) (*http.Response, map[string]any) {
	g.t.Helper()
	response, text := g.do(method, "/broadcasts"+path, body, headers...)
	got := map[string]any{}
	if json.Unmarshal(text, &got) != nil {
		got["text"] = string(text)
	}
	return response, got
}

// want makes a request that must have a status.
func (g broadcastGateway) want(status int, method, path, body string, headers ...string) map[string]any {
	g.t.Helper()
	response, got := g.call(method, path, body, headers...)
	if response.StatusCode != status {
		g.t.Fatalf("%s %s: %d %v", method, path, response.StatusCode, got)
	}
	return got
}

func (g broadcastGateway) waitState(id, state string) (got map[string]any) {
	g.t.Helper()
	testwait.Until(g.t, func() bool {
		got = g.want(200, "GET", "/"+id, "")
		return got["state"] == state && (state == "ready" || state == "paused" || got["finished_at"] != nil)
	}, "the broadcast is "+state)
	return got
}

// testPreviews compares previews with what Apple and Google have received.
func (g broadcastGateway) testPreviews(previews map[string]any) {
	g.t.Helper()
	for _, phase := range []string{"message", "recall"} {
		var apns, fcm, webpush struct {
			Request *broadcast.Request
			Problem string
		}
		text, err := json.Marshal(previews[phase])
		if err == nil {
			err = json.Unmarshal(text, &[]any{&apns, &fcm, &webpush})
		}
		if err != nil || apns.Request == nil || fcm.Request == nil || webpush.Request != nil || webpush.Problem != "" { // the app has no Web Push
			g.t.Fatalf("%v %s", err, text)
		}
		shown := map[string]string{}
		for _, h := range apns.Request.Headers {
			shown[h.Name] = h.Value
		}
		topic, id := shown["apns-topic"], shown["apns-collapse-id"]
		if got := g.mock.Ledger().Expect(g.t, mockprovider.Query{Service: mockprovider.APNs}, 2)[0]; topic != got.Topic || !slices.Contains(got.Header, [2]string{"apns-collapse-id", id}) {
			g.t.Errorf("%s: %v, Apple got %v", phase, shown, got.Header)
		}
		sent := strings.ReplaceAll(fcm.Request.Payload, "example:"+strings.Repeat("A", 134), "device:token")
		if all := g.mock.Ledger().Expect(g.t, mockprovider.Query{Service: mockprovider.FCM}, 2); !slices.ContainsFunc(all, func(e mockprovider.Entry) bool { return e.Body == sent }) {
			g.t.Errorf("%s: %s, Google got %s and %s", phase, sent, all[0].Body, all[1].Body)
		}
	}
}

const broadcastBody = `{"name":"Sale","message":{"title":"Hello {{name|there}}","tags":["sale"]},"recall":{"message":{"title":"Sorry"}}}`

// TestBroadcastReplacesItselfOnRecall sends a broadcast to Apple and Google, finds it in the history and the
// feed, and recalls it.
func TestBroadcastReplacesItselfOnRecall(t *testing.T) {
	g := newBroadcastGateway(t)
	created := g.want(201, "POST", "", broadcastBody)
	id := created["id"].(string)
	previews := g.want(200, "GET", "/"+id+"/preview", "")
	audience := fmt.Sprintf(`{"platform":"apns","token":%q,"key":"ann","variables":{"name":"Ann"}}`+"\n"+`{"platform":"fcm","token":"device:token"}`+"\n", deviceToken)
	g.want(200, "PUT", "/"+id+"/audience", audience, "Content-Type", "application/x-ndjson")
	g.want(200, "POST", "/"+id+"/validate", "")
	g.waitState(id, "ready")
	g.want(200, "POST", "/"+id+"/start", "")
	done := g.waitState(id, "completed")
	if counts := done["counts"].(map[string]any); counts["accepted"] != 2.0 {
		t.Error(counts)
	}
	g.want(200, "POST", "/"+id+"/recall", "")
	done = g.waitState(id, "recalled")
	if counts := done["recall_counts"].(map[string]any); counts["accepted"] != 2.0 || counts["total"] != 2.0 {
		t.Error(counts)
	}
	response, err := http.Get(g.adminURL + gateway.AuditPath + "?broadcast=" + id)
	if err != nil {
		t.Fatal(err)
	}
	defer response.Body.Close()
	var audited broadcast.Audit
	if err := json.NewDecoder(response.Body).Decode(&audited); err != nil || !audited.Clean() || audited.Counts.Accepted != 2 || audited.RecallCounts.Accepted != 2 {
		t.Errorf("%s %+v %v", response.Status, audited, err)
	}
	var collapse, tags []string
	for _, e := range g.mock.Ledger().Expect(t, mockprovider.Query{Service: mockprovider.APNs}, 2) {
		for _, h := range e.Header {
			if h[0] == "apns-collapse-id" {
				collapse = append(collapse, h[1])
			}
		}
	}
	for _, e := range g.mock.Ledger().Expect(t, mockprovider.Query{Service: mockprovider.FCM}, 2) {
		var body struct {
			Message struct {
				Android struct{ Notification struct{ Tag string } }
			}
		}
		if err := json.Unmarshal([]byte(e.Body), &body); err != nil {
			t.Fatal(err)
		}
		tags = append(tags, body.Message.Android.Notification.Tag)
	}
	if len(collapse) != 2 || collapse[0] != collapse[1] || tags[0] == "" || tags[0] != tags[1] {
		t.Errorf("collapse IDs %q, tags %q", collapse, tags)
	}
	g.testPreviews(previews)
	_, found := g.request("GET", "?tag=sale", "")
	if all := found["notifications"].([]any); len(all) != 2 {
		t.Errorf("%d notifications with the tag", len(all))
	}
	var events []string
	g.readFeed(func(data string) bool {
		var e struct{ ID, Status, Broadcast string }
		if json.Unmarshal([]byte(data), &e) == nil && e.Broadcast == id && e.ID == id {
			events = append(events, strings.TrimPrefix(e.Status, "broadcast."))
		}
		return len(events) == 0 || events[len(events)-1] != "recalled"
	})
	if got := strings.Join(events, " "); got != "started running completed recalling recalled" {
		t.Error(got)
	}
	testwait.Until(t, func() bool {
		_, metrics := g.get(g.adminURL + "/metrics")
		if strings.Contains(metrics, id) || strings.Contains(metrics, `"Sale"`) {
			t.Fatal("the metrics contain the ID or the name of a broadcast")
		}
		return strings.Contains(metrics, `sluice_broadcasts{app="shop",state="recalled"} 1`) && strings.Contains(metrics, `sluice_broadcast_enqueued_total{app="shop"} 4`)
	}, "the metrics show the broadcast")
	response, got := g.call("GET", "/"+id+"/results?format=csv", "")
	if text := fmt.Sprint(got["text"]); response.Header.Get("Content-Type") != "text/csv; charset=utf-8" || !strings.Contains(text, "1,ann,") || strings.Count(text, "accepted") != 4 {
		t.Errorf("%s", text)
	}
	if code, receipt := g.request("GET", "/"+id, ""); code != 404 {
		t.Errorf("the broadcast is a notification: %d %v", code, receipt)
	}
}

// TestInvalidBroadcastRequests makes requests that are not possible. Each has a problem that says why, and
// changes nothing.
func TestInvalidBroadcastRequests(t *testing.T) {
	g := newBroadcastGateway(t)
	id := g.want(201, "POST", "", broadcastBody)["id"].(string)
	upload := func(text string) {
		g.want(200, "PUT", "/"+id+"/audience", text, "Content-Type", "application/x-ndjson")
	}
	upload(`{"platform":"fcm","token":"a:b"}` + "\n")
	response, before := g.call("GET", "/"+id, "")
	etag, one := response.Header.Get("ETag"), "/"+id
	ndjson := []string{"Content-Type", "application/x-ndjson"}
	partial := []string{"Content-Type", "application/partial-upload"}
	for i, c := range []struct {
		status       int
		slug, field  string
		method, path string
		body         string
		headers      []string
	}{
		{400, "invalid-json", "", "POST", "", `{`, nil},
		{400, "invalid-json", "", "POST", "", ``, nil},
		{400, "unknown-field", "nmae", "POST", "", `{"nmae":"x"}`, nil},
		{400, "invalid-field", "message", "POST", "", `{}`, nil},
		{400, "invalid-field", "message", "POST", "", `{"message":"x"}`, nil},
		{400, "unknown-field", "message.token", "POST", "", `{"message":{"title":"x","token":"y"}}`, nil},
		{400, "invalid-field", "message.title", "POST", "", `{"message":{"title":"{{x"}}`, nil},
		{400, "invalid-field", "rate.per_minute", "POST", "", `{"message":{"title":"x"},"rate":{"per_minute":-1}}`, nil},
		{400, "invalid-field", "rate.ramp_up", "POST", "", `{"message":{"title":"x"},"rate":{"per_minute":1,"ramp_up":"x"}}`, nil},
		{400, "invalid-field", "schedule.local_time", "POST", "", `{"message":{"title":"x"},"schedule":{"local_time":"25:00"}}`, nil},
		{400, "invalid-field", "schedule.time_zone", "POST", "", `{"message":{"title":"x"},"schedule":{"time_zone":"Mars"}}`, nil},
		{400, "invalid-field", "schedule.expires_at", "POST", "", `{"message":{"title":"x"},"schedule":{"start_at":"+2h","expires_at":"+1h"}}`, nil},
		{400, "invalid-field", "canary.share", "POST", "", `{"message":{"title":"x"},"canary":{"share":"200%"}}`, nil},
		{400, "invalid-field", "canary.share", "POST", "", `{"message":{"title":"x"},"canary":{}}`, nil},
		{400, "invalid-field", "pause_if.refused", "POST", "", `{"message":{"title":"x"},"pause_if":{"refused":5}}`, nil},
		{400, "invalid-field", "audience", "POST", "", `{"message":{"title":"x"},"audience":{"topic":"a","channel":"b"}}`, nil},
		{400, "invalid-field", "audience.platform", "POST", "", `{"message":{"title":"x"},"audience":{"topic":"a","platform":"apns"}}`, nil},
		{400, "invalid-field", "audience.platform", "POST", "", `{"message":{"title":"x"},"audience":{"platform":"sms"}}`, nil},
		{400, "invalid-field", "recall.message", "POST", "", `{"message":{"title":"x"},"recall":{}}`, nil},
		{415, "unsupported-body", "Content-Type", "POST", "", `{}`, []string{"Content-Type", "text/plain"}},
		{404, "not-found", "id", "GET", "/" + strings.Repeat("0", 36), "", nil},
		{404, "not-found", "id", "GET", "/nonsense", "", nil},
		{404, "not-found", "", "POST", one + "/explode", "", nil},
		{405, "method-not-allowed", "", "PATCH", one, "", nil},
		{409, "not-possible", "", "POST", one + "/start", "", nil},
		{409, "not-possible", "", "POST", one + "/pause", "", nil},
		{409, "not-possible", "", "POST", one + "/resume", "", nil},
		{409, "not-possible", "", "POST", one + "/cancel", "", nil},
		{409, "not-possible", "", "POST", one + "/recall", "", nil},
		{409, "not-possible", "", "GET", one + "/results", "", nil},
		{403, "missing-scope", "", "POST", one + "/approve", "", nil},
		{412, "precondition-failed", "If-Match", "POST", one + "/validate", "", []string{"If-Match", `"1"`}},
		{412, "precondition-failed", "If-Match", "PUT", one, broadcastBody, []string{"If-Match", `"1"`}},
		{412, "precondition-failed", "If-Match", "DELETE", one, "", []string{"If-Match", `"1"`}},
		{400, "invalid-header", "If-Match", "POST", one + "/validate", "", []string{"If-Match", `x`}},
		{415, "unsupported-body", "Content-Type", "PUT", one + "/audience", "x", []string{"Content-Type", "text/plain"}},
		{415, "unsupported-body", "Content-Encoding", "PUT", one + "/audience", "x", append([]string{"Content-Encoding", "gzip"}, ndjson...)},
		{400, "invalid-header", "Upload-Offset", "PATCH", one + "/audience", "x", partial},
		{400, "invalid-header", "Upload-Offset", "PATCH", one + "/audience", "x", append([]string{"Upload-Offset", "-1"}, partial...)},
		{400, "invalid-header", "Upload-Complete", "PATCH", one + "/audience", "x", append([]string{"Upload-Offset", "0", "Upload-Complete", "yes"}, partial...)},
		{409, "not-possible", "", "PATCH", one + "/audience", "x", append([]string{"Upload-Offset", "7"}, partial...)},
		{400, "invalid-parameter", "limit", "GET", one + "/invalid?limit=0", "", nil},
		{400, "invalid-parameter", "after", "GET", one + "/invalid?after=x", "", nil},
		{400, "invalid-parameter", "format", "GET", one + "/results?format=xml", "", nil},
		{400, "invalid-parameter", "id", "GET", "/devices", "", nil},
		{400, "invalid-parameter", "id", "GET", "/devices?id=" + strings.Repeat("x,", 101), "", nil},
		{400, "invalid-parameter", "ids", "GET", "/devices?ids=" + id, "", nil},
		{404, "not-found", "id", "GET", "/devices?id=nonsense", "", nil},
		{404, "not-found", "id", "GET", "/devices?id=" + strings.Repeat("0", 36), "", nil},
		{409, "not-possible", "id", "GET", "/devices?id=" + id, "", nil},
	} {
		response, got := g.call(c.method, c.path, c.body, c.headers...)
		field, _ := got["field"].(string)
		if slug := strings.TrimPrefix(fmt.Sprint(got["type"]), "https://sluice-push.github.io/problems/"); response.StatusCode != c.status || slug != c.slug || field != c.field {
			t.Errorf("%d: %s %s %s: %d %v", i, c.method, c.path, c.body, response.StatusCode, got)
		}
	}
	response, after := g.call("GET", one, "")
	if response.Header.Get("ETag") != etag || fmt.Sprint(after) != fmt.Sprint(before) {
		t.Errorf("%v\nbefore %v", after, before)
	}
	if all := g.want(200, "GET", "", "")["broadcasts"].([]any); len(all) != 1 {
		t.Errorf("%d broadcasts", len(all))
	}
	// Each of these lines is the only one that cannot be sent.
	malformed := []string{
		`nonsense`, `{`, `[]`, `null`, `"token"`, `{}`, `{"platform":"fcm"}`, `{"token":"a:b"}`, `{"platform":"sms","token":"a:b"}`, `{"platform":"fcm","token":7}`,
		`{"platform":"fcm","token":""}`, `{"platform":"apns","token":"xyz"}`, `{"platform":"apns","token":"abc"}`, `{"platform":"fcm","token":"a:b","token":"c:d"}`,
		`{"platform":"fcm","token":"a:b","tokne":"c"}`, `{"platform":"fcm","token":"a:b","topic":"c"}`, `{"platform":"fcm","topic":"news"}`,
		`{"platform":"fcm","token":"a:b","installation":"c"}`, `{"platform":"webpush","token":"a"}`, `{"platform":"webpush","subscription":{}}`,
		`{"platform":"fcm","token":"a:b","language":"not a language"}`, `{"platform":"fcm","token":"a:b","time_zone":"Mars/Base"}`, `{"platform":"fcm","token":"a:b","variables":[]}`,
		`{"platform":"fcm","token":"a:b","variables":{"name":{}}}`, `{"platform":"fcm","token":"a:b","variables":{"1":"x"}}`, `{"platform":"fcm","token":"a:b","key":7}`,
		`{"platform":"fcm","token":"a:b","key":"` + strings.Repeat("k", 300) + `"}`, `{"platform":"fcm","token":"a:b","variables":{"name":"` + strings.Repeat("n", 2000) + `"}}`,
		`{"platform":"fcm","token":"` + strings.Repeat("t", 20_000) + `"}`, "{\"platform\":\"fcm\",\"token\":\"\xff\"}", `{"platform":"fcm","token":"a:b"} {}`, `{"platform":"fcm","token":"a:b"}x`,
	}
	upload(`{"platform":"fcm","token":"first:one"}` + "\n" + strings.Join(malformed, "\n") + "\n" + `{"platform":"fcm","token":"last:one"}` + "\n")
	g.want(200, "POST", one+"/validate", "")
	g.waitState(id, "ready")
	page := g.want(200, "GET", one+"/invalid?limit=1000", "")
	refused := page["lines"].([]any)
	for i, line := range refused {
		l := line.(map[string]any)
		if l["line"] != float64(i+2) || l["reason"] == "" || l["detail"] == "" {
			t.Errorf("%v, want line %d", l, i+2)
		}
	}
	if len(refused) != len(malformed) {
		t.Errorf("%d lines are refused, want %d", len(refused), len(malformed))
	}
	if got := g.want(200, "GET", "/devices?id="+id, ""); got["unique_devices"] != 2.0 {
		t.Errorf("%v, want 2 devices", got)
	}
	topic := g.want(201, "POST", "", `{"message":{"title":"x"},"audience":{"topic":"news"}}`)["id"].(string)
	if got := g.want(400, "GET", "/devices?id="+id+"&id="+topic, ""); got["field"] != "id" || !strings.HasPrefix(fmt.Sprint(got["detail"]), "value 2: must be a broadcast with an uploaded audience") {
		t.Errorf("%v", got)
	}
}
