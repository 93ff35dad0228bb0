// SPDX-License-Identifier: Apache-2.0

package api_test

import (
	"encoding/json"
	"maps"
	"net/http"
	"os"
	"reflect"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/go-chi/chi/v5"
	"github.com/google/go-cmp/cmp"
	"go.yaml.in/yaml/v4"

	"github.com/sluice-push/sluice/internal/api"
	"github.com/sluice-push/sluice/internal/audience"
	"github.com/sluice-push/sluice/internal/broadcast"
	"github.com/sluice-push/sluice/push"
)

// node is an object in the OpenAPI document.
type node map[string]any

// path returns the node at a path of names.
func (n node) path(t testing.TB, path ...string) node {
	t.Helper()
	for _, name := range path {
		next, ok := n[name].(map[string]any)
		if !ok {
			t.Fatalf("the document has no %s in %q", name, path)
		}
		n = next
	}
	return n
}

func (n node) names() []string { return slices.Sorted(maps.Keys(n)) }

func openAPIDoc(t testing.TB) node {
	t.Helper()
	var doc map[string]any
	if err := yaml.Unmarshal(api.OpenAPI(), &doc); err != nil {
		t.Fatal(err)
	}
	return doc
}

func TestOpenAPIListsEveryRoute(t *testing.T) {
	var inRouter, documented []string
	err := chi.Walk(newTestAPI(t).Handler.(chi.Routes), func(method, route string, _ http.Handler, _ ...func(http.Handler) http.Handler) error {
		inRouter = append(inRouter, strings.ToLower(method)+" "+route)
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	for path, item := range openAPIDoc(t).path(t, "paths") {
		for method := range item.(map[string]any) {
			if method != "parameters" {
				documented = append(documented, method+" "+path)
			}
		}
	}
	slices.Sort(inRouter)
	slices.Sort(documented)
	if diff := cmp.Diff(inRouter, documented); diff != "" {
		t.Fatalf("router (-) and document (+):\n%s", diff)
	}
}

func TestOpenAPINotificationFields(t *testing.T) {
	schemas := openAPIDoc(t).path(t, "components", "schemas")
	for schema, of := range map[string]any{
		"NotificationFields": push.Notification{}, "Target": push.Target{}, "Subscription": push.Subscription{}, "SubscriptionKeys": push.SubscriptionKeys{},
		"APNs": push.APNsBlock{}, "FCM": push.FCMBlock{}, "WebPush": push.WebPushBlock{}, "NotReady": api.NotReady{}, "TargetLists": api.TargetLists{},
		"BroadcastDefinition": broadcast.Definition{}, "Variant": audience.Variant{}, "Audience": broadcast.Audience{}, "Schedule": audience.Schedule{}, "QuietHours": audience.QuietHours{},
		"BroadcastRate": audience.Rate{}, "Canary": broadcast.Canary{}, "PauseIf": broadcast.PauseIf{}, "RecallMessage": broadcast.RecallMessage{}, "Validation": broadcast.Validation{},
		"Devices": broadcast.Devices{}, "AudienceDevices": broadcast.AudienceDevices{},
		"BroadcastCounts": broadcast.Counts{}, "InvalidLines": broadcast.InvalidPage{}, "InvalidLine": audience.LineError{}, "BroadcastPreviews": broadcast.Previews{},
		"BroadcastPreview": broadcast.Preview{}, "LineResult": broadcast.LineResult{},
		"Page": push.Page{}, "Summary": push.Summary{}, "Stats": push.Stats{}, "Count": push.Count{}, "Latency": push.Latency{},
		"TopicPage": push.TopicPage{}, "TopicSubscription": push.TopicSubscription{},
	} {
		var fields []string
		for _, f := range reflect.VisibleFields(reflect.TypeOf(of)) {
			if name, _, _ := strings.Cut(f.Tag.Get("json"), ","); name != "" && name != "-" {
				fields = append(fields, name)
			}
		}
		slices.Sort(fields)
		if diff := cmp.Diff(fields, schemas.path(t, schema, "properties").names()); diff != "" {
			t.Errorf("%s, code (-) and document (+):\n%s", schema, diff)
		}
	}
}

func TestOpenAPIReceiptFields(t *testing.T) {
	index := 1
	full := push.Outcome{Verdict: push.Throttled, Reason: "r", RetryAfter: time.Second, HTTP: 429, ProviderID: "p",
		DeadSince: time.Now(), ForgetToken: true, Field: "f", Detail: "d"}
	text, err := json.Marshal(push.Receipt{ID: "i", Index: &index, TargetIndex: &index, Outcome: full, Replaced: &push.Target{}, DryRun: &push.DryRun{}, Warnings: []push.Warning{{}},
		Attempts: []push.Attempt{{Endpoint: "e", Environment: push.Sandbox, Started: time.Now(), Took: time.Second, Outcome: full}}})
	if err != nil {
		t.Fatal(err)
	}
	var receipt, attempt node
	if err := json.Unmarshal(text, &receipt); err != nil {
		t.Fatal(err)
	}
	attempt = receipt["attempts"].([]any)[0].(map[string]any)
	receipt["replayed"] = true // only in batches; TestBatchItemsHaveTheirOwnKeys covers it
	schemas := openAPIDoc(t).path(t, "components", "schemas")
	for schema, members := range map[string]node{"Receipt": receipt, "Attempt": attempt} {
		if diff := cmp.Diff(members.names(), schemas.path(t, schema, "properties").names()); diff != "" {
			t.Errorf("%s, code (-) and document (+):\n%s", schema, diff)
		}
	}
}

func TestOpenAPIEventFields(t *testing.T) {
	text, err := json.Marshal(push.Event{ID: "1", App: "shop", At: time.Now(), Status: push.StatusSending, Platform: push.FCM, Lane: push.LaneBulk,
		Tags: []string{"a"}, Broadcast: "b", Line: 1, Attempt: 1, SendAt: time.Now(), Receipt: new(push.Receipt), Target: new(push.Target), TraceContext: push.TraceContext{TraceParent: "p", TraceState: "s"}})
	if err != nil {
		t.Fatal(err)
	}
	var members node
	if err := json.Unmarshal(text, (*map[string]any)(&members)); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(members.names(), openAPIDoc(t).path(t, "components", "schemas", "Event", "properties").names()); diff != "" {
		t.Errorf("code (-) and document (+):\n%s", diff)
	}
}

func TestOpenAPIProblemFields(t *testing.T) {
	ts := newTestAPI(t)
	ts.respond = throttledReceipt
	members := node{}
	for _, body := range []string{`{}`, validBody} {
		if err := json.Unmarshal(ts.request("POST", singlePath, body).Body.Bytes(), (*map[string]any)(&members)); err != nil {
			t.Fatal(err)
		}
	}
	if diff := cmp.Diff(members.names(), openAPIDoc(t).path(t, "components", "schemas", "Problem", "properties").names()); diff != "" {
		t.Fatalf("code (-) and document (+):\n%s", diff)
	}
}

func TestOpenAPIDocumentsEveryProblemType(t *testing.T) {
	source, err := os.ReadFile("problem.go")
	if err != nil {
		t.Fatal(err)
	}
	var inCode, documented []string
	for _, kind := range regexp.MustCompile(`kind\{http\.Status\w+, "([a-z-]+)", "\w+"`).FindAllStringSubmatch(string(source), -1) {
		inCode = append(inCode, kind[1])
	}
	table := openAPIDoc(t).path(t, "components", "schemas", "Problem")["description"].(string)
	for _, row := range regexp.MustCompile("(?m)^\\| `([a-z-]+)` \\|").FindAllStringSubmatch(table, -1) {
		documented = append(documented, row[1])
	}
	slices.Sort(inCode)
	slices.Sort(documented)
	if diff := cmp.Diff(inCode, documented); diff != "" || len(inCode) < 20 {
		t.Fatalf("code (-) and document (+):\n%s", diff)
	}
}

func TestOpenAPIEnums(t *testing.T) {
	schemas := openAPIDoc(t).path(t, "components", "schemas")
	var verdicts, statuses []any
	for v := push.Unsent; v.String() != "invalid"; v++ {
		verdicts = append(verdicts, v.String())
		statuses = append(statuses, string(push.Outcome{Verdict: v}.Status()))
	}
	if diff := cmp.Diff(verdicts, schemas.path(t, "Attempt", "properties", "status")["enum"]); diff != "" {
		t.Errorf("verdicts, code (-) and document (+):\n%s", diff)
	}
	statuses = append(statuses, "queued", "scheduled", "sending", "cancelled")
	for _, status := range statuses {
		if !slices.Contains(schemas.path(t, "State")["enum"].([]any), status) {
			t.Errorf("the document lacks the status %s", status)
		}
	}
	for _, field := range []string{"platform", "priority", "lane", "on_unknown"} {
		p := newTestAPI(t).request("POST", singlePath, `{"`+field+`":"none of them"}`)
		for _, value := range schemas.path(t, "NotificationFields", "properties", field)["enum"].([]any) {
			if !strings.Contains(p.Body.String(), `\"`+value.(string)+`\"`) {
				t.Errorf("%s: the code does not allow %s: %s", field, value, p.Body)
			}
		}
	}
}

func TestOpenAPIRequestExamplesAreAccepted(t *testing.T) {
	paths := openAPIDoc(t).path(t, "paths")
	count := 0
	for _, call := range []struct{ path, at string }{{"/v1/apps/{app}/notifications", singlePath}, {"/v1/apps/{app}/notifications/batch", batchPath}} {
		for media, content := range paths.path(t, call.path, "post", "requestBody", "content") {
			for name, example := range node(content.(map[string]any)).path(t, "examples") {
				w := newTestAPI(t).request("POST", call.at, exampleBody(t, example.(map[string]any)["value"]), "Content-Type: "+media)
				if w.Code != 200 || strings.Contains(w.Body.String(), "refused") {
					t.Errorf("%s %s: %d %s", call.path, name, w.Code, w.Body)
				}
				count++
			}
		}
	}
	if count < 7 {
		t.Fatalf("only %d examples", count)
	}
}

// exampleBody returns an example as a request body.
func exampleBody(t testing.TB, example any) string {
	t.Helper()
	if lines, ok := example.(string); ok {
		return lines
	}
	body, err := json.Marshal(example)
	if err != nil {
		t.Fatal(err)
	}
	return string(body)
}

func TestOpenAPIIsServed(t *testing.T) {
	w := newTestAPI(t).request("GET", "/openapi.yaml", "", "Authorization: none")
	if w.Code != 200 || w.Body.String() != string(api.OpenAPI()) || w.Header().Get("Content-Type") != "application/openapi+yaml" {
		t.Fatalf("%d %v", w.Code, w.Header())
	}
}
