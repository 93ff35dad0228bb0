// SPDX-License-Identifier: Apache-2.0

package mockprovider

import (
	"errors"
	"fmt"
	"regexp"
	"strings"
	"time"

	"go.yaml.in/yaml/v4"
	"golang.org/x/net/http2"
)

// Script is what goes wrong, in order: of the faults that a request meets, the first that has an effect wins.
type Script struct {
	Faults []Fault `yaml:"faults"`
}

// Fault says where, when and how often something goes wrong, and what. Every condition that is left out holds always.
type Fault struct {
	// Service is apns, apns_manage, fcm, oauth or webpush; default all of them.
	Service string `yaml:"service,omitempty"`
	// Endpoint is an endpoint's address, or its number from 0; default, and "*": all.
	Endpoint string `yaml:"endpoint,omitempty"`
	// Token is a device token (FCM: any target; Web Push: the path after /push/; broadcasts: the channel), or its beginning with a * behind.
	Token string `yaml:"token,omitempty"`
	// Share is the part, above 0 and at most 1, of the requests concerned that are hit, at random; default 1. For faults
	// of whole connections it is the part of the connections.
	Share float64 `yaml:"share,omitempty"`
	// TokenShare is the part of device tokens that are hit, always the same ones; default 1.
	TokenShare float64 `yaml:"token_share,omitempty"`
	// AfterIdle limits it to connections that once had no request for that long, and have stuck in it since. With a Status
	// of 500 that is a trouble known of APNs, which only a new connection cures.
	AfterIdle time.Duration `yaml:"after_idle,omitempty"`
	// Times is how often it goes wrong in all; default without end.
	Times int `yaml:"times,omitempty"`
	// From and Until bound it in time, counted from when the script began; default from the start, without end.
	From  time.Duration `yaml:"from,omitempty"`
	Until time.Duration `yaml:"until,omitempty"`

	// Status answers with that status, and Reason in the service's own shape: APNs' reason, FCM's error code, OAuth2's
	// error. A Reason left out is the status's most common one. RetryAfter adds the header, and Timestamp is what a 410
	// of APNs says, in milliseconds.
	Status     int           `yaml:"status,omitempty"`
	Reason     string        `yaml:"reason,omitempty"`
	RetryAfter time.Duration `yaml:"retry_after,omitempty"`
	Timestamp  int64         `yaml:"timestamp,omitempty"`

	// Delay holds the answer back by that long. P99, if it is set, makes it log-normal with Delay as its median.
	Delay time.Duration `yaml:"delay,omitempty"`
	P99   time.Duration `yaml:"p99,omitempty"`
	// RampTo lets Delay grow evenly, from its own value at From to this at Until, which then must be set.
	RampTo time.Duration `yaml:"ramp_to,omitempty"`
	// ServiceRate is how many requests a second each connection works off, one after the other: what comes faster waits in
	// line, and its answers come later and later.
	ServiceRate float64 `yaml:"service_rate,omitempty"`
	// Quota answers 429 to what goes beyond it.
	Quota *Quota `yaml:"quota,omitempty"`
	// DropResponse takes the request, as the ledger shows, and never answers it.
	DropResponse bool `yaml:"drop_response,omitempty"`
	// RST refuses the stream unprocessed, with that HTTP/2 error code: REFUSED_STREAM, INTERNAL_ERROR, …
	RST string `yaml:"rst,omitempty"`

	// GoAway ends connections politely.
	GoAway *GoAway `yaml:"goaway,omitempty"`
	// Reset ends connections by a TCP reset.
	Reset *Reset `yaml:"reset,omitempty"`
	// Stall falls silent while TCP goes on: what arrives is read, counted and never answered or processed.
	Stall *Stall `yaml:"stall,omitempty"`
	// Blackhole does not even read: connections are accepted by the system, their handshake never ends, and the peer's
	// writes block once buffers are full. Those that are open when it begins freeze, and thaw when it ends.
	Blackhole bool `yaml:"blackhole,omitempty"`
	// MaxStreams is a stream limit that is announced at once, and kept until the fault ends.
	MaxStreams int `yaml:"max_streams,omitempty"`

	// Refuse closes the listener, so that connects are refused. Connections that are open stay.
	Refuse bool `yaml:"refuse,omitempty"`
	// AcceptDelay and TLSDelay hold back new connections before the handshake, and within it.
	AcceptDelay time.Duration `yaml:"accept_delay,omitempty"`
	TLSDelay    time.Duration `yaml:"tls_delay,omitempty"`

	// Clock is how far the service's clock is ahead of the client's, or behind if it is negative: by it the service judges
	// the times that clients sign in APNs' provider tokens and OAuth2's assertions. It concerns apns and oauth as a whole.
	Clock time.Duration `yaml:"clock,omitempty"`
}

