// SPDX-License-Identifier: Apache-2.0

package wire

// Reason is a code that says why a request got no response. The providers' error tables list the
// same codes.
type Reason string

// Reasons. The first group applies to connecting, the second to requests.
const (
	DNSFailure          Reason = "DNS_FAILURE"
	ConnectRefused      Reason = "CONNECT_REFUSED"
	ConnectTimeout      Reason = "CONNECT_TIMEOUT"
	ProxyFailed         Reason = "PROXY_FAILED" // of a Config.DialContext that uses a proxy
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
	Canceled          Reason = "LOCAL_CANCELLED"
	InvalidRequest    Reason = "LOCAL_INVALID_REQUEST"
)

// Processed says whether the peer may have processed a request that got no response. The zero value
// is Unknown.
type Processed uint8

// Values of Processed. Without a response the client can never be certain that a request was
// processed.
const (
	Unknown Processed = iota // a retry may duplicate the request
	Never                    // a retry is safe
)

// Error reports why a request got no response.
type Error struct {
	Reason    Reason
	Processed Processed
	// EndpointAtFault is set if the endpoint caused the failure, as opposed to the caller or the
	// normal end of a connection.
	EndpointAtFault bool
	// DebugData is the debug data of the peer's GOAWAY, cut off after 1 KiB. APNs puts a JSON
	// document with its reason there. It can contain sensitive data; do not log it.
	DebugData []byte
	// Err is the underlying error, or nil. It can be a context error.
	Err error
}

// Error returns the reason and the underlying error.
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

// Unwrap returns the underlying error.
func (e *Error) Unwrap() error { return e.Err }

// Unprocessed reports whether the peer provably did not process the request, so that a retry cannot
// duplicate it.
func (e *Error) Unprocessed() bool { return e.Processed == Never }

// EndpointFault reports whether the endpoint caused the failure.
func (e *Error) EndpointFault() bool { return e.EndpointAtFault }

// Code returns the reason as a string.
func (e *Error) Code() string { return string(e.Reason) }
