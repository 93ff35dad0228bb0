// SPDX-License-Identifier: Apache-2.0

package api_test

import (
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/getkin/kin-openapi/openapi3"
	"go.yaml.in/yaml/v4"

	"github.com/sluice-push/sluice/internal/api"
	"github.com/sluice-push/sluice/push"
)

// loadOpenAPI returns the document, validated by a library, with its examples.
func loadOpenAPI(t testing.TB) *openapi3.T {
	t.Helper()
	doc, err := openapi3.NewLoader().LoadFromData(api.OpenAPI())
	if err != nil {
		t.Fatal(err)
	}
	if err := doc.Validate(t.Context(), openapi3.EnableExamplesValidation()); err != nil {
		t.Fatal(err)
	}
	return doc
}

// forEachResponse calls do for every response of every operation.
func forEachResponse(doc *openapi3.T, do func(operation, status string, response *openapi3.Response)) {
	for path, item := range doc.Paths.Map() {
		for method, operation := range item.Operations() {
			for status, response := range operation.Responses.Map() {
				do(method+" "+path, status, response.Value)
			}
		}
	}
}

// lineSchemas are the schemas of the lines of a text, by its media type.
var lineSchemas = map[string]string{"application/x-ndjson": "Receipt", "text/event-stream": "Event"}

// checkBody checks a body against the schema of its media type.
func checkBody(doc *openapi3.T, mediaType string, content *openapi3.MediaType, body any) error {
	schema := content.Schema.Value
	text, isText := body.(string)
	component, hasLines := lineSchemas[mediaType]
	component = cmp.Or(schema.Title, component)
	if !isText || !hasLines {
		return schema.VisitJSON(body, openapi3.EnableJSONSchema2020())
	}
	for line := range strings.Lines(text) {
		data, isData := strings.CutPrefix(line, "data: ")
		if mediaType == "text/event-stream" && !isData {
			continue
		}
		var value any
		if err := json.Unmarshal([]byte(data), &value); err != nil {
			return fmt.Errorf("%w in %s", err, line)
		}
		if err := doc.Components.Schemas[component].Value.VisitJSON(value, openapi3.EnableJSONSchema2020()); err != nil {
			return err
		}
	}
	return nil
}

// TestOpenAPIEveryResponseHasAnExample checks that each response with a body has an example, and each
// example against its schema, closed to members that the document does not list.
func TestOpenAPIEveryResponseHasAnExample(t *testing.T) {
	doc := loadOpenAPI(t)
	closeSchemas(t, doc)
	count := 0
	forEachResponse(doc, func(operation, status string, response *openapi3.Response) {
		if len(response.Content) == 0 && status != "204" {
			t.Errorf("%s %s: no content", operation, status)
		}
		for mediaType, content := range response.Content {
			if len(content.Examples) == 0 {
				t.Errorf("%s %s: no example", operation, status)
			}
			for name, example := range content.Examples {
				if err := checkBody(doc, mediaType, content, example.Value.Value); err != nil {
					t.Errorf("%s %s, example %s: %v", operation, status, name, err)
				}
				count++
			}
		}
	})
	if count < 100 {
		t.Errorf("only %d examples", count)
	}
}

// closeSchemas forbids unknown members of the schemas that are open to more members in the future.
// A Record consists of two schemas, which cannot be closed.
func closeSchemas(t testing.TB, doc *openapi3.T) {
	t.Helper()
	no := false
	open := *doc.Components.Schemas["Receipt"].Value
	doc.Components.Schemas["Record"].Value.AllOf[0] = openapi3.NewSchemaRef("", &open)
	openDefinition := *doc.Components.Schemas["BroadcastDefinition"].Value
	doc.Components.Schemas["Broadcast"].Value.AllOf[0] = openapi3.NewSchemaRef("", &openDefinition)
	for name, schema := range doc.Components.Schemas {
		if schema.Value.Type.Is("object") && name != "Status" && name != "NotificationFields" && name != "TargetLists" {
			schema.Value.AdditionalProperties = openapi3.BoolSchema{Has: &no}
		}
	}
	receipt := map[string]any{"status": "accepted", "attempts": []any{}}
	schema := doc.Components.Schemas["Receipt"].Value
	if err := schema.VisitJSON(receipt, openapi3.EnableJSONSchema2020()); err != nil {
		t.Fatal(err)
	}
	receipt["unknown"] = true
	if schema.VisitJSON(receipt, openapi3.EnableJSONSchema2020()) == nil {
		t.Fatal("the schema is not closed")
	}
}

