// SPDX-License-Identifier: Apache-2.0

// Package script makes the mocked services fail as a script specifies. A script is a list of faults,
// each with conditions and effects. An Injector decides what happens to each request, and applies the
// faults that affect whole connections. The services decide how to respond without faults.
package script

import "time"

// Names of the services in Fault.Service.
const (
	APNs       = "apns"
	APNsManage = "apns_manage" // APNs' channel management
	FCM        = "fcm"
	OAuth      = "oauth"
	WebPush    = "webpush"
)

var services = []string{APNs, APNsManage, FCM, OAuth, WebPush}

// Script is a list of faults. Of the faults whose conditions a request meets, the first one applies.
type Script struct {
	Faults []Fault `yaml:"faults"`
}

// Fault consists of conditions and effects. A condition that is left out is always met.
type Fault struct {
	// Service is apns, apns_manage, fcm, oauth or webpush; default all of them.
	Service string `yaml:"service,omitempty"`
	// Endpoint is the address of an endpoint, or its number from 0; default, and "*": all.
	Endpoint string `yaml:"endpoint,omitempty"`
	// Token is a device token, or a prefix followed by *; the hex digits of an APNs token in either
	// case. For FCM it is any target, for Web Push the path after /push/, for broadcasts the channel
	// ID.
	Token string `yaml:"token,omitempty"`
	// Share is the share of the matching requests that are affected, chosen at random, above 0 and
	// at most 1; default 1. For faults of whole connections it is the share of the connections.
	Share float64 `yaml:"share,omitempty"`
	// TokenShare is the share of the device tokens that are affected, always the same ones; default
	// 1.
	TokenShare float64 `yaml:"token_share,omitempty"`
	// AfterIdle limits the fault to connections that have had no request for that long at least
	// once. With Status 500 this is a known failure of APNs, which lasts until the client opens a
	// new connection.
	AfterIdle time.Duration `yaml:"after_idle,omitempty"`
	// Times is how often the fault applies in total; default unlimited.
	Times int `yaml:"times,omitempty"`
	// From and Until limit the fault in time, counted from the start of the script; default from the
	// start, without end.
	From  time.Duration `yaml:"from,omitempty"`
	Until time.Duration `yaml:"until,omitempty"`

	// Status is the status of the response. Reason is put where the service puts it: APNs' reason,
	// FCM's error code, OAuth2's error. The default is the most common reason for the status.
	// RetryAfter adds the header field. Timestamp is the timestamp of a 410 of APNs, in milliseconds.
	Status     int           `yaml:"status,omitempty"`
	Reason     string        `yaml:"reason,omitempty"`
	RetryAfter time.Duration `yaml:"retry_after,omitempty"`
	Timestamp  int64         `yaml:"timestamp,omitempty"`

	// Body replaces the body of the response, which then has none of the header fields of the
	// service. With Status, default 200, it is the response of a proxy or firewall, or an unusual
	// one of the token endpoint. ContentType is text/html, application/json or text/plain by
	// default, according to the first character. In a response of the token endpoint,
	// ${access_token} is replaced by a new access token.
	Body        *string `yaml:"body,omitempty"`
	ContentType string  `yaml:"content_type,omitempty"`

	// Delay delays the response. If P99 is set, the delay has a log-normal distribution with Delay
	// as its median.
	Delay time.Duration `yaml:"delay,omitempty"`
	P99   time.Duration `yaml:"p99,omitempty"`
	// RampTo makes the delay grow linearly, from Delay at From to RampTo at Until, which must be set.
	RampTo time.Duration `yaml:"ramp_to,omitempty"`
	// ServiceRate is the number of requests a second that each connection handles, one after the
	// other. Requests that arrive faster wait in a queue.
	ServiceRate float64 `yaml:"service_rate,omitempty"`
	// Quota responds 429 to requests that exceed it.
	Quota *Quota `yaml:"quota,omitempty"`
	// DropResponse processes the request, as the ledger shows, and sends no response.
	DropResponse bool `yaml:"drop_response,omitempty"`
	// RST refuses the stream, unprocessed, with that HTTP/2 error code: REFUSED_STREAM,
	// INTERNAL_ERROR, …
	RST string `yaml:"rst,omitempty"`

	// GoAway ends connections gracefully.
	GoAway *GoAway `yaml:"goaway,omitempty"`
	// Reset ends connections with a TCP reset.
	Reset *Reset `yaml:"reset,omitempty"`
	// Stall stops responses while the TCP connection stays open: requests are read and counted, and
	// neither processed nor answered.
	Stall *Stall `yaml:"stall,omitempty"`
	// Blackhole stops reading too: the operating system accepts connections, their handshake does
	// not end, and the writes of the client block once the buffers are full. Connections that are
	// open when the fault begins freeze, and continue when it ends.
	Blackhole bool `yaml:"blackhole,omitempty"`
	// MaxStreams is a stream limit that is announced immediately, and kept until the fault ends.
	MaxStreams int `yaml:"max_streams,omitempty"`

	// Refuse closes the listener, so that connection attempts are refused. Open connections stay.
	Refuse bool `yaml:"refuse,omitempty"`
	// AcceptDelay delays the TLS handshake of new connections, TLSDelay makes it take longer.
	AcceptDelay time.Duration `yaml:"accept_delay,omitempty"`
	TLSDelay    time.Duration `yaml:"tls_delay,omitempty"`

	// Clock is how far the clock of the service is ahead of the client's, or behind it if negative.
	// The service uses it to check the times in APNs' provider tokens and OAuth2's assertions. It
	// affects all endpoints of apns and oauth.
	Clock time.Duration `yaml:"clock,omitempty"`
}

