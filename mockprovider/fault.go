// SPDX-License-Identifier: Apache-2.0

package mockprovider

import (
	"context"
	"fmt"
	"hash/maphash"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"
	"time"

	"golang.org/x/net/http2"
)

// program is a script that runs.
type program struct {
	rules []*rule
	began time.Time
}

// rule is one fault of a program, with what it has done so far.
type rule struct {
	Fault
	rst     http2.ErrCode
	seed    maphash.Seed
	times   atomic.Int64
	began   time.Time // the program's
	buckets buckets
	begun   bool // apply's own: its effects on standing connections have been applied
}

// Play replaces the script, from now on: when it returns, listeners and standing connections obey.
func (m *Mock) Play(s Script) error {
	p := &program{began: time.Now()}
	for i, f := range s.Faults {
		if err := f.check(); err != nil {
			return fmt.Errorf("script: faults[%d].%w", i, err)
		}
		code, _ := errCode("", f.RST)
		p.rules = append(p.rules, &rule{Fault: f, rst: code, seed: maphash.MakeSeed(), began: p.began, buckets: buckets{byKey: map[string]*bucket{}}})
	}
	m.program.Store(p)
	m.apply()
	select {
	case m.script <- struct{}{}:
	default:
	}
	return nil
}

// Script is what is being played.
func (m *Mock) Script() Script {
	var s Script
	for _, r := range m.program.Load().rules {
		s.Faults = append(s.Faults, r.Fault)
	}
	return s
}

// now says whether the rule is in force.
func (r *rule) now(began time.Time) bool {
	if r.Times > 0 && r.times.Load() >= int64(r.Times) {
		return false
	}
	if r.From == 0 && r.Until == 0 {
		return true
	}
	age := time.Since(began)
	return age >= r.From && (r.Until == 0 || age < r.Until)
}

// take counts one time, and says whether there was one left.
func (r *rule) take() bool { return r.Times == 0 || r.times.Add(1) <= int64(r.Times) }

// concerns says whether the rule is about that endpoint.
func (r *rule) concerns(e *endpoint) bool {
	if r.Service != "" && r.Service != e.service {
		return false
	}
	return r.Endpoint == "" || r.Endpoint == "*" || r.Endpoint == strconv.Itoa(e.index) || r.Endpoint == e.address()
}

// about says whether the rule is about that device token.
func (r *rule) about(token string) bool {
	if prefix, ok := strings.CutSuffix(r.Token, "*"); ok && !strings.HasPrefix(token, prefix) || !ok && r.Token != "" && r.Token != token {
		return false
	}
	if r.TokenShare == 0 || r.TokenShare == 1 {
		return true
	}
	return float64(maphash.String(r.seed, token)>>11)/(1<<53) < r.TokenShare
}

// due says whether the nth request of a connection is the one.
func (r *rule) due(nth int) bool {
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

// request returns the rule that the newest request of c meets, or nil.
func (p *program) request(c *conn, req *request) *rule {
	for _, r := range p.rules {
		if r.hitsRequests() && r.concerns(c.ep) && r.now(p.began) && r.about(req.token) && r.due(c.requests) && c.idled >= r.AfterIdle &&
			r.hit(c.ep.mock, c.peer.number) && r.exceeds(c.ep, req) && r.take() {
			return r
		}
	}
	return nil
}

// hit rolls the dice of Share; a stall is of the connection, which has rolled once for all its requests.
func (r *rule) hit(m *Mock, conn uint64) bool {
	if r.Stall != nil {
		return r.part(conn)
	}
	return r.Share == 0 || r.Share == 1 || m.chance(r.Share)
}

// part says whether a connection is in Share, always the same for the same connection.
func (r *rule) part(conn uint64) bool {
	return r.Share == 0 || r.Share == 1 || maphash.Comparable(r.seed, conn)>>11 < uint64(r.Share*(1<<53))
}

// connection returns the first rule with that effect on connection number conn of e, or nil.
func (p *program) connection(e *endpoint, conn uint64, effect func(*rule) bool) *rule {
	for _, r := range p.rules {
		if effect(r) && r.concerns(e) && r.part(conn) && r.now(p.began) {
			return r
		}
	}
	return nil
}

// clock is the time by which a service judges what clients sign.
func (m *Mock) clock(service string) time.Time {
	p := m.program.Load()
	for _, r := range p.rules {
		if r.Clock != 0 && (r.Service == "" || r.Service == service) && r.now(p.began) {
			return time.Now().Add(r.Clock)
		}
	}
	return time.Now()
}

// silent says whether a connection that has seen n requests lets a PING go unanswered.
func (p *program) silent(e *endpoint, conn uint64, n int) bool {
	return p.connection(e, conn, func(r *rule) bool {
		return r.Stall != nil && r.Token == "" && !r.Stall.AnswerPings && n >= r.Stall.After
	}) != nil
}

// next is when a rule begins or ends next; ok is false when nothing more will change.
func (p *program) next(after time.Duration) (at time.Duration, ok bool) {
	for _, r := range p.rules {
		for _, edge := range []time.Duration{r.From, r.Until} {
			if edge > after && (!ok || edge < at) {
				at, ok = edge, true
			}
		}
	}
	return at, ok
}

// conduct applies the script to listeners and standing connections whenever a fault of it begins or ends. It ends when
// ctx does.
func (m *Mock) conduct(ctx context.Context) error {
	for {
		p := m.apply()
		var edge <-chan time.Time
		if at, ok := p.next(time.Since(p.began)); ok {
			edge = time.After(time.Until(p.began.Add(at)))
		}
		select {
		case <-ctx.Done():
			return nil
		case <-m.script:
		case <-edge:
		}
	}
}

// apply starts and ends what acts on listeners and standing connections, and returns the program that asked for it.
func (m *Mock) apply() *program {
	m.stage.Lock()
	defer m.stage.Unlock()
	p := m.program.Load()
	var fresh []*rule
	for _, r := range p.rules {
		if !r.begun && r.now(p.began) {
			r.begun = true
			fresh = append(fresh, r)
		}
	}
	for _, e := range slices.Concat(m.services[APNs], m.services[APNsManage], m.services[FCM], m.services[OAuth], m.services[WebPush]) {
		e.refuse(p.connection(e, 0, (*rule).refuses) != nil)
		for _, c := range e.standing() {
			c.obey(p, fresh)
		}
	}
	return p
}

// enter lets a new connection obey the script before it does anything else.
func (m *Mock) enter(c *conn) {
	m.stage.Lock()
	defer m.stage.Unlock()
	c.obey(m.program.Load(), nil)
}

func (r *rule) refuses() bool   { return r.Refuse }
func (r *rule) freezes() bool   { return r.Blackhole }
func (r *rule) limits() bool    { return r.MaxStreams > 0 }
func (r *rule) hesitates() bool { return r.AcceptDelay > 0 || r.TLSDelay > 0 }

// goesAway and resets are true of faults that act once on every standing connection.
func (r *rule) goesAway() bool { return r.GoAway != nil && r.GoAway.Every == 0 }
func (r *rule) resets() bool   { return r.Reset != nil && r.Reset.Every == 0 }
