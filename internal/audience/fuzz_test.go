// SPDX-License-Identifier: Apache-2.0

package audience_test

import (
	"bytes"
	"errors"
	"reflect"
	"strings"
	"testing"

	"github.com/go-json-experiment/json/jsontext"
	"github.com/google/go-cmp/cmp"

	"github.com/sluice-push/sluice/internal/audience"
	"github.com/sluice-push/sluice/internal/strictjson"
	"github.com/sluice-push/sluice/push"
)

// FuzzReader reads any upload in one piece and from a line in the middle. The results must be equal.
func FuzzReader(f *testing.F) {
	for _, format := range []audience.Format{audience.NDJSON, audience.CSV} {
		f.Add([]byte(upload(format)), format == audience.CSV, uint16(7))
	}
	f.Add([]byte("token,platform\n\"a\n\",apns\nb\r\n\xff"), true, uint16(1))
	f.Fuzz(func(t *testing.T, text []byte, csv bool, calls uint16) {
		cfg := config(audience.NDJSON)
		if csv {
			cfg.Format = audience.CSV
		}
		whole, finally := readAll(t, audience.NewReader(bytes.NewReader(text), cfg))
		for _, res := range whole {
			if res.Error == nil && (res.Recipient.Platform == "" || res.Recipient.Target.Kind() == push.NoTarget) {
				t.Fatalf("line %d is incomplete: %+v", res.Line, res.Recipient)
			}
		}
		r := audience.NewReader(bytes.NewReader(text), cfg)
		var parts []result
		for range min(int(calls), len(whole)) {
			var one result
			var err error
			if one.Line, err = r.Next(&one.Recipient); err != nil {
				one.Recipient = audience.Recipient{}
				one.Error, _ = errors.AsType[*audience.LineError](err)
			}
			parts = append(parts, one)
		}
		cfg.From = r.Position()
		rest, err := readAll(t, audience.NewReader(bytes.NewReader(text[cfg.From.Offset:]), cfg))
		if diff := cmp.Diff(whole, append(parts, rest...)); diff != "" || !reflect.DeepEqual(err, finally) {
			t.Errorf("errors %v and %v\n%s", finally, err, diff)
		}
	})
}

// FuzzTemplate puts any text and value into a message. If it compiles, the payload must remain JSON,
// and a value must have the same effect in it as in a title.
func FuzzTemplate(f *testing.F) {
	for _, text := range []string{"", "{{name}}", "a {{ name | b }} c", "{{name|}}{{|{{}}", "{{", "}}{{name}}{{", `"\{{name|"}}`} {
		f.Add(text, `"},"a":[`)
	}
	f.Fuzz(func(t *testing.T, text, value string) {
		quoted, err := jsontext.AppendQuote(nil, text)
		if err != nil || value == "" {
			return // not valid UTF-8, or not set
		}
		if _, err := jsontext.AppendQuote(nil, value); err != nil {
			return
		}
		c, err := audience.Compile(&audience.Definition{Message: jsontext.Value(`{"title":` + string(quoted) + `,"apns":{"payload":{"a":` + string(quoted) + `}}}`)})
		if err != nil {
			if e, ok := errors.AsType[*strictjson.Error](err); !ok || !strings.HasPrefix(e.Field, "message.") {
				t.Fatal(err)
			}
			return
		}
		n, r := new(push.Notification), audience.Recipient{Platform: push.APNs}
		for _, name := range c.Variables() {
			r.Variables = append(r.Variables, audience.Variable{Name: name, Value: value})
		}
		if err := c.Render(&r, 0, n); err != nil {
			t.Fatal(err)
		}
		var payload map[string]string
		if err := unmarshal(n.APNs.Payload, &payload); err != nil || len(payload) != 1 || payload["a"] != n.Title {
			t.Errorf("%v: the title is %q, the payload %s", err, n.Title, n.APNs.Payload)
		}
	})
}

// FuzzDefinition compiles any message.
func FuzzDefinition(f *testing.F) {
	f.Add([]byte(`{"title":"{{a}}","platforms":{"fcm":{"languages":{"de":{"data":{"a":"{{b|c}}"}}}}},"languages":{"de":{"apns":{"payload":{"a":null}}}}}`))
	f.Fuzz(func(t *testing.T, message []byte) {
		c, err := audience.Compile(&audience.Definition{Message: message})
		if err != nil {
			if _, ok := errors.AsType[*strictjson.Error](err); !ok {
				t.Fatal(err)
			}
			return
		}
		for s, n := range c.Samples() {
			if n.APNs != nil && len(n.APNs.Payload) > 0 && !jsontext.Value(n.APNs.Payload).IsValid() {
				t.Errorf("%+v: %s", s, n.APNs.Payload)
			}
		}
	})
}