// GoAway sends GOAWAY, and closes the connection when the requests that are still processed have
// been answered.
type GoAway struct {
	// Every sends it after that many requests of a connection; 0 sends it once, on all connections
	// that are open when the fault begins.
	Every int `yaml:"every,omitempty"`
	// LastOffset is added to the number of requests received: -10 leaves the last ten unprocessed,
	// except those that have been answered. To have requests in flight, give the fault a Delay.
	LastOffset int `yaml:"last_offset,omitempty"`
	// Code is the HTTP/2 error code; default NO_ERROR.
	Code string `yaml:"code,omitempty"`
	// Debug is the debug data. APNs puts {"reason":"…"} there.
	Debug string `yaml:"debug,omitempty"`
}

// Reset closes a connection with a TCP reset.
type Reset struct {
	// Every resets after that many requests of a connection; 0 resets once, all connections that are
	// open when the fault begins.
	Every int `yaml:"every,omitempty"`
	// Processed is the share, 0 to 1, of the requests in flight that were processed, oldest first;
	// default none.
	Processed float64 `yaml:"processed,omitempty"`
}

// Stall stops the responses of a connection that stays open.
type Stall struct {
	// After is the number of requests of a connection that are answered first; default none.
	After int `yaml:"after,omitempty"`
	// AnswerPings acknowledges PING, so that only a response timeout detects the stall.
	AnswerPings bool `yaml:"answer_pings,omitempty"`
}

// affectsRequests reports whether the fault has an effect on single requests.
func (f *Fault) affectsRequests() bool {
	return f.Status != 0 || f.Body != nil || f.Delay != 0 || f.RampTo != 0 || f.ServiceRate != 0 || f.Quota != nil || f.DropResponse || f.RST != "" ||
		f.Stall != nil || f.GoAway != nil && f.GoAway.Every > 0 || f.Reset != nil && f.Reset.Every > 0
}

// affectsConns reports whether the fault has an effect on connections.
func (f *Fault) affectsConns() bool {
	return f.GoAway != nil || f.Reset != nil || f.Stall != nil || f.Blackhole || f.MaxStreams > 0 || f.Refuse ||
		f.AcceptDelay > 0 || f.TLSDelay > 0
}
