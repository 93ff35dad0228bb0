// SPDX-License-Identifier: Apache-2.0

package gateway_test

import (
	"encoding/json"
	"fmt"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/sluice-push/sluice/mockprovider"
)

// newTopicGateway starts a gateway whose app can manage topics at the mock.
func newTopicGateway(t testing.TB, services mockprovider.Config, more string) shopGateway {
	t.Helper()
	s := newMockEnv(t, services)
	r := shopGateway{mock: s.mock, http: &http.Client{Transport: &http.Transport{}}}
	r.testGateway = s.start(t, listenConfig+more+fmt.Sprintf("apps:\n  shop:\n    keys: [{name: test, hash: %q, scopes: [send, read, channels]}]\n    %s\n", s.hash, s.fcmBlock()))
	t.Cleanup(r.http.CloseIdleConnections)
	return r
}

// callTopics makes a request to the topics of the app. body can contain single quotes in place of double
// ones.
func (r shopGateway) callTopics(t testing.TB, action, body string) (int, map[string]any) {
	t.Helper()
	status, _, members := r.callChannels(t, "POST", "/v1/apps/shop/fcm/topics/"+action, strings.ReplaceAll(body, "'", `"`))
	return status, members
}

// results returns the status and the reason of each receipt of a response.
func results(response map[string]any) string {
	var all []string
	receipts, _ := response["receipts"].([]any)
	for i, one := range receipts {
		receipt := one.(map[string]any)
		text := fmt.Sprint(receipt["status"])
		for _, name := range []string{"reason", "field"} {
			if receipt[name] != nil {
				text += " " + fmt.Sprint(receipt[name])
			}
		}
		if receipt["target_index"] != float64(i) {
			text += fmt.Sprintf(" at %v", receipt["target_index"])
		}
		all = append(all, text)
	}
	return strings.Join(all, ", ")
}

// topicsOf returns the names of a page, separated by commas.
func topicsOf(page map[string]any) string {
	var names []string
	topics, _ := page["topics"].([]any)
	for _, one := range topics {
		names = append(names, fmt.Sprint(one.(map[string]any)["topic"]))
	}
	return strings.Join(names, ",")
}

func TestTopicLifecycle(t *testing.T) {
	r := newTopicGateway(t, mockprovider.Config{}, "")
	for range 2 { // the second time, FCM answers 409
		if status, got := r.callTopics(t, "subscribe", `{'topic':'news','tokens':['a:APA91b','b:APA91b']}`); status != 200 || results(got) != "accepted, accepted" {
			t.Errorf("subscribe: %d %v", status, got)
		}
	}
	if _, got := r.callTopics(t, "subscribe", `{'topic':'a.b-c_d~%41','installations':['dGhpcy1pcy1hLUZJRC0wMQ','deadGhpcy1hLUZJRC0wMQx']}`); results(got) != "accepted, unregistered NOT_FOUND" {
		t.Errorf("installations: %v", got)
	}
	for _, topic := range []string{"sport", "weather"} {
		r.callTopics(t, "subscribe", `{'topic':'`+topic+`','tokens':['a:APA91b']}`)
	}
	status, first := r.callTopics(t, "list", `{'token':'a:APA91b','page_size':2}`)
	next, _ := first["next_page_token"].(string)
	if status != 200 || topicsOf(first) != "news,sport" || next == "" {
		t.Fatalf("first page: %d %v", status, first)
	}
	created, err := time.Parse(time.RFC3339Nano, fmt.Sprint(first["topics"].([]any)[0].(map[string]any)["created_at"]))
	if err != nil || time.Since(created) > time.Hour {
		t.Errorf("created_at: %v, %v", created, err)
	}
	if _, last := r.callTopics(t, "list", `{'token':'a:APA91b','page_size':2,'page_token':'`+next+`'}`); topicsOf(last) != "weather" || last["next_page_token"] != nil {
		t.Errorf("last page: %v", last)
	}
	if _, all := r.callTopics(t, "list", `{'installation':'dGhpcy1pcy1hLUZJRC0wMQ'}`); topicsOf(all) != "a.b-c_d~%41" {
		t.Errorf("topics of the installation: %v", all)
	}
	for range 2 { // the second time, the subscription is missing
		if _, got := r.callTopics(t, "unsubscribe", `{'topic':'news','tokens':['a:APA91b']}`); results(got) != "accepted" {
			t.Errorf("unsubscribe: %v", got)
		}
	}
	if _, all := r.callTopics(t, "list", `{'token':'a:APA91b'}`); topicsOf(all) != "sport,weather" {
		t.Errorf("after unsubscribe: %v", all)
	}
	if _, none := r.callTopics(t, "list", `{'token':'c:APA91b'}`); fmt.Sprint(none) != "map[topics:[]]" {
		t.Errorf("no topics: %v", none)
	}
	if count := r.mock.Ledger().Count(mockprovider.Query{Service: mockprovider.FCM, Token: "b:APA91b"}); count != 2 {
		t.Errorf("the ledger has %d calls for a registration, want 2", count)
	}
	if services := r.gw.Status().Services; len(services) != 2 || !services[0].Pool.Idle || !strings.HasSuffix(services[1].Pool.Name, " topics") || services[1].Quota.Limit != 3000 {
		t.Errorf("services: %+v", services)
	}
}

