// SPDX-License-Identifier: Apache-2.0

package script_test

import (
	"fmt"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/sluice-push/sluice/mockprovider/script"
)

const sample = `
faults:
  - service: apns
    endpoint: 0
    token: 00fc*
    share: 0.5
    times: 3
    from: 1s
    until: 1m
    status: 410
    reason: Unregistered
    timestamp: 1454948015990
  - endpoint: "*"
    delay: 45ms
    p99: 250ms
  - goaway: {every: 100, last_offset: -10, code: NO_ERROR, debug: '{"reason":"Shutdown"}'}
  - {reset: {every: 5, processed: 0.5}}
  - {"stall": {"after": 10, "answer_pings": true}}
  - blackhole: true
    endpoint: 127.0.0.1:2197
  - {service: oauth, clock: -1h1m}
`

func TestScriptIsParsedAndWrittenBack(t *testing.T) {
	got, err := script.Parse([]byte(sample))
	if err != nil {
		t.Fatal(err)
	}
	want := script.Script{Faults: []script.Fault{
		{Service: "apns", Endpoint: "0", Token: "00fc*", Share: 0.5, Times: 3, From: time.Second, Until: time.Minute,
			Status: 410, Reason: "Unregistered", Timestamp: 1454948015990},
		{Endpoint: "*", Delay: 45 * time.Millisecond, P99: 250 * time.Millisecond},
		{GoAway: &script.GoAway{Every: 100, LastOffset: -10, Code: "NO_ERROR", Debug: `{"reason":"Shutdown"}`}},
		{Reset: &script.Reset{Every: 5, Processed: 0.5}},
		{Stall: &script.Stall{After: 10, AnswerPings: true}},
		{Blackhole: true, Endpoint: "127.0.0.1:2197"},
		{Service: "oauth", Clock: -61 * time.Minute},
	}}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
	text, err := got.YAML()
	if err != nil {
		t.Fatal(err)
	}
	again, err := script.Parse(text)
	if diff := cmp.Diff(want, again); err != nil || diff != "" {
		t.Error(err, diff)
	}
}

// goType matches what only an error of a library contains: a Go type or a tag of YAML.
var goType = regexp.MustCompile(`script\.[A-Z]|\[\]|float64|int64|map\[|interface|!!|cannot construct`)

func TestParseNamesLineAndKeyOfMistakes(t *testing.T) {
	for text, want := range map[string]string{
		"faults:\n- status: 500\n  tokens: x\n":                "line 3: tokens: no such key",
		"faults:\n- status: many\n":                            "line 2",
		"faults:\n- delay: 1s\n- service: smtp\n  status: 500": "line 3: faults[1].service",
		"faults:\n- share: 2\n  status: 500\n":                 "line 2: faults[0].share",
		"faults:\n- token_share: -1\n  status: 500\n":          "faults[0].token_share",
		"faults:\n- times: -1\n  status: 500\n":                "faults[0].times",
		"faults:\n- from: 2s\n  until: 1s\n  status: 500\n":    "faults[0].until",
		"faults:\n- status: 42\n":                              "faults[0].status",
		"faults:\n- delay: -1s\n":                              "faults[0].delay",
		"faults:\n- status: 500\n  content_type: x\n":          "faults[0].content_type",
		"faults:\n- delay: 1s\n  p99: 1s\n":                    "faults[0].p99",
		"faults:\n- rst: NO_SUCH\n":                            "faults[0].rst",
		"faults:\n- goaway: {code: NO_SUCH}\n":                 "faults[0].goaway.code",
		"faults:\n- goaway: {last_offset: 1}\n":                "faults[0].goaway",
		"faults:\n- reset: {processed: 2}\n":                   "faults[0].reset",
		"faults:\n- stall: {after: -1}\n":                      "faults[0].stall",
		"faults:\n- max_streams: -1\n":                         "faults[0].max_streams",
		"faults:\n- delay: 1s\n  ramp_to: 2s\n":                "faults[0].ramp_to",
		"faults:\n- service_rate: -1\n":                        "faults[0].service_rate",
		"faults:\n- quota: {scope: team, limit: 1, per: 1m}\n": "faults[0].quota.scope",
		"faults:\n- quota: {scope: device, per: 1m}\n":         "faults[0].quota.limit",
		"faults:\n- quota: {scope: device, limit: 1}\n":        "faults[0].quota.per",
		"faults:\n- service: apns\n":                           "the fault has no effect",
		"faults:\n- refuse: true\n  token: aa\n":               "faults[0].token",
		"faults:\n- clock: 1h\n  token: aa\n":                  "faults[0].token",
		"fault:\n- status: 500\n":                              "line 1",
		"faults: [":                                            "line 2",
		"faults:\n- delay: 5\n":                                "line 2: faults[0].delay: must be a duration (write it as",
		"faults:\n- reset: true\n":                             "line 2: faults[0].reset: must be an object with some of the keys every, processed",
		"faults: [{goaway: [1]}]":                              "line 1: faults[0].goaway: must be an object with some of the keys every, last_offset, code, debug",
		"faults:\n- quota: 5\n- stall: {after: x}":             "line 2: faults[0].quota: must be an object with some of the keys scope",
		"faults:\n- status: 500\n- stall: {after: x}":          "line 3: faults[1].stall.after: must be a whole number",
		"faults: {}":                     "line 1: faults: must be a list",
		"faults: [500]":                  "line 1: faults[0]: must be an object with some of the keys service,",
		"[]":                             "line 1: must be an object with some of the keys faults",
		"faults: [{share: []}]":          "line 1: faults[0].share: must be a number",
		"faults: [{token: {}}]":          "line 1: faults[0].token: must be a text",
		"faults: [{timestamp: 1e30}]":    "line 1: faults[0].timestamp: must be a whole number",
		"faults: [{drop_response: 1}]":   "line 1: faults[0].drop_response: must be true or false",
		"faults: [{from: 2026-01-01}]":   "line 1: faults[0].from: must be a duration",
		"a: &a {}\nfaults: [*a, true]\n": "line 2: faults[1]: must be an object",
	} {
		_, err := script.Parse([]byte(text))
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%q: got %v, want %q in it", text, err, want)
		}
		if goType.MatchString(fmt.Sprint(err)) {
			t.Errorf("%q: the error has a Go type: %v", text, err)
		}
	}
}

// FuzzParse checks that every script that Parse accepts is the same after YAML and Parse.
func FuzzParse(f *testing.F) {
	f.Add([]byte(sample))
	f.Add([]byte(`{"faults":[{"status":500,"share":0.1}]}`))
	f.Fuzz(func(t *testing.T, text []byte) {
		s, err := script.Parse(text)
		if err != nil {
			return
		}
		out, err := s.YAML()
		if err != nil {
			t.Fatal(err)
		}
		if again, err := script.Parse(out); err != nil || !cmp.Equal(s, again, cmpopts.EquateEmpty()) {
			t.Fatalf("%v\n%s", err, cmp.Diff(s, again))
		}
	})
}