// TestOpenAPIProblemExamplesMatchCode checks that the status and the title of an example are those
// of its type.
func TestOpenAPIProblemExamplesMatchCode(t *testing.T) {
	source, err := os.ReadFile("problem.go")
	if err != nil {
		t.Fatal(err)
	}
	titles := map[string]string{}
	for _, kind := range regexp.MustCompile(`kind\{http\.Status\w+, "([a-z-]+)", "\w+",\s+"([^"]+)"\}`).FindAllStringSubmatch(string(source), -1) {
		titles[kind[1]] = kind[2]
	}
	forEachResponse(loadOpenAPI(t), func(operation, status string, response *openapi3.Response) {
		content := response.Content["application/problem+json"]
		if content == nil {
			return
		}
		for name, example := range content.Examples {
			problem := example.Value.Value.(map[string]any)
			slug := problem["type"].(string)[strings.LastIndex(problem["type"].(string), "/")+1:]
			if problem["title"] != titles[slug] || fmt.Sprint(problem["status"]) != status {
				t.Errorf("%s %s, example %s: %v", operation, status, name, problem)
			}
			if !strings.Contains(*response.Description, "`"+slug+"`") {
				t.Errorf("%s %s: the description does not mention %s", operation, status, slug)
			}
		}
	})
}

// TestOpenAPIIsPortable checks rules that generators of clients need: they ignore what is next to a
// reference, and make a member with a default required.
func TestOpenAPIIsPortable(t *testing.T) {
	var doc map[string]any
	if err := yaml.Unmarshal(api.OpenAPI(), &doc); err != nil {
		t.Fatal(err)
	}
	var walk func(path string, value any)
	walk = func(path string, value any) {
		switch value := value.(type) {
		case map[string]any:
			if _, isRef := value["$ref"]; isRef && len(value) > 1 {
				t.Errorf("%s: a reference with %v", path, slices.Sorted(maps.Keys(value)))
			}
			if _, hasDefault := value["default"]; hasDefault && strings.Contains(path, "/schemas/") {
				t.Errorf("%s: a default makes the member required in generated types", path)
			}
			for name, member := range value {
				if name != "value" { // an example
					walk(path+"/"+name, member)
				}
			}
		case []any:
			for i, item := range value {
				walk(fmt.Sprint(path, "/", i), item)
			}
		}
	}
	walk("", doc)
}