func TestTopicErrors(t *testing.T) {
	r := newTopicGateway(t, mockprovider.Config{}, "")
	for body, want := range map[string]string{
		`{'topic':'news','tokens':['a:bad']}`:                              "refused INVALID_ARGUMENT",
		`{'topic':'news','tokens':['a:dead']}`:                             "unregistered NOT_FOUND",
		`{'topic':'news','tokens':['a:mismatch']}`:                         "refused SENDER_ID_MISMATCH",
		`{'topic':'news','tokens':['a:APA91b','','a:APA91b','a/b']}`:       "accepted, refused InvalidField tokens[1], refused InvalidField tokens[2], refused InvalidTarget tokens[3]",
		`{'topic':'news','installations':['a:b']}`:                         "refused InvalidTarget installations[0]",
		`{'topic':'news','tokens':['x:APA91b'],'installations':null}`:      "accepted",
		`{'topic':'news','tokens':['x:unavailable'],'installations':null}`: "unavailable UNAVAILABLE",
	} {
		if status, got := r.callTopics(t, "subscribe", body); status != 200 || results(got) != want {
			t.Errorf("%s: %d %v, want %s", body, status, got, want)
		}
	}
	many := strings.TrimSuffix(strings.Repeat(`"x",`, 1001), ",")
	for _, c := range []struct{ action, body, field, detail string }{
		{"subscribe", `{'topic':'a b','tokens':['a:b']}`, "topic", "1 to 900 letters, digits and - _ . ~ %"},
		{"subscribe", `{'tokens':['a:b']}`, "topic", "1 to 900"},
		{"subscribe", `{'topic':'` + strings.Repeat("x", 901) + `','tokens':['a:b']}`, "topic", "1 to 900"},
		{"unsubscribe", `{'topic':'/topics/a','tokens':['a:b']}`, "topic", "without /topics/"},
		{"subscribe", `{'topic':'a'}`, "tokens", "or installations instead"},
		{"subscribe", `{'topic':'a','tokens':['a:b'],'installations':['a']}`, "tokens", "or installations instead"},
		{"subscribe", `{'topic':'a','tokens':[]}`, "tokens", "1 to 1,000 entries"},
		{"subscribe", `{'topic':'a','tokens':[` + many + `]}`, "tokens", "1 to 1,000 entries"},
		{"subscribe", `{'topic':'a','token':'a:b'}`, "token", "known fields: installations, tokens, topic"},
		{"subscribe", `[]`, "", "one JSON object, such as"},
		{"list", `{}`, "token", "or installation instead"},
		{"list", `{'token':'a:b','installation':'a'}`, "token", "or installation instead"},
		{"list", `{'token':'a b'}`, "token", "letters, digits"},
		{"list", `{'token':'a:b','page_size':2001}`, "page_size", "1 to 2,000"},
		{"list", `{'token':'a:b','page_token':'` + strings.Repeat("x", 3000) + `'}`, "page_token", "next_page_token"},
	} {
		status, p := r.callTopics(t, c.action, c.body)
		if field, _ := p["field"].(string); status != 400 || field != c.field || !strings.Contains(fmt.Sprint(p["detail"]), c.detail) {
			t.Errorf("%s %.60s: %d %v, want field %q and %q", c.action, c.body, status, p, c.field, c.detail)
		}
	}
	if status, p := r.callTopics(t, "list", `{'token':'a:dead'}`); status != 404 || p["field"] != "token" || strings.Contains(fmt.Sprint(p), "a:dead") {
		t.Errorf("list of an unknown registration: %d %v", status, p)
	}
	if status, p := r.callTopics(t, "list", `{'installation':'bad'}`); status != 422 || !strings.Contains(fmt.Sprint(p["detail"]), "INVALID_ARGUMENT") {
		t.Errorf("list of an invalid registration: %d %v", status, p)
	}
}

