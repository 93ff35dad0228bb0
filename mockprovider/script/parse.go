// SPDX-License-Identifier: Apache-2.0

package script

import (
	"errors"
	"fmt"
	"slices"
	"strings"

	"go.yaml.in/yaml/v4"
	"golang.org/x/net/http2"
)

// Parse reads a script from YAML or JSON. Its error names the line and key of every mistake.
func Parse(text []byte) (Script, error) {
	var s Script
	if len(text) > 1<<20 {
		return s, errors.New("script: longer than 1 MiB")
	}
	if err := yaml.Load(text, &s, yaml.WithKnownFields()); err != nil {
		return Script{}, FormatError("script", text, s, err)
	}
	if errs := CheckFaults("script", text, s.Faults); errs != nil {
		return Script{}, errors.Join(errs...)
	}
	return s, nil
}

// YAML returns the script in the format that Parse reads.
func (s Script) YAML() ([]byte, error) { return yaml.Dump(s) }

// CheckFaults returns an error for each invalid fault, which names the file and the line on which
// the fault begins. text is the file; it has been parsed without error.
func CheckFaults(file string, text []byte, faults []Fault) (errs []error) {
	lines := faultLines(text)
	for i, f := range faults {
		if err := f.check(); err != nil {
			errs = append(errs, fmt.Errorf("%s: line %d: faults[%d].%w", file, lines[i], i, err))
		}
	}
	return errs
}

// faultLines returns the line on which each fault begins.
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

// check returns an error that names the first invalid key and what is allowed.
func (f *Fault) check() error {
	switch {
	case f.Service != "" && !slices.Contains(services, f.Service):
		return fmt.Errorf("service: %q is unknown (allowed: %s)", f.Service, strings.Join(services, ", "))
	case f.Share < 0 || f.Share > 1:
		return fmt.Errorf("share: %v is out of range (allowed: above 0, at most 1)", f.Share)
	case f.TokenShare < 0 || f.TokenShare > 1:
		return fmt.Errorf("token_share: %v is out of range (allowed: above 0, at most 1)", f.TokenShare)
	case f.Times < 0:
		return fmt.Errorf("times: %d is negative", f.Times)
	case f.From < 0 || f.Until < 0 || f.Until != 0 && f.Until <= f.From:
		return fmt.Errorf("until: %v is not after from, %v", f.Until, f.From)
	case f.Status != 0 && (f.Status < 200 || f.Status > 599):
		return fmt.Errorf("status: %d is out of range (allowed: 200 to 599)", f.Status)
	case f.ContentType != "" && f.Body == nil:
		return errors.New("content_type: requires body")
	case f.Delay < 0 || f.RetryAfter < 0 || f.AfterIdle < 0 || f.AcceptDelay < 0 || f.TLSDelay < 0:
		return errors.New("delay: a duration is negative")
	case f.P99 != 0 && f.P99 <= f.Delay:
		return fmt.Errorf("p99: %v is not greater than delay, %v, the median", f.P99, f.Delay)
	case f.RampTo != 0 && (f.RampTo < 0 || f.Until == 0 || f.P99 != 0):
		return errors.New("ramp_to: requires until, and allows neither p99 nor a negative duration")
	case f.ServiceRate < 0:
		return fmt.Errorf("service_rate: %v is negative", f.ServiceRate)
	case f.MaxStreams < 0:
		return fmt.Errorf("max_streams: %d is negative", f.MaxStreams)
	}
	return f.checkEffects()
}

// checkEffects checks the effects with keys of their own, and that there is at least one effect.
func (f *Fault) checkEffects() error {
	if _, err := parseErrCode("rst", f.RST); err != nil {
		return err
	}
	if f.GoAway != nil {
		if _, err := parseErrCode("goaway.code", f.GoAway.Code); err != nil {
			return err
		}
		if f.GoAway.Every < 0 || f.GoAway.LastOffset > 0 {
			return errors.New("goaway: every must not be negative, and last_offset must not be positive")
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
	if !f.affectsRequests() && !f.affectsConns() && f.Clock == 0 {
		return errors.New("status: the fault has no effect (allowed: status, body, delay, ramp_to, service_rate, quota, drop_response, rst, goaway, " +
			"reset, stall, blackhole, max_streams, refuse, accept_delay, tls_delay, clock)")
	}
	if f.Token != "" && !f.affectsRequests() {
		return errors.New("token: the fault affects whole connections, or the clock of a service (leave token out)")
	}
	return nil
}

// parseErrCode returns the HTTP/2 error code of that name; "" is NO_ERROR.
func parseErrCode(key, name string) (http2.ErrCode, error) {
	if name == "" {
		return http2.ErrCodeNo, nil
	}
	for code := http2.ErrCodeNo; code <= http2.ErrCodeHTTP11Required; code++ {
		if code.String() == name {
			return code, nil
		}
	}
	return 0, fmt.Errorf("%s: %q is not an HTTP/2 error code (allowed: REFUSED_STREAM, INTERNAL_ERROR, ENHANCE_YOUR_CALM, …)", key, name)
}
