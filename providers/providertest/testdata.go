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

// ErrorCase is one row of the error table, ../testdata/provider-errors.json.
type ErrorCase struct {
	Provider string
	Service  string
	// Status is a number, or a text such as "5xx" for the statuses that have no row of their own.
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

// ErrorCases returns the rows of a provider, or those of "transport", which apply to every
// provider. The test must be in a package next to this one.
func ErrorCases(t testing.TB, provider string) (cases []ErrorCase) {
	t.Helper()
	var all []ErrorCase
	readJSON(t, "../testdata/provider-errors.json", &all)
	for _, c := range all {
		if c.Provider == provider {
			cases = append(cases, c)
		}
	}
	if len(cases) == 0 {
		t.Fatalf("the error table has no row for %s", provider)
	}
	return cases
}

// String returns a name for the row's test.
func (c ErrorCase) String() string {
	return fmt.Sprintf("%s%s/%v %s %s", c.Provider, c.Service, c.Status, c.Code, c.Class)
}

// Statuses returns the status codes of the row: its own, or those of its text in ranges.
func (c ErrorCase) Statuses(ranges map[string][]int) []int {
	switch s := c.Status.(type) {
	case float64:
		return []int{int(s)}
	case string:
		return ranges[s]
	}
	return nil
}

// VerdictFor returns the verdict for the class of an ErrorCase or an Exchange.
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

// TransportError returns the error of a transport row, and the verdict for it.
func (c ErrorCase) TransportError() (lost *wire.Error, want push.Verdict) {
	lost = &wire.Error{Reason: wire.Reason(c.Code), EndpointAtFault: c.EndpointFault}
	if c.Unprocessed {
		lost.Processed = wire.Never
	}
	switch {
	case c.Code == string(wire.Canceled):
		lost.Processed, lost.Err = wire.Never, context.Canceled // afterwards the result is unknown
		return lost, push.Abandoned
	case c.Unprocessed:
		return lost, push.Unsent
	}
	return lost, push.Unknown
}

// SkipReason returns why an attempt cannot end with the error of a transport row, or "".
func (c ErrorCase) SkipReason() string {
	switch c.Code {
	case "DNS_FAILURE", "CONNECT_REFUSED", "CONNECT_TIMEOUT", "PROXY_FAILED", "TLS_HANDSHAKE_TIMEOUT", "TLS_SERVER_UNTRUSTED", "TLS_CLIENT_CERT_REJECTED", "ALPN_NOT_H2":
		return "the pool connects before it returns a lease, so no attempt ends this way; the pool counts the failure"
	case "BREAKER_OPEN":
		return "the pool returns no lease, so there is no attempt"
	}
	return ""
}

// Exchange is a recorded request and its response, from ../testdata/provider-exchanges.json.
type Exchange struct {
	ID, Provider string
	Request      struct {
		Method, URL string // for HTTP/1.1
		Pseudo      Pairs  // for HTTP/2
		Headers     Pairs
		BodyJSON    json.RawMessage `json:"body_json"`
		BodyRule    string          `json:"body_rule"`
		Body        string          `json:"body_base64url"`
	}
	Response struct {
		Status   int   // for HTTP/1.1
		Pseudo   Pairs // for HTTP/2
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

// Exchanges returns a provider's recorded exchanges. The test must be in a package next to this
// one.
func Exchanges(t testing.TB, provider string) (exchanges []Exchange) {
	t.Helper()
	var file struct{ Exchanges []Exchange }
	readJSON(t, "../testdata/provider-exchanges.json", &file)
	for _, e := range file.Exchanges {
		if e.Provider == provider {
			exchanges = append(exchanges, e)
		}
	}
	return exchanges
}

// ResponseWithBody returns the recorded response with another body.
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

// Pairs are header fields in their original order.
type Pairs [][2]string

// Get returns the value of the first field with that name, or "".
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