// GoAway sends GOAWAY and closes the connection once what it still processes has been answered.
type GoAway struct {
	// Every sends it after each so many requests of a connection; 0 sends it once, on all connections at hand when the
	// fault begins.
	Every int `yaml:"every,omitempty"`
	// LastOffset is added to the number of requests taken: -10 leaves the last ten unprocessed, but for those that have
	// been answered by then. Give the answers a Delay to have some in flight.
	LastOffset int `yaml:"last_offset,omitempty"`
	// Code is the HTTP/2 error code; default NO_ERROR.
	Code string `yaml:"code,omitempty"`
	// Debug is the debug data; APNs puts {"reason":"…"} there.
	Debug string `yaml:"debug,omitempty"`
}

// Reset closes a connection so that the peer's system sees a TCP reset.
type Reset struct {
	// Every resets after each so many requests of a connection; 0 resets once, all connections at hand when the fault
	// begins.
	Every int `yaml:"every,omitempty"`
	// Processed is the part, 0 to 1, of the requests in flight that had been processed, oldest first; default none.
	Processed float64 `yaml:"processed,omitempty"`
}

// Stall is silence on a connection that stands.
type Stall struct {
	// After is how many requests of a connection are answered first; default none.
	After int `yaml:"after,omitempty"`
	// AnswerPings keeps answering PING, so that only a response timeout can tell.
	AnswerPings bool `yaml:"answer_pings,omitempty"`
}

// ParseScript reads a script from YAML or JSON. Its error names every line and key that is wrong.
func ParseScript(text []byte) (Script, error) {
	var s Script
	if len(text) > 1<<20 {
		return s, errors.New("script: longer than 1 MiB")
	}
	if err := yaml.Load(text, &s, yaml.WithKnownFields()); err != nil {
		return Script{}, readable("script", err)
	}
	if wrong := checkFaults("script", text, s.Faults); wrong != nil {
		return Script{}, errors.Join(wrong...)
	}
	return s, nil
}

// checkFaults says of each bad fault what is wrong, and on which line of the file it begins.
func checkFaults(file string, text []byte, faults []Fault) (wrong []error) {
	lines := faultLines(text)
	for i, f := range faults {
		if err := f.check(); err != nil {
			wrong = append(wrong, fmt.Errorf("%s: line %d: faults[%d].%w", file, lines[i], i, err))
		}
	}
	return wrong
}

var noSuchKey = regexp.MustCompile(`^field (.*) not found in type .*$`)

// readable says in the file's words what the YAML library says in Go's, one line each.
func readable(file string, err error) error {
	var many *yaml.LoadErrors
	var one *yaml.LoadError
	switch {
	case errors.As(err, &many):
	case errors.As(err, &one):
		many = &yaml.LoadErrors{Errors: []*yaml.LoadError{one}}
	default:
		return fmt.Errorf("%s: %w", file, err)
	}
	var wrong []error
	for _, e := range many.Errors {
		text := noSuchKey.ReplaceAllString(e.Message, "$1: no such key")
		text = strings.ReplaceAll(text, "time.Duration", "a duration (write it as 200ms, 5s or 1m)")
		wrong = append(wrong, fmt.Errorf("%s: line %d: %s", file, max(e.Mark.Line, 1), text))
	}
	return errors.Join(wrong...)
}

// faultLines says on which line each fault begins. The text has been loaded before.
func faultLines(text []byte) map[int]int {
	lines := map[int]int{}
	var raw struct {
		Faults []yaml.Node `yaml:"faults"`
	}
	if err := yaml.Load(text, &raw); err != nil {
		return lines
	}
	for i, n := range raw.Faults {
		lines[i] = n.Line
	}
	return lines
}

// YAML writes the script as ParseScript reads it.
func (s Script) YAML() ([]byte, error) { return yaml.Dump(s) }

