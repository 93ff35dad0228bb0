// SPDX-License-Identifier: Apache-2.0

package wire

// Reason says in one word why a request got no answer. The words are those of
// the transport rows in the providers' error tables.
type Reason string

// The reasons. Connecting fails with the first group, a request with the second.
const (
	DNSFailure          Reason = "DNS_FAILURE"
	ConnectRefused      Reason = "CONNECT_REFUSED"
	ConnectTimeout      Reason = "CONNECT_TIMEOUT"
	TLSHandshakeTimeout Reason = "TLS_HANDSHAKE_TIMEOUT"
	TLSServerUntrusted  Reason = "TLS_SERVER_UNTRUSTED"
	TLSClientRejected   Reason = "TLS_CLIENT_CERT_REJECTED"
	ALPNNotH2           Reason = "ALPN_NOT_H2"

	ResponseTimeout   Reason = "RESPONSE_TIMEOUT"
	LostBeforeWrite   Reason = "CONN_LOST_BEFORE_WRITE"
	LostAfterWrite    Reason = "CONN_LOST_AFTER_WRITE"
	PingTimeout       Reason = "PING_TIMEOUT"
	GoAwayUnprocessed Reason = "GOAWAY_UNPROCESSED"
	GoAwayNoAnswer    Reason = "GOAWAY_NO_ANSWER"
	GoAwayErrorCode   Reason = "GOAWAY_ERROR_CODE"
	RefusedStream     Reason = "RST_REFUSED_STREAM"
	ResetInternal     Reason = "RST_INTERNAL_ERROR"
	EnhanceYourCalm   Reason = "ENHANCE_YOUR_CALM"
	ResponseTooLarge  Reason = "RESPONSE_TOO_LARGE"
	MalformedResponse Reason = "MALFORMED_RESPONSE"
	QueueFull         Reason = "LOCAL_QUEUE_FULL"
	Cancelled         Reason = "LOCAL_CANCELLED"
)

// Processed says whether a request that got no answer can have been processed.
// The zero value is the cautious one.
type Processed uint8

// The two answers that exist. Nobody can know that it was processed.
const (
	Unknown Processed = iota // a repeat may double it
	Never                    // a repeat is safe
)

// Error is why a request got no answer.
type Error struct {
	Reason    Reason
	Processed Processed
	// Endpoint is set where the endpoint is to blame: not the caller, and not
	// the routine life of a connection.
	EndpointAtFault bool
	// Debug is what the peer said in a GOAWAY, at most 1 KiB; Apple puts the
	// JSON of its reason here. Not for logs.
	DebugData []byte
	// Err is the cause below, or nil. It can hold a context's error.
	Err error
}

// Error names the reason and the cause.
func (e *Error) Error() string {
	s := "wire: " + string(e.Reason)
	if e.Processed == Never {
		s += " (never processed)"
	}
	if e.Err != nil {
		s += ": " + e.Err.Error()
	}
	return s
}

// Unwrap returns the cause, so that errors.Is finds a context's error.
func (e *Error) Unwrap() error { return e.Err }

// Unprocessed reports whether a repeat cannot double the request.
func (e *Error) Unprocessed() bool { return e.Processed == Never }

// EndpointFault reports whether the endpoint is to blame.
func (e *Error) EndpointFault() bool { return e.EndpointAtFault }

// Code returns the reason as text.
func (e *Error) Code() string { return string(e.Reason) }
