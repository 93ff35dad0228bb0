// SPDX-License-Identifier: Apache-2.0

package providertest

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"testing"

	"github.com/sluice-push/sluice/push"
	"github.com/sluice-push/sluice/wire"
)

// ErrorCase is one of the table of all that can come of an attempt: testdata/provider-errors.json beside the providers.
type ErrorCase struct {
	Provider string
	Service  string
	// Status is a number, or a word for those that no other line has: "5xx".
	Status        any
	Code          string
	Class         string
	Match         string
	Retryable     bool
	RetryAfter    string   `json:"retry_after"`
	EndpointFault bool     `json:"counts_as_endpoint_failure"`
	ForgetToken   bool     `json:"device_token_should_be_deleted"`
	Scope         string   `json:"backoff_scope"`
	Close         bool     `json:"close_connection"`
	Unprocessed   bool     `json:"request_unprocessed"`
	MinBackoff    *float64 `json:"min_backoff_s"`
}

// ErrorCases reads a provider's part of the table; "transport" is what every provider meets. The test must be of a package
// beside this one.
func ErrorCases(t testing.TB, provider string) (its []ErrorCase) {
	t.Helper()
	var all []ErrorCase
	readJSON(t, "../testdata/provider-errors.json", &all)
	for _, l := range all {
		if l.Provider == provider {
			its = append(its, l)
		}
	}
	if len(its) == 0 {
		t.Fatalf("the table has no line for %s", provider)
	}
	return its
}

// String names the line, as a test's name.
func (l ErrorCase) String() string {
	return fmt.Sprintf("%s%s/%v %s %s", l.Provider, l.Service, l.Status, l.Code, l.Class)
}

// Statuses returns the status codes that the line stands for: its own, or those that its word has in words.
func (l ErrorCase) Statuses(words map[string][]int) []int {
	switch s := l.Status.(type) {
	case float64:
		return []int{int(s)}
	case string:
		return words[s]
	}
	return nil
}

// VerdictFor is what the class of a line, or of an Exchange, must be judged as.
func VerdictFor(class string) push.Verdict {
	switch class {
	case "accepted":
		return push.Accepted
	case "unregistered_token":
		return push.Unregistered
	case "credential":
		return push.Unauthorized
	case "quota":
		return push.Throttled
	case "invalid_token", "invalid_request", "topic", "payload_too_large":
		return push.Refused
	case "provider_unavailable", "provider_internal":
		return push.Unavailable
	}
	panic("no verdict for the class " + class)
}

// TransportError is how an attempt of a line of the transport ends, and what it must be judged as.
func (l ErrorCase) TransportError() (lost *wire.Error, want push.Verdict) {
	lost = &wire.Error{Reason: wire.Reason(l.Code), EndpointAtFault: l.EndpointFault}
	if l.Unprocessed {
		lost.Processed = wire.Never
	}
	switch {
	case l.Code == string(wire.Cancelled):
		lost.Err = context.Canceled
		return lost, push.Abandoned
	case l.Unprocessed:
		return lost, push.Unsent
	}
	return lost, push.Unknown
}

// SkipReason returns why no attempt ends in a line of the transport, or "".
func (l ErrorCase) SkipReason() string {
	switch l.Code {
	case "DNS_FAILURE", "CONNECT_REFUSED", "CONNECT_TIMEOUT", "TLS_HANDSHAKE_TIMEOUT", "TLS_SERVER_UNTRUSTED", "TLS_CLIENT_CERT_REJECTED", "ALPN_NOT_H2":
		return "the pool connects before it leases, so no attempt meets this; the pool itself blames the endpoint"
	case "BREAKER_OPEN":
		return "the pool leases nothing then, so there is no attempt"
	}
	return ""
}

// Exchange is a request and its answer as they were recorded: testdata/provider-exchanges.json beside the providers.
type Exchange struct {
	ID, Provider string
	Request      struct {
		Method, URL string // where it is HTTP/1.1
		Pseudo      Pairs  // where it is HTTP/2
		Headers     Pairs
		BodyJSON    json.RawMessage `json:"body_json"`
		BodyRule    string          `json:"body_rule"`
		Body        string          `json:"body_base64url"`
	}
	Response struct {
		Status   int   // where it is HTTP/1.1
		Pseudo   Pairs // where it is HTTP/2
		Headers  Pairs
		BodyJSON json.RawMessage `json:"body_json"`
	}
	Variants []struct {
		Message string
		Detail  json.RawMessage `json:"append_detail"`
	}
	Expect struct {
		Class     string
		Retryable bool
		Forget    bool  `json:"device_token_should_be_deleted"`
		Fault     *bool `json:"counts_as_endpoint_failure"`
	}
}

// Exchanges reads a provider's exchanges. The test must be of a package beside this one.
func Exchanges(t testing.TB, provider string) (its []Exchange) {
	t.Helper()
	var all struct{ Exchanges []Exchange }
	readJSON(t, "../testdata/provider-exchanges.json", &all)
	for _, e := range all.Exchanges {
		if e.Provider == provider {
			its = append(its, e)
		}
	}
	return its
}

// ResponseWithBody is the recorded answer with another body.
func (e Exchange) ResponseWithBody(body []byte) *wire.Response {
	a := &wire.Response{Status: e.Response.Status, Body: body}
	for _, h := range e.Response.Headers {
		a.Header = append(a.Header, wire.Field{Name: h[0], Value: h[1]})
	}
	if status, err := json.Number(e.Response.Pseudo.Get(":status")).Int64(); err == nil {
		a.Status = int(status)
	}
	return a
}

// Pairs are header fields, in their order.
type Pairs [][2]string

// Get returns the value of the first of that name, or "".
func (p Pairs) Get(name string) string {
	for _, pair := range p {
		if pair[0] == name {
			return pair[1]
		}
	}
	return ""
}

func readJSON(t testing.TB, file string, into any) {
	t.Helper()
	text, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	if err := json.Unmarshal(text, into); err != nil {
		t.Fatalf("%s: %v", file, err)
	}
}
