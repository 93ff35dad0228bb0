// SPDX-License-Identifier: Apache-2.0

package push_test

import (
	"bytes"
	"encoding/json"
	"math"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"github.com/sluice-push/sluice/push"
)

// anyValue generates values of type T with all of its fields, including ones that are added later.
func anyValue[T any]() *rapid.Generator[T] {
	text := rapid.OneOf(rapid.String(), rapid.Map(rapid.SliceOf(rapid.Byte()), func(b []byte) string { return string(b) }),
		rapid.SampledFrom([]string{"", "<b>&", "\"\\\n\t\x00\x7f", "\u2028\u2029", "\xff", "東京", "2026-11-22"}))
	raw := rapid.Map(rapid.SampledFrom([]string{"", "null", "[]", "{ \"a\" :\n[1, \"<\u2028\", \"\xff\"] }", "1e400"}),
		func(s string) json.RawMessage { return json.RawMessage(s) })
	timestamp := rapid.Custom(func(t *rapid.T) time.Time {
		zone := time.FixedZone("", 60*rapid.IntRange(-23*60, 23*60).Draw(t, "zone"))
		return rapid.SampledFrom([]time.Time{{}, time.Unix(1795350000, 0).UTC(), time.Unix(1795350000, 123_456_789).In(zone)}).Draw(t, "time")
	})
	number := rapid.Float64Range(-math.MaxFloat64, math.MaxFloat64)
	return rapid.MakeCustom[T](rapid.MakeConfig{
		Types: map[reflect.Type]*rapid.Generator[any]{
			reflect.TypeFor[json.RawMessage]():         raw.AsAny(),
			reflect.TypeFor[time.Time]():               timestamp.AsAny(),
			reflect.TypeFor[float64]():                 number.AsAny(),
			reflect.TypeFor[func(attempt int) error](): rapid.Just((func(attempt int) error)(nil)).AsAny(),
			reflect.TypeFor[string]():                  text.AsAny(),
			reflect.TypeFor[push.Platform]():           enumValue[push.Platform](text),
			reflect.TypeFor[push.Environment]():        enumValue[push.Environment](text),
			reflect.TypeFor[push.Priority]():           enumValue[push.Priority](text),
			reflect.TypeFor[push.Lane]():               enumValue[push.Lane](text),
			reflect.TypeFor[push.OnUnknown]():          enumValue[push.OnUnknown](text),
			reflect.TypeFor[push.Status]():             enumValue[push.Status](text),
		},
	})
}

func enumValue[W ~string](text *rapid.Generator[string]) *rapid.Generator[any] {
	return rapid.Map(text, func(s string) W { return W(s) }).AsAny()
}

// compareWithMarshal compares written with the output of json.Marshal, apart from the HTML escapes.
func compareWithMarshal(t *rapid.T, v any, written []byte, err error) {
	want, marshalErr := json.Marshal(v)
	if marshalErr != nil || err != nil {
		t.Fatalf("json.Marshal: %v; AppendJSON: %v", marshalErr, err)
	}
	var got bytes.Buffer
	json.HTMLEscape(&got, written)
	if diff := cmp.Diff(string(want), got.String()); diff != "" {
		t.Fatal(diff)
	}
	if bytes.ContainsAny(written, "\r\n") {
		t.Fatalf("more than one line: %q", written)
	}
}

func checkAppendJSON(t *rapid.T) {
	n := anyValue[push.Notification]().Draw(t, "notification")
	written, err := n.AppendJSON(nil)
	compareWithMarshal(t, n, written, err)
	e := anyValue[push.Event]().Draw(t, "event")
	written, err = e.AppendJSON(nil)
	compareWithMarshal(t, e, written, err)
}

func TestAppendJSONMatchesStructTags(t *testing.T) { rapid.Check(t, checkAppendJSON) }

// TestEveryByteIsQuoted puts each byte at each position of a text, alone and next to a letter outside
// ASCII.
func TestEveryByteIsQuoted(t *testing.T) {
	for c := range 256 {
		for at := range 17 {
			for _, end := range []string{"", "é", "\xff"} {
				text := strings.Repeat("~", at) + string([]byte{byte(c)}) + strings.Repeat(" ", 16-at) + end
				var back push.Receipt
				if err := json.Unmarshal(push.Receipt{ID: text}.AppendJSON(nil), &back); err != nil || back.ID != string([]rune(text)) {
					t.Fatalf("%q is read as %q: %v", text, back.ID, err)
				}
			}
		}
	}
}

func FuzzAppendJSON(f *testing.F) { f.Fuzz(rapid.MakeFuzz(checkAppendJSON)) }

func TestAppendJSONRejectsInvalidValues(t *testing.T) {
	invalidTime := time.Date(10000, 1, 1, 0, 0, 0, 0, time.UTC)
	for field, n := range map[string]*push.Notification{
		"payload": {APNs: &push.APNsBlock{Payload: json.RawMessage(`{"aps":`)}},
		"message": {FCM: &push.FCMBlock{Message: json.RawMessage("{}{}")}},
		"send_at": {SendAt: invalidTime},
	} {
		if _, err := n.AppendJSON(nil); err == nil || !strings.Contains(err.Error(), field) {
			t.Errorf("%s: %v", field, err)
		}
	}
	for field, e := range map[string]*push.Event{"at": {At: invalidTime}, "send_at": {SendAt: invalidTime}} {
		if _, err := e.AppendJSON(nil); err == nil || !strings.Contains(err.Error(), field) {
			t.Errorf("%s: %v", field, err)
		}
	}
}
