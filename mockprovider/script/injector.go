// SPDX-License-Identifier: Apache-2.0

package script

import (
	"cmp"
	"math/rand/v2"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/sluice-push/sluice/mockprovider/h2"
)

// Service is one mocked service, as one connection uses it.
type Service interface {
	// Find sets the fields of r that faults refer to: Token, Multicast and Collapsible.
	Find(r *h2.Request)
	// Respond returns the response of the real service.
	Respond(r *h2.Request) h2.Response
	// RespondFault returns a response with the status and reason of f, in the format of the service.
	RespondFault(r *h2.Request, f *Fault) h2.Response
}

// TokenIssuer is a Service that issues access tokens.
type TokenIssuer interface {
	// IssueToken returns a new access token for the scope that r requests.
	IssueToken(r *h2.Request) string
}

// Injector injects the faults of a script. It is safe for concurrent use.
type Injector struct {
	profile      map[string]latency // by service, and for "tls"
	onQuotaCheck func(service, scope string, admitted, early bool)
	program      atomic.Pointer[Program]
	dice         dice
}

// NewInjector returns an injector with an empty script. latency is the name of a latency profile, for
// which ValidLatency must be true. Shares and latencies are repeatable if seed is the same.
// onQuotaCheck is called for every request that is checked against a quota.
func NewInjector(latency string, seed uint64, onQuotaCheck func(service, scope string, admitted, early bool)) *Injector {
	i := &Injector{profile: profiles[latency], onQuotaCheck: onQuotaCheck, dice: dice{rand: rand.New(rand.NewPCG(seed, 1))}}
	i.program.Store(&Program{start: time.Now()})
	return i
}

// SetScript replaces the script and starts the new one. It affects requests immediately, but open
// connections only with Program.Apply.
func (i *Injector) SetScript(s Script) error {
	program, err := newProgram(s)
	if err != nil {
		return err
	}
	i.program.Store(program)
	return nil
}

// Script returns the current script.
func (i *Injector) Script() Script {
	var s Script
	for _, r := range i.program.Load().rules {
		s.Faults = append(s.Faults, r.Fault)
	}
	return s
}

// Program returns the current program.
func (i *Injector) Program() *Program { return i.program.Load() }

// Now returns the time on the clock of a service.
func (i *Injector) Now(service string) time.Time {
	program := i.program.Load()
	for _, r := range program.rules {
		if r.Clock != 0 && (r.Service == "" || r.Service == service) && r.active(program.start) {
			return time.Now().Add(r.Clock)
		}
	}
	return time.Now()
}

// HandshakeDelays returns how long to wait before the TLS handshake of a connection, and how much
// longer than usual the handshake takes.
func (i *Injector) HandshakeDelays(c *Conn) (accept, tls time.Duration) {
	tls = i.profile["tls"].draw(&i.dice)
	if r := i.program.Load().first(c.endpoint, c.number, (*Rule).delaysHandshake); r != nil {
		return r.AcceptDelay, tls + r.TLSDelay
	}
	return 0, tls
}

// Silent reports whether a connection leaves PING and SETTINGS without acknowledgement now.
func (i *Injector) Silent(c *Conn) bool {
	program := i.program.Load()
	return len(program.rules) > 0 && program.silent(c)
}

// Decide returns what happens to the newest request of a connection: the response of the service, or
// the effects of a fault. It must not be called concurrently for one connection.
func (i *Injector) Decide(c *Conn, s Service, r *h2.Request) h2.Decision {
	c.countRequest()
	program := i.program.Load()
	if len(program.rules) == 0 {
		return h2.Decision{Response: s.Respond(r), Processed: true, Delay: i.latency(c.endpoint.Service)}
	}
	s.Find(r)
	rule, wait := i.match(program, c, r)
	if rule == nil {
		return h2.Decision{Response: s.Respond(r), Processed: true, Delay: i.latency(c.endpoint.Service)}
	}
	d := h2.Decision{Delay: i.latency(c.endpoint.Service) + rule.delay(&i.dice, program.start)}
	switch {
	case rule.Stall != nil:
		d.Silent, d.Fault = true, "stall"
		return d
	case rule.RST != "":
		d.RST, d.Code, d.Fault = true, rule.rst, "rst "+rule.RST
		return d
	case rule.Reset != nil && rule.Reset.Every > 0:
		d.Reset, d.Fault, d.ProcessedShare = true, "reset", rule.Reset.Processed
		if d.ProcessedShare > 0 {
			d.Processed = true
			d.Response, _ = rule.respond(s, r, wait)
		}
		return d
	}
	d.Processed = true
	d.Response, d.Fault = rule.respond(s, r, wait)
	d.Delay += c.queueDelay(rule.ServiceRate)
	if rule.DropResponse {
		d.Silent, d.Fault = true, "drop_response"
	}
	if rule.GoAway != nil && rule.GoAway.Every > 0 {
		goAway := rule.goAway()
		d.GoAway, d.Fault = &goAway, "goaway"
	}
	d.Fault = cmp.Or(d.Fault, "delay")
	return d
}

