// SPDX-License-Identifier: Apache-2.0

package strictjson_test

import (
	"strings"
	"testing"

	"github.com/go-json-experiment/json"

	"github.com/sluice-push/sluice/internal/strictjson"
)

// body is an example of what a client sends.
type body struct {
	Name    string            `json:"name"`
	Count   int               `json:"count"`
	Share   float64           `json:"share"`
	Enabled bool              `json:"enabled"`
	Tags    []string          `json:"tags"`
	Labels  map[string]string `json:"labels"`
	Inner   struct {
		Name string `json:"name"`
	} `json:"inner"`
}

func TestExplainNamesFieldAndWhatIsAllowed(t *testing.T) {
	for _, test := range []struct{ text, reason, want string }{
		{``, strictjson.InvalidJSON, "must be one JSON object"},
		{"{\x00\"\x00", strictjson.InvalidJSON, "must be valid UTF-8; parsing stopped at byte 1"},
		{`{"name":"a"`, strictjson.InvalidJSON, "must be complete JSON; parsing stopped at byte 11, the end"},
		{`{"name":"a"} x`, strictjson.InvalidJSON, "must be one valid JSON object with nothing after it; parsing stopped at byte 13"},
		{`{"name":"\ud800"}`, strictjson.InvalidJSON, `name: must be valid Unicode: \ud800 to \udbff must be followed by \udc00 to \udfff, as a pair; parsing stopped at byte 9`},
		{`{"name":"\x"}`, strictjson.InvalidJSON, `name: must contain only the escape sequences \" \\ \/ \b \f \n \r \t and \u with 4 hex digits; parsing stopped at byte 9`},
		{"{\"name\":\"\n\"}", strictjson.InvalidJSON, `name: must not contain control characters; escape them in strings, such as \n; parsing stopped at byte 9`},
		{`{"name":"a","name":"b"}`, strictjson.DuplicateField, "name: must be given once"},
		{`{"nmae":"a"}`, strictjson.UnknownField, "nmae: unknown field; known fields: count, enabled, inner, labels, name, share, tags"},
		{`{"inner":{"b":1}}`, strictjson.UnknownField, "inner.b: unknown field; known fields: name"},
		{`{"Name":"a"}`, strictjson.UnknownField, "Name: unknown field; known fields: count, enabled, inner, labels, name, share, tags"},
		{`[]`, strictjson.InvalidField, "must be an object"},
		{`{"name":1}`, strictjson.InvalidField, "name: must be a string"},
		{`{"count":1.5}`, strictjson.InvalidField, "count: must be a whole number"},
		{`{"share":"1"}`, strictjson.InvalidField, "share: must be a number"},
		{`{"enabled":1}`, strictjson.InvalidField, "enabled: must be true or false"},
		{`{"tags":"a"}`, strictjson.InvalidField, "tags: must be a list"},
		{`{"tags":["a",1]}`, strictjson.InvalidField, "tags[1]: must be a string"},
		{`{"labels":[]}`, strictjson.InvalidField, "labels: must be an object whose values are strings"},
		{`{"labels":{"a":1}}`, strictjson.InvalidField, "labels.a: must be a string"},
	} {
		err := json.Unmarshal([]byte(test.text), new(body), strictjson.Options())
		if err == nil {
			t.Errorf("%q is accepted", test.text)
			continue
		}
		if e := strictjson.Explain(err, []byte(test.text)); e.Reason != test.reason || e.Error() != test.want {
			t.Errorf("%q: %s %q, want %s %q", test.text, e.Reason, e, test.reason, test.want)
		}
	}
}

func TestErrorsDoNotContainLongNames(t *testing.T) {
	secret := strings.Repeat("0a", 32)
	text := []byte(`{"labels":{"` + secret + `":1}}`)
	err := json.Unmarshal(text, new(body), strictjson.Options())
	if e := strictjson.Explain(err, text); e.Field != "labels.(…)" || strings.Contains(e.Error(), secret) {
		t.Errorf("got %q", e)
	}
}

func TestNullEntriesOfMapsAreOmitted(t *testing.T) {
	var got body
	if err := json.Unmarshal([]byte(`{"labels":{"a":null,"b":""}}`), &got, strictjson.Options()); err != nil {
		t.Fatal(err)
	}
	if _, present := got.Labels["a"]; present || len(got.Labels) != 1 {
		t.Errorf("labels are %v", got.Labels)
	}
}

func TestDepthCountsObjectsAndArrays(t *testing.T) {
	for text, want := range map[string]int{`1`: 0, `{}`: 1, `{"a":[{}],"b":1}`: 3, `{"a":"[[[\"[["}`: 1} {
		if got := strictjson.Depth([]byte(text)); got != want {
			t.Errorf("%s: %d, want %d", text, got, want)
		}
	}
}

func TestUnsignedNumberIsExplained(t *testing.T) {
	for _, text := range []string{`{"after":"1"}`, `{"after":-1}`, `{"after":1.5}`} {
		err := json.Unmarshal([]byte(text), new(struct {
			After uint64 `json:"after"`
		}), strictjson.Options())
		if got := strictjson.Explain(err, []byte(text)).Error(); got != "after: must be a whole number that is not negative" {
			t.Errorf("%s: %s", text, got)
		}
	}
}
