// SPDX-License-Identifier: Apache-2.0

package script

import (
	"fmt"
	"hash/maphash"
	"strconv"
	"strings"
	"sync/atomic"
	"time"

	"golang.org/x/net/http2"

	"github.com/sluice-push/sluice/mockprovider/h2"
)

// Program is a script that has started.
type Program struct {
	rules []*Rule
	start time.Time
}

// Rule is one fault of a program, with its state.
type Rule struct {
	Fault
	rst     http2.ErrCode // the code of Fault.RST
	seed    maphash.Seed
	used    atomic.Int64 // how often the fault has applied, if Times is set
	buckets buckets      // of Fault.Quota
	begun   bool         // Begun has returned it
}

// newProgram starts a script.
func newProgram(s Script) (*Program, error) {
	p := &Program{start: time.Now()}
	for i, f := range s.Faults {
		if err := f.check(); err != nil {
			return nil, fmt.Errorf("script: faults[%d].%w", i, err)
		}
		code, _ := parseErrCode("", f.RST)
		p.rules = append(p.rules, &Rule{Fault: f, rst: code, seed: maphash.MakeSeed(), buckets: newBuckets()})
	}
	return p, nil
}

// Endpoint identifies one endpoint of a service.
type Endpoint struct {
	Service string
	Index   int // in the list of the service's endpoints, from 0
	Addr    string
}

// active reports whether the rule is within its time and its number of times.
func (r *Rule) active(start time.Time) bool {
	if r.Times > 0 && r.used.Load() >= int64(r.Times) {
		return false
	}
	if r.From == 0 && r.Until == 0 {
		return true
	}
	age := time.Since(start)
	return age >= r.From && (r.Until == 0 || age < r.Until)
}

// use counts one application of the rule, and reports whether Times allows it.
func (r *Rule) use() bool { return r.Times == 0 || r.used.Add(1) <= int64(r.Times) }

func (r *Rule) matchesEndpoint(e *Endpoint) bool {
	if r.Service != "" && r.Service != e.Service {
		return false
	}
	return r.Endpoint == "" || r.Endpoint == "*" || r.Endpoint == strconv.Itoa(e.Index) || r.Endpoint == e.Addr
}

// matchesToken checks Token and TokenShare.
func (r *Rule) matchesToken(service, token string) bool {
	if !matchesPattern(r.Token, token) && (service != APNs || !matchesPattern(strings.ToLower(r.Token), token)) {
		return false
	}
	if r.TokenShare == 0 || r.TokenShare == 1 {
		return true
	}
	return float64(maphash.String(r.seed, token)>>11)/(1<<53) < r.TokenShare
}

// matchesPattern reports whether token is pattern, or begins with what precedes its final *. An empty
// pattern matches every token.
func matchesPattern(pattern, token string) bool {
	prefix, wildcard := strings.CutSuffix(pattern, "*")
	return pattern == "" || pattern == token || wildcard && strings.HasPrefix(token, prefix)
}

// matchesCount reports whether the effect is due at the nth request of a connection.
func (r *Rule) matchesCount(nth int) bool {
	switch {
	case r.Stall != nil:
		return nth > r.Stall.After
	case r.GoAway != nil && r.GoAway.Every > 0:
		return nth%r.GoAway.Every == 0
	case r.Reset != nil && r.Reset.Every > 0:
		return nth%r.Reset.Every == 0
	}
	return true
}

// matchesShare decides about one request by Share. For a stall, Share is the share of connections.
func (r *Rule) matchesShare(d *dice, conn uint64) bool {
	if r.Stall != nil {
		return r.matchesConn(conn)
	}
	return r.Share == 0 || r.Share == 1 || d.chance(r.Share)
}

// matchesConn decides about a connection by Share. The result for a connection is always the same.
func (r *Rule) matchesConn(conn uint64) bool {
	return r.Share == 0 || r.Share == 1 || maphash.Comparable(r.seed, conn)>>11 < uint64(r.Share*(1<<53))
}

// first returns the first active rule that has the effect on a connection, or nil.
func (p *Program) first(e *Endpoint, conn uint64, effect func(*Rule) bool) *Rule {
	for _, r := range p.rules {
		if effect(r) && r.matchesEndpoint(e) && r.matchesConn(conn) && r.active(p.start) {
			return r
		}
	}
	return nil
}

// Effects on connections.

func (r *Rule) refuses() bool         { return r.Refuse }
func (r *Rule) freezes() bool         { return r.Blackhole }
func (r *Rule) limitsStreams() bool   { return r.MaxStreams > 0 }
func (r *Rule) delaysHandshake() bool { return r.AcceptDelay > 0 || r.TLSDelay > 0 }

// Refuses reports whether the endpoint refuses new connections now.
func (p *Program) Refuses(e *Endpoint) bool { return p.first(e, 0, (*Rule).refuses) != nil }

// silent reports whether the connection leaves PING and SETTINGS without acknowledgement now.
func (p *Program) silent(c *Conn) bool {
	return p.first(c.endpoint, c.number, func(r *Rule) bool {
		return r.Stall != nil && r.Token == "" && !r.Stall.AnswerPings && c.requests >= r.Stall.After
	}) != nil
}

// Apply applies the program to an open connection: the effects that last, and those of the rules in
// begun that happen once.
func (p *Program) Apply(c *Conn, begun []*Rule) {
	c.wire.Freeze(p.first(c.endpoint, c.number, (*Rule).freezes) != nil)
	maxStreams := 0
	if r := p.first(c.endpoint, c.number, (*Rule).limitsStreams); r != nil {
		maxStreams = r.MaxStreams
	}
	c.wire.SetMaxStreams(maxStreams)
	for _, r := range begun {
		if !r.matchesEndpoint(c.endpoint) || !r.matchesConn(c.number) {
			continue
		}
		if r.GoAway != nil && r.GoAway.Every == 0 && r.use() {
			c.wire.GoAway(r.goAway())
		}
		if r.Reset != nil && r.Reset.Every == 0 && r.use() {
			c.wire.Reset(r.Reset.Processed)
		}
	}
}

func (r *Rule) goAway() h2.GoAway {
	code, _ := parseErrCode("", r.GoAway.Code)
	return h2.GoAway{LastOffset: r.GoAway.LastOffset, Code: code, Debug: r.GoAway.Debug}
}

// Begun returns the rules that have become active since the last call. It must not be called
// concurrently.
func (p *Program) Begun() []*Rule {
	var begun []*Rule
	for _, r := range p.rules {
		if !r.begun && r.active(p.start) {
			r.begun = true
			begun = append(begun, r)
		}
	}
	return begun
}

// NextChange returns when a rule begins or ends next; ok is false if none will.
func (p *Program) NextChange() (at time.Time, ok bool) {
	age := time.Since(p.start)
	var next time.Duration
	for _, r := range p.rules {
		for _, edge := range []time.Duration{r.From, r.Until} {
			if edge > age && (!ok || edge < next) {
				next, ok = edge, true
			}
		}
	}
	return p.start.Add(next), ok
}