// check refuses what makes no sense, naming the key and what is allowed.
func (f *Fault) check() error {
	switch {
	case f.Service != "" && !contains(serviceWords, f.Service):
		return fmt.Errorf("service: %q is unknown (allowed: %s)", f.Service, strings.Join(serviceWords, ", "))
	case f.Share < 0 || f.Share > 1:
		return fmt.Errorf("share: %v is out of range (allowed: above 0, at most 1)", f.Share)
	case f.TokenShare < 0 || f.TokenShare > 1:
		return fmt.Errorf("token_share: %v is out of range (allowed: above 0, at most 1)", f.TokenShare)
	case f.Times < 0:
		return fmt.Errorf("times: %d is negative", f.Times)
	case f.From < 0 || f.Until < 0 || f.Until != 0 && f.Until <= f.From:
		return fmt.Errorf("until: %v does not come after from, %v", f.Until, f.From)
	case f.Status != 0 && (f.Status < 200 || f.Status > 599):
		return fmt.Errorf("status: %d is out of range (allowed: 200 to 599)", f.Status)
	case f.Delay < 0 || f.RetryAfter < 0 || f.AfterIdle < 0 || f.AcceptDelay < 0 || f.TLSDelay < 0:
		return errors.New("delay: a duration is negative")
	case f.P99 != 0 && f.P99 <= f.Delay:
		return fmt.Errorf("p99: %v is not above delay, %v, the median", f.P99, f.Delay)
	case f.RampTo != 0 && (f.RampTo < 0 || f.Until == 0 || f.P99 != 0):
		return errors.New("ramp_to: needs until, and neither p99 nor a negative duration")
	case f.ServiceRate < 0:
		return fmt.Errorf("service_rate: %v is negative", f.ServiceRate)
	case f.MaxStreams < 0:
		return fmt.Errorf("max_streams: %d is negative", f.MaxStreams)
	}
	return f.checkEffect()
}

// checkEffect wants at least one effect, and HTTP/2's own words for error codes.
func (f *Fault) checkEffect() error {
	if _, err := errCode("rst", f.RST); err != nil {
		return err
	}
	if f.GoAway != nil {
		if _, err := errCode("goaway.code", f.GoAway.Code); err != nil {
			return err
		}
		if f.GoAway.Every < 0 || f.GoAway.LastOffset > 0 {
			return errors.New("goaway: every must not be negative, and last_offset not positive")
		}
	}
	if f.Reset != nil && (f.Reset.Every < 0 || f.Reset.Processed < 0 || f.Reset.Processed > 1) {
		return errors.New("reset: every must not be negative, and processed must be 0 to 1")
	}
	if f.Quota != nil {
		if err := f.Quota.check(); err != nil {
			return err
		}
	}
	if f.Stall != nil && f.Stall.After < 0 {
		return errors.New("stall: after must not be negative")
	}
	if !f.hitsRequests() && !f.hitsConnections() && f.Clock == 0 {
		return errors.New("status: no effect is given (allowed: status, delay, ramp_to, service_rate, quota, drop_response, rst, goaway, reset, stall, " +
			"blackhole, max_streams, refuse, accept_delay, tls_delay, clock)")
	}
	if f.Token != "" && !f.hitsRequests() {
		return errors.New("token: the fault concerns whole connections, or a service's clock (leave token out)")
	}
	return nil
}

// hitsRequests is true of a fault that is met by one request at a time.
func (f *Fault) hitsRequests() bool {
	return f.Status != 0 || f.Delay != 0 || f.RampTo != 0 || f.ServiceRate != 0 || f.Quota != nil || f.DropResponse || f.RST != "" || f.Stall != nil ||
		f.GoAway != nil && f.GoAway.Every > 0 || f.Reset != nil && f.Reset.Every > 0
}

// hitsConnections is true of a fault that is met by connections.
func (f *Fault) hitsConnections() bool {
	return f.GoAway != nil || f.Reset != nil || f.Stall != nil || f.Blackhole || f.MaxStreams > 0 || f.Refuse ||
		f.AcceptDelay > 0 || f.TLSDelay > 0
}

// errCode is the HTTP/2 error code of that name; "" is NO_ERROR.
func errCode(key, name string) (http2.ErrCode, error) {
	if name == "" {
		return http2.ErrCodeNo, nil
	}
	for code := http2.ErrCodeNo; code <= http2.ErrCodeHTTP11Required; code++ {
		if code.String() == name {
			return code, nil
		}
	}
	return 0, fmt.Errorf("%s: %q is no HTTP/2 error code (allowed: REFUSED_STREAM, INTERNAL_ERROR, ENHANCE_YOUR_CALM, …)", key, name)
}