// TestResponsesMatchOpenAPI makes requests of every kind, and checks that the document has the status
// of each response, and that the body matches the schema.
func TestResponsesMatchOpenAPI(t *testing.T) {
	doc := loadOpenAPI(t)
	seen := map[string]bool{}
	synctest.Test(t, func(t *testing.T) {
		queued, store := newTestAPIWithStorage(t)
		direct := newTestAPI(t)
		target := push.Target{Token: "00ff"}
		receipt := push.Receipt{ID: "019b4c5d-77b0-7d3e-9a51-3f0e6b1c2d4a", Outcome: push.Outcome{Verdict: push.Unregistered, Reason: "Unregistered", DeadSince: time.Now()}}
		store.addEvent(push.Event{ID: receipt.ID, App: "shop", Status: push.StatusUnregistered, Platform: push.APNs, Target: &target, Receipt: &receipt})
		read := "Authorization: Bearer " + readKey
		check := func(ts *testAPI, route, method, path, body string, headers ...string) {
			w := ts.request(method, path, body, headers...)
			operation := doc.Paths.Find(route).GetOperation(method)
			response := operation.Responses.Status(w.Code)
			if response == nil {
				t.Errorf("%s %s: the document has no status %d", method, route, w.Code)
				return
			}
			seen[fmt.Sprint(method, route, w.Code)] = true
			mediaType := w.Header().Get("Content-Type")
			content := response.Value.Content[mediaType]
			if content == nil {
				t.Errorf("%s %s %d: the document has no %s", method, route, w.Code, mediaType)
				return
			}
			var value any = w.Body.String()
			if mediaType != "application/x-ndjson" && strings.HasSuffix(mediaType, "json") {
				if err := json.Unmarshal(w.Body.Bytes(), &value); err != nil {
					t.Errorf("%s: %v", path, err)
				}
			}
			if err := checkBody(doc, mediaType, content, value); err != nil {
				t.Errorf("%s %s %d: %v", method, route, w.Code, err)
			}
		}
		const one, batch, byID = "/v1/apps/{app}/notifications", "/v1/apps/{app}/notifications/batch", "/v1/apps/{app}/notifications/{id}"
		id := singlePath + "/" + receipt.ID
		check(queued, one, "POST", singlePath, validBody)
		check(queued, one, "POST", singlePath, validBody, respondAsyncHeader)
		check(queued, one, "POST", singlePath, threeTokens)
		check(queued, one, "POST", singlePath, threeTokens, respondAsyncHeader)
		check(queued, one, "POST", singlePath, `{"platform":"apns","tokens":[]}`)
		check(queued, one, "POST", singlePath, `{"tittle":1}`)
		check(queued, one, "POST", singlePath, validBody, "Authorization: none")
		check(queued, one, "POST", singlePath, validBody, read)
		check(queued, one, "POST", singlePath, strings.Repeat(" ", 2<<20))
		check(queued, one, "POST", singlePath, validBody, "Content-Type: text/plain")
		check(direct, one, "POST", singlePath, validBody, respondAsyncHeader)
		for _, verdict := range []push.Verdict{push.Throttled, push.Unauthorized, push.Unavailable, push.Unknown, push.Expired, push.Refused} {
			direct.respond = func(_ context.Context, n *push.Notification) push.Receipt {
				return ended(n, push.Outcome{Verdict: verdict, Reason: "UnknownReason", HTTP: 400, RetryAfter: time.Second})
			}
			check(direct, one, "POST", singlePath, validBody)
			check(direct, batch, "POST", batchPath, validBody, ndjson)
		}
		check(queued, batch, "POST", batchPath, validBody+"\n{}\n"+validBody, ndjson)
		check(queued, batch, "POST", batchPath, validBody+"\n{}\n"+validBody, ndjson, respondAsyncHeader)
		check(queued, batch, "POST", batchPath, "{}")
		check(queued, byID, "GET", id, "", read)
		check(queued, byID, "GET", singlePath+"/none", "", read)
		check(queued, byID, "DELETE", id, "")
		check(queued, byID, "DELETE", singlePath+"/none", "")
		check(direct, byID, "GET", id, "", read)
		for _, query := range []string{"", "?cursor=1.0", "?cursor=cluster", "?limit=0"} {
			check(queued, one, "GET", singlePath+query, "", read)
		}
		check(direct, one, "GET", singlePath, "", read)
		check(queued, one, "GET", singlePath, "")
		const statsPath = "/v1/apps/{app}/stats"
		for _, query := range []string{"", "?tag=cluster", "?by=none"} {
			check(queued, statsPath, "GET", "/v1/apps/shop/stats"+query, "", read)
		}
		check(direct, statsPath, "GET", "/v1/apps/shop/stats", "", read)
		check(queued, "/v1/apps/{app}/events", "GET", feedPath+"?type=none", "", read)
		check(queued, "/v1/status", "GET", "/v1/status", "", read)
		check(queued, "/v1/audit", "GET", "/v1/audit", "", read)
		check(queued, "/v1/audit", "GET", "/v1/audit", "", "Authorization: Bearer x")
		for _, path := range []string{"/livez", "/readyz", "/healthz", "/openapi.yaml"} {
			check(queued, path, "GET", path, "")
		}
	})
	if len(seen) < 25 {
		t.Errorf("only %d kinds of responses", len(seen))
	}
}
