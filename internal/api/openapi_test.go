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
	"github.com/sluice-push/sluice/push"
)

// node is a part of the contract.
type node map[string]any

// path follows a path of names.
func (n node) path(t testing.TB, path ...string) node {
	t.Helper()
	for _, name := range path {
		next, ok := n[name].(map[string]any)
		if !ok {
			t.Fatalf("the contract has no %s in %q", name, path)
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
	var routed, written []string
	err := chi.Walk(newTestAPI(t).Handler.(chi.Routes), func(method, route string, _ http.Handler, _ ...func(http.Handler) http.Handler) error {
		routed = append(routed, strings.ToLower(method)+" "+route)
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	for path, item := range openAPIDoc(t).path(t, "paths") {
		for method := range item.(map[string]any) {
			if method != "parameters" {
				written = append(written, method+" "+path)
			}
		}
	}
	slices.Sort(routed)
	slices.Sort(written)
	if diff := cmp.Diff(routed, written); diff != "" {
		t.Fatalf("router (-) and contract (+):\n%s", diff)
	}
}

func TestOpenAPINotificationFields(t *testing.T) {
	schemas := openAPIDoc(t).path(t, "components", "schemas")
	for schema, of := range map[string]any{
		"NotificationFields": push.Notification{}, "Target": push.Target{}, "Subscription": push.Subscription{}, "SubscriptionKeys": push.SubscriptionKeys{},
		"APNs": push.APNsBlock{}, "FCM": push.FCMBlock{}, "WebPush": push.WebPushBlock{}, "NotReady": api.NotReady{},
	} {
		var fields []string
		for _, f := range reflect.VisibleFields(reflect.TypeOf(of)) {
			if name, _, _ := strings.Cut(f.Tag.Get("json"), ","); name != "" && name != "-" {
				fields = append(fields, name)
			}
		}
		slices.Sort(fields)
		if diff := cmp.Diff(fields, schemas.path(t, schema, "properties").names()); diff != "" {
			t.Errorf("%s, code (-) and contract (+):\n%s", schema, diff)
		}
	}
}

func TestOpenAPIReceiptFields(t *testing.T) {
	index := 1
	full := push.Outcome{Verdict: push.Throttled, Reason: "r", RetryAfter: time.Second, HTTP: 429, ProviderID: "p",
		DeadSince: time.Now(), ForgetToken: true, Field: "f", Detail: "d"}
	text, err := json.Marshal(push.Receipt{ID: "i", Index: &index, Outcome: full,
		Attempts: []push.Attempt{{Endpoint: "e", Environment: push.Sandbox, Started: time.Now(), Took: time.Second, Outcome: full}}})
	if err != nil {
		t.Fatal(err)
	}
	var receipt, attempt node
	if err := json.Unmarshal(text, &receipt); err != nil {
		t.Fatal(err)
	}
	attempt = receipt["attempts"].([]any)[0].(map[string]any)
	receipt["replayed"] = true // in a batch, as another test shows
	schemas := openAPIDoc(t).path(t, "components", "schemas")
	for schema, members := range map[string]node{"Receipt": receipt, "Attempt": attempt} {
		if diff := cmp.Diff(members.names(), schemas.path(t, schema, "properties").names()); diff != "" {
			t.Errorf("%s, code (-) and contract (+):\n%s", schema, diff)
		}
	}
}

func TestOpenAPIEventFields(t *testing.T) {
	text, err := json.Marshal(push.Event{ID: "1", App: "shop", At: time.Now(), Status: push.StatusSending, Platform: push.FCM, Lane: push.LaneBulk,
		Attempt: 1, SendAt: time.Now(), Receipt: new(push.Receipt), Target: new(push.Target)})
	if err != nil {
		t.Fatal(err)
	}
	var members node
	if err := json.Unmarshal(text, (*map[string]any)(&members)); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(members.names(), openAPIDoc(t).path(t, "components", "schemas", "Event", "properties").names()); diff != "" {
		t.Errorf("code (-) and contract (+):\n%s", diff)
	}
}

func TestOpenAPIProblemFields(t *testing.T) {
	d := newTestAPI(t)
	d.respond = throttledReceipt
	members := node{}
	for _, body := range []string{`{}`, validBody} {
		if err := json.Unmarshal(d.request("POST", singlePath, body).Body.Bytes(), (*map[string]any)(&members)); err != nil {
			t.Fatal(err)
		}
	}
	if diff := cmp.Diff(members.names(), openAPIDoc(t).path(t, "components", "schemas", "Problem", "properties").names()); diff != "" {
		t.Fatalf("code (-) and contract (+):\n%s", diff)
	}
}

func TestOpenAPIDocumentsEveryProblemType(t *testing.T) {
	source, err := os.ReadFile("problem.go")
	if err != nil {
		t.Fatal(err)
	}
	var made, written []string
	for _, kind := range regexp.MustCompile(`kind\{http\.Status\w+, "([a-z-]+)", "\w+"`).FindAllStringSubmatch(string(source), -1) {
		made = append(made, kind[1])
	}
	table := openAPIDoc(t).path(t, "components", "schemas", "Problem")["description"].(string)
	for _, row := range regexp.MustCompile("(?m)^\\| `([a-z-]+)` \\|").FindAllStringSubmatch(table, -1) {
		written = append(written, row[1])
	}
	slices.Sort(made)
	slices.Sort(written)
	if diff := cmp.Diff(made, written); diff != "" || len(made) < 20 {
		t.Fatalf("code (-) and contract (+):\n%s", diff)
	}
}

func TestOpenAPIEnums(t *testing.T) {
	schemas := openAPIDoc(t).path(t, "components", "schemas")
	var verdicts, states []any
	for v := push.Unsent; v.String() != "invalid"; v++ {
		verdicts = append(verdicts, v.String())
		states = append(states, string(push.Outcome{Verdict: v}.Status()))
	}
	if diff := cmp.Diff(verdicts, schemas.path(t, "Attempt", "properties", "status")["enum"]); diff != "" {
		t.Errorf("verdicts, code (-) and contract (+):\n%s", diff)
	}
	states = append(states, "queued", "scheduled", "sending", "cancelled")
	for _, state := range states {
		if !slices.Contains(schemas.path(t, "State")["enum"].([]any), state) {
			t.Errorf("the contract lacks the state %s", state)
		}
	}
	for _, field := range []string{"platform", "priority", "lane", "on_unknown"} {
		p := newTestAPI(t).request("POST", singlePath, `{"`+field+`":"none of them"}`)
		for _, word := range schemas.path(t, "NotificationFields", "properties", field)["enum"].([]any) {
			if !strings.Contains(p.Body.String(), `\"`+word.(string)+`\"`) {
				t.Errorf("%s: the code does not know %s: %s", field, word, p.Body)
			}
		}
	}
}

func TestOpenAPIRequestExamplesAreAccepted(t *testing.T) {
	paths := openAPIDoc(t).path(t, "paths")
	taken := 0
	for _, call := range []struct{ path, at string }{{"/v1/apps/{app}/notifications", singlePath}, {"/v1/apps/{app}/notifications/batch", batch}} {
		for media, content := range paths.path(t, call.path, "post", "requestBody", "content") {
			for name, example := range node(content.(map[string]any)).path(t, "examples") {
				w := newTestAPI(t).request("POST", call.at, exampleBody(t, example.(map[string]any)["value"]), "Content-Type: "+media)
				if w.Code != 200 || strings.Contains(w.Body.String(), "refused") {
					t.Errorf("%s %s: %d %s", call.path, name, w.Code, w.Body)
				}
				taken++
			}
		}
	}
	if taken < 7 {
		t.Fatalf("only %d examples", taken)
	}
}

// exampleBody is an example as it goes over the wire.
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

func TestOpenAPIResponseExamplesMatchSchemas(t *testing.T) {
	doc := openAPIDoc(t)
	one := "/v1/apps/{app}/notifications/{id}"
	responses := map[string]any{
		"send": doc.path(t, "paths", "/v1/apps/{app}/notifications", "post", "responses")["200"],
		"find": doc.path(t, "paths", one, "get", "responses")["200"], "cancel": doc.path(t, "paths", one, "delete", "responses")["200"],
	}
	maps.Copy(responses, doc.path(t, "components", "responses"))
	for _, response := range responses {
		for _, content := range node(response.(map[string]any)).path(t, "content") {
			content := node(content.(map[string]any))
			examples, _ := content["examples"].(map[string]any)
			for name, example := range examples {
				checkMembers(t, doc, name, content.path(t, "schema"), example.(map[string]any)["value"])
			}
		}
	}
}

// checkMembers checks the names of members, all the way down.
func checkMembers(t *testing.T, doc node, where string, schema node, value any) {
	t.Helper()
	schema = resolveRef(t, doc, schema)
	switch value := value.(type) {
	case map[string]any:
		for name, member := range value {
			checkMembers(t, doc, where+"."+name, schema.path(t, "properties", name), member)
		}
	case []any:
		for _, item := range value {
			checkMembers(t, doc, where, schema.path(t, "items"), item)
		}
	}
}

// resolveRef is a schema with what it refers to, and its own properties beside those.
func resolveRef(t *testing.T, doc, schema node) node {
	t.Helper()
	ref, ok := schema["$ref"].(string)
	if !ok {
		return schema
	}
	out := maps.Clone(resolveRef(t, doc, doc.path(t, strings.Split(strings.TrimPrefix(ref, "#/"), "/")...)))
	if own, ok := schema["properties"].(map[string]any); ok {
		all := maps.Clone(map[string]any(out.path(t, "properties")))
		maps.Copy(all, own)
		out["properties"] = all
	}
	return out
}

func TestOpenAPIReferencesResolve(t *testing.T) {
	doc := openAPIDoc(t)
	for _, ref := range regexp.MustCompile(`"#/([^"]+)"`).FindAllStringSubmatch(string(api.OpenAPI()), -1) {
		doc.path(t, strings.Split(ref[1], "/")...)
	}
}

func TestOpenAPIIsServed(t *testing.T) {
	w := newTestAPI(t).request("GET", "/openapi.yaml", "", "Authorization: none")
	if w.Code != 200 || w.Body.String() != string(api.OpenAPI()) || w.Header().Get("Content-Type") != "application/yaml" {
		t.Fatalf("%d %v", w.Code, w.Header())
	}
}
