// SPDX-License-Identifier: Apache-2.0

package h2

import (
	"slices"
	"strconv"
	"strings"
	"time"

	"golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"
)

// Request is one whole request. The HTTP/1.1 server of the mock uses it too.
type Request struct {
	Method, Path, Authority string
	Header                  []hpack.HeaderField
	Body                    []byte
	TooLong                 bool // the body was too long and was cut at MaxBody

	// The service that handles the request sets the fields below, for the script and the ledger.

	Token       string // device token, or what Fault.Token and the ledger use in its place
	Sender      string // what Quota scope sender counts: for Web Push the service and the VAPID key
	Multicast   bool   // the target is a topic, a condition or a channel
	Collapsible bool   // the FCM message has a collapse_key
	ID          string // ID of the notification, from the client or generated
	// Plaintext is a decrypted Web Push message. Undecryptable is the reason why it could not be
	// decrypted.
	Plaintext, Undecryptable string
}

// MaxBody is the length in bytes at which a body is cut: the receive window of a stream, which is never
// refilled. All services reject shorter bodies as too long.
const MaxBody = streamWindow

// Get returns the first header field of that name, or "".
func (r *Request) Get(name string) string {
	for i := range r.Header {
		if r.Header[i].Name == name {
			return r.Header[i].Value
		}
	}
	return ""
}

// Has reports whether there is a header field of that name, even an empty one.
func (r *Request) Has(name string) bool {
	return slices.ContainsFunc(r.Header, func(f hpack.HeaderField) bool { return f.Name == name })
}

// Credential returns the credential in the authorization field, and whether it has that scheme.
// Schemes are case-insensitive.
func (r *Request) Credential(scheme string) (credential string, ok bool) {
	text := r.Get("authorization")
	if len(text) <= len(scheme)+1 || !strings.EqualFold(text[:len(scheme)], scheme) || text[len(scheme)] != ' ' {
		return "", false
	}
	return strings.TrimSpace(text[len(scheme)+1:]), true
}

// Response is the response of a service, before faults are applied.
type Response struct {
	Status   int
	Reason   string // the error code of the service, for the ledger
	Header   []hpack.HeaderField
	Body     []byte
	Accepted bool // the service accepted the notification; this can change the stream limit
}

// AddRetryAfter adds a retry-after field in whole seconds, unless d is 0.
func (r *Response) AddRetryAfter(d time.Duration) {
	if d > 0 {
		r.Header = append(r.Header, Field("retry-after", strconv.Itoa(int(d.Round(time.Second)/time.Second))))
	}
}

// Field returns a header field.
func Field(name, value string) hpack.HeaderField { return hpack.HeaderField{Name: name, Value: value} }

// UniqueField returns a header field whose value occurs once and is therefore kept out of the
// compression table.
func UniqueField(name, value string) hpack.HeaderField {
	return hpack.HeaderField{Name: name, Value: value, Sensitive: true}
}

// Decision is what happens to one request. The first of Reset, RST and Silent that is set replaces
// the response.
type Decision struct {
	Response  Response
	Processed bool          // whether the service handled the request
	Delay     time.Duration // before the response
	Silent    bool          // send no response
	RST       bool          // send RST_STREAM with Code
	Code      http2.ErrCode
	Reset     bool // end the connection with a TCP reset
	// ProcessedShare is the share, 0 to 1, of the requests in flight that count as processed when
	// the connection is reset.
	ProcessedShare float64
	GoAway         *GoAway // send GOAWAY after this request
	Fault          string  // for the ledger
}

// GoAway describes a GOAWAY frame.
type GoAway struct {
	// LastOffset is 0 or negative. It is added to the number of requests received so far, which
	// gives the last request that is still processed.
	LastOffset int
	Code       http2.ErrCode
	Debug      string
}