// match returns the rule that applies to the newest request of a connection, or nil. wait is the time
// until the quota of the rule admits another request.
func (i *Injector) match(program *Program, c *Conn, r *h2.Request) (rule *Rule, wait time.Duration) {
	for _, rule := range program.rules {
		if !rule.affectsRequests() || !rule.matchesEndpoint(c.endpoint) || !rule.active(program.start) || !rule.matchesToken(c.endpoint.Service, r.Token) ||
			!rule.matchesCount(c.requests) || c.maxIdle < rule.AfterIdle || !rule.matchesShare(&i.dice, c.number) {
			continue
		}
		exceeded, wait := i.checkQuota(rule, c.endpoint.Service, r)
		if exceeded && rule.use() {
			return rule, wait
		}
	}
	return nil, 0
}

// checkQuota takes a token from the quota of the rule, and reports whether the request exceeds it.
// Without a quota, every request does.
func (i *Injector) checkQuota(rule *Rule, service string, r *h2.Request) (exceeded bool, wait time.Duration) {
	if rule.Quota == nil {
		return true, 0
	}
	key, ok := rule.Quota.key(r)
	if !ok {
		return false, 0
	}
	admitted, wait, early := rule.buckets.take(rule.Quota, key, rule.RetryAfter, time.Now())
	i.onQuotaCheck(service, rule.Quota.Scope, admitted, early)
	return !admitted, wait
}

// respond returns the response of the rule and the name of its effect, or the response of the
// service if the rule leaves that unchanged.
func (r *Rule) respond(s Service, req *h2.Request, wait time.Duration) (resp h2.Response, fault string) {
	switch {
	case r.Quota != nil:
		f := r.Fault
		f.Status = cmp.Or(f.Status, 429)
		if f.RetryAfter == 0 && f.Quota.Tell {
			f.RetryAfter = (wait + time.Second - 1).Truncate(time.Second)
		}
		return s.RespondFault(req, &f), "quota"
	case r.Body != nil:
		return r.respondBody(s, req), "body"
	case r.Status != 0:
		return s.RespondFault(req, &r.Fault), "status"
	case r.ServiceRate > 0:
		return s.Respond(req), "service_rate"
	}
	return s.Respond(req), ""
}

// respondBody returns the response with Fault.Body. A redirect and a 407 have the header field that
// they require.
func (r *Rule) respondBody(s Service, req *h2.Request) h2.Response {
	body := *r.Body
	if issuer, ok := s.(TokenIssuer); ok && strings.Contains(body, accessToken) {
		body = strings.ReplaceAll(body, accessToken, issuer.IssueToken(req))
	}
	resp := h2.Response{Status: cmp.Or(r.Status, 200), Body: []byte(body)}
	if kind := cmp.Or(r.ContentType, contentType(body)); kind != "" {
		resp.Header = append(resp.Header, h2.Field("content-type", kind))
	}
	switch {
	case resp.Status == 407:
		resp.Header = append(resp.Header, h2.Field("proxy-authenticate", "Basic"))
	case resp.Status/100 == 3:
		resp.Header = append(resp.Header, h2.Field("location", "https://portal.example/login"))
	}
	resp.AddRetryAfter(r.RetryAfter)
	return resp
}

// accessToken is replaced in Fault.Body.
const accessToken = "${access_token}"

func contentType(body string) string {
	switch trimmed := strings.TrimSpace(body); {
	case trimmed == "":
		return ""
	case trimmed[0] == '<':
		return "text/html; charset=utf-8"
	case trimmed[0] == '{', trimmed[0] == '[':
		return "application/json"
	}
	return "text/plain; charset=utf-8"
}

// dice is a source of random numbers that is safe for concurrent use.
type dice struct {
	mu   sync.Mutex
	rand *rand.Rand
}

// chance returns true for that share of the calls.
func (d *dice) chance(share float64) bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.rand.Float64() < share
}

// normal draws from the standard normal distribution.
func (d *dice) normal() float64 {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.rand.NormFloat64()
}
