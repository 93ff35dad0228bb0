// SPDX-License-Identifier: Apache-2.0

package pool

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/sluice-push/sluice/push"
	"github.com/sluice-push/sluice/wire"
)

// updateUnreachable decides whether Pick fails instead of waiting: no endpoint is live, the last dial to each
// known one has failed, and no other one can be dialed now. Like gRPC's TRANSIENT_FAILURE, this lasts
// until a dial succeeds, also while endpoints are dialed again.
func (p *Pool) updateUnreachable(now time.Time) {
	before, after := p.unreachable.Load(), p.findUnreachable(now)
	p.unreachable.Store(after)
	switch {
	case after != nil && (before == nil || before.Reason != after.Reason):
		p.addEventLocked(Event{Kind: EventUnreachable, Reason: after.Detail})
	case after == nil && before != nil && p.anyLive():
		p.addEventLocked(Event{Kind: EventReachable, Reason: "a dial succeeded"})
	}
}

// findUnreachable returns why no endpoint can be reached, or nil if one is live or may become live.
func (p *Pool) findUnreachable(now time.Time) *Error {
	if len(p.listed) == 0 && p.resolveErr != nil {
		return p.unreachableError(string(wire.DNSFailure), string(wire.DNSFailure)+": "+p.resolveErr.Error())
	}
	var failed []*Endpoint
	for _, e := range p.listed {
		switch {
		case e.live():
			return nil
		case e.dialErr != nil:
			failed = append(failed, e)
		case e.dialing, e.redialAt.After(now):
			return nil
		}
	}
	if len(failed) == 0 || p.anyLive() {
		return nil
	}
	err := p.unreachableError(describeFailures(failed))
	next := slices.MinFunc(failed, func(a, b *Endpoint) int { return a.redialAt.Compare(b.redialAt) })
	err.RetryAfter = max(next.redialAt.Sub(now), time.Second)
	err.permanent = !slices.ContainsFunc(failed, func(e *Endpoint) bool { return !isConfigurationError(e.dialErr) })
	return err
}

func (p *Pool) unreachableError(code, causes string) *Error {
	detail := "no endpoint can be reached: " + causes
	return &Error{Pool: p.cfg.Name, Reason: code, Err: errors.New(detail), Detail: detail}
}

// Unusable returns why no endpoint can be used, or nil if one can be or may soon be: none can be
// reached, or with the reason BreakerOpen, all that are connected are ejected.
func (p *Pool) Unusable() *Error {
	if err := p.unreachable.Load(); err != nil {
		return err
	}
	var ejected []*Endpoint
	for _, e := range *p.members.Load() {
		switch {
		case !e.live():
		case e.breaker.healthy():
			return nil
		default:
			ejected = append(ejected, e)
		}
	}
	if len(ejected) == 0 {
		return nil
	}
	_, reason := ejected[0].breaker.ejectionReason()
	return p.errorf(BreakerOpen, fmt.Errorf("all %d connected endpoints are ejected, such as %s: %s", len(ejected), ejected[0].name, reason))
}

func (p *Pool) anyLive() bool { return slices.ContainsFunc(*p.members.Load(), (*Endpoint).live) }

// describeFailures returns why the dials of the endpoints failed: as a code, which is NoEndpoint if
// there are several causes, and in words, with one example of each cause.
func describeFailures(failed []*Endpoint) (code, causes string) {
	count := map[string]int{}
	for _, e := range failed {
		count[dialFailureCode(e.dialErr)]++
	}
	var examples []string
	for _, e := range failed {
		c := dialFailureCode(e.dialErr)
		if count[c] == 0 { // has its example
			continue
		}
		examples = append(examples, fmt.Sprintf("%s at %d of %d, such as %s: %s", c, count[c], len(failed), e.name, dialFailureText(e.dialErr)))
		code, count[c] = c, 0
	}
	if len(examples) > 1 {
		code = NoEndpoint
	}
	return code, strings.Join(examples, "; ")
}

// dialFailureCode returns the code of a failed dial.
func dialFailureCode(err error) string {
	if t, ok := errors.AsType[push.TransportError](err); ok {
		return t.Code()
	}
	return NoEndpoint
}

// dialFailureText returns the cause in words, without the code.
func dialFailureText(err error) string {
	if t, ok := errors.AsType[push.TransportError](err); ok {
		if cause := errors.Unwrap(t); cause != nil {
			err = cause
		}
	}
	return err.Error()
}

// isConfigurationError reports whether a dial failed for a reason that does not go away by itself,
// such as an untrusted certificate.
func isConfigurationError(err error) bool {
	t, ok := errors.AsType[push.TransportError](err)
	return ok && !t.EndpointFault()
}