// TestTooManyTopics subscribes a registration to as many topics as it can have, and to one more.
func TestTooManyTopics(t *testing.T) {
	r := newTopicGateway(t, mockprovider.Config{}, "")
	for i := range 2000 {
		if _, got := r.callTopics(t, "subscribe", fmt.Sprintf(`{'topic':'t%d','tokens':['a:APA91b']}`, i)); results(got) != "accepted" {
			t.Fatalf("topic %d: %v", i, got)
		}
	}
	_, got := r.callTopics(t, "subscribe", `{'topic':'one-more','tokens':['a:APA91b']}`)
	if results(got) != "refused TOO_MANY_TOPICS" || !strings.Contains(fmt.Sprint(got), "at most 2,000 topics") {
		t.Errorf("%v", got)
	}
	if _, page := r.callTopics(t, "list", `{'token':'a:APA91b'}`); len(page["topics"].([]any)) != 1000 || page["next_page_token"] == nil {
		t.Errorf("page without a size: %d topics", len(page["topics"].([]any)))
	}
	if _, page := r.callTopics(t, "list", `{'token':'a:APA91b','page_size':2000}`); len(page["topics"].([]any)) != 2000 || page["next_page_token"] != nil {
		t.Errorf("whole list: %d topics", len(page["topics"].([]any)))
	}
}

// TestTopicsHaveTheirOwnLimits fills the rate of subscriptions and then lets FCM refuse them: both close
// the topics, and neither affects a notification.
func TestTopicsHaveTheirOwnLimits(t *testing.T) {
	r := newTopicGateway(t, mockprovider.Config{}, "quota: {fcm: {subscription_rate: 1/h}}\nlimits: {send_timeout: 2s}\n")
	if _, got := r.callTopics(t, "subscribe", `{'topic':'a','tokens':['a:APA91b','b:APA91b','c:APA91b']}`); strings.Count(results(got), "throttled GATE_CLOSED") != 2 {
		t.Errorf("beyond the rate: %v", got)
	}
	if got := r.send(t, `{"platform":"fcm","token":"a:APA91b","title":"x"}`); got.Status != "accepted" {
		t.Errorf("a notification: %+v", got)
	}

	r = newTopicGateway(t, mockprovider.Config{}, "limits: {send_timeout: 2s}\n")
	if err := r.mock.SetScript(mockprovider.Script{Faults: []mockprovider.Fault{{Service: mockprovider.FCM, Token: "a:*", Status: 429, Reason: "RATE_LIMIT_EXCEEDED", RetryAfter: time.Minute}}}); err != nil {
		t.Fatal(err)
	}
	if _, got := r.callTopics(t, "subscribe", `{'topic':'a','tokens':['a:APA91b']}`); results(got) != "throttled RATE_LIMIT_EXCEEDED" {
		t.Errorf("refused: %v", got)
	}
	if _, got := r.callTopics(t, "subscribe", `{'topic':'a','tokens':['b:APA91b']}`); results(got) != "throttled GATE_CLOSED" {
		t.Errorf("after a refusal: %v", got)
	}
	if got := r.send(t, `{"platform":"fcm","token":"b:APA91b","title":"x"}`); got.Status != "accepted" {
		t.Errorf("a notification: %+v", got)
	}
}

// TestTopicCallIsRepeated lets the mock fail the first attempt, and lose the response of another one.
func TestTopicCallIsRepeated(t *testing.T) {
	r := newTopicGateway(t, mockprovider.Config{}, "retry: {max_retry_after: 10ms, backoff: 10ms, attempt_timeout: 1s}\n")
	for _, fault := range []mockprovider.Fault{{Service: mockprovider.FCM, Status: 503, Times: 1}, {Service: mockprovider.FCM, DropResponse: true, Times: 1}} {
		if err := r.mock.SetScript(mockprovider.Script{Faults: []mockprovider.Fault{fault}}); err != nil {
			t.Fatal(err)
		}
		_, got := r.callTopics(t, "subscribe", `{'topic':'a','tokens':['a:APA91b']}`)
		receipt, _ := json.Marshal(got)
		if results(got) != "accepted" || strings.Count(string(receipt), `"endpoint"`) != 2 {
			t.Errorf("%+v: %s", fault, receipt)
		}
	}
}
