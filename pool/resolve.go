// SPDX-License-Identifier: Apache-2.0

package pool

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"time"

	"github.com/sluice-push/sluice/internet"
)

// Resolver names the addresses of a service, and for how long the answer is
// good. An error or an empty answer leaves the pool with what it knows.
type Resolver interface {
	Resolve(ctx context.Context) (addrs []netip.AddrPort, ttl time.Duration, err error)
}

const (
	ttlMin, ttlMax = time.Second, 30 * time.Second // what a TTL is clamped to
	resolveLimit   = 5 * time.Second               // for one Resolve
	resolveSooner  = 5 * time.Second               // between two, however much the pool is in need
)

// Static is a list that never changes.
type Static []netip.AddrPort

// Resolve returns the list.
func (s Static) Resolve(context.Context) ([]netip.AddrPort, time.Duration, error) {
	return s, ttlMax, nil
}

// System asks the operating system's resolver, IPv4 and IPv6. It hides the
// TTL, so the answer is asked for again after the longest that the pool allows.
type System struct {
	Host string
	Port uint16 // 0 means 443
}

// Resolve looks Host up.
func (s System) Resolve(ctx context.Context) ([]netip.AddrPort, time.Duration, error) {
	found, err := net.DefaultResolver.LookupNetIP(ctx, "ip", s.Host)
	if err != nil {
		return nil, 0, err
	}
	return withPort(found, s.Port), ttlMax, nil
}

func withPort(addrs []netip.Addr, port uint16) []netip.AddrPort {
	if port == 0 {
		port = 443
	}
	out := make([]netip.AddrPort, len(addrs))
	for i, addr := range addrs {
		out[i] = netip.AddrPortFrom(addr.Unmap(), port)
	}
	return out
}

// Public keeps what another resolver names of the public internet. A public
// service that resolves to a private address has been hijacked or mistyped,
// and a credential must not go there.
func Public(r Resolver) Resolver { return public{r} }

type public struct{ Resolver }

var errAllPrivate = errors.New("only private addresses were named, for a public service")

func (p public) Resolve(ctx context.Context) ([]netip.AddrPort, time.Duration, error) {
	named, ttl, err := p.Resolver.Resolve(ctx)
	if err != nil {
		return nil, 0, err
	}
	var kept []netip.AddrPort
	for _, addr := range named {
		if internet.Public(addr.Addr()) {
			kept = append(kept, addr)
		}
	}
	if len(kept) == 0 && len(named) > 0 {
		return nil, 0, errAllPrivate
	}
	return kept, ttl, nil
}

// follow asks the resolver again and again until ctx ends.
func (p *Pool) follow(ctx context.Context) {
	failures := 0
	for {
		asked := time.Now()
		addrs, ttl, err := p.ask(ctx)
		if ctx.Err() != nil {
			return
		}
		select {
		case <-p.short: // this answer is what was wanted
		default:
		}
		wait := min(max(ttl, ttlMin), ttlMax)
		if err == nil {
			failures = 0
			p.named(addrs)
		} else {
			wait = min(ttlMin<<min(failures, 5), ttlMax)
			failures++
			p.unnamed(err, wait)
		}
		if !p.rest(ctx, wait, asked) {
			return
		}
	}
}

func (p *Pool) ask(ctx context.Context) ([]netip.AddrPort, time.Duration, error) {
	ctx, cancel := context.WithTimeout(ctx, resolveLimit)
	defer cancel()
	addrs, ttl, err := p.cfg.Resolver.Resolve(ctx)
	if err == nil && len(addrs) == 0 {
		err = errors.New("the answer names no address")
	}
	return addrs, ttl, err
}

// rest waits, shorter if the pool is in need; false means that ctx has ended.
func (p *Pool) rest(ctx context.Context, wait time.Duration, asked time.Time) bool {
	select {
	case <-time.After(wait):
		return true
	case <-p.short:
	case <-ctx.Done():
		return false
	}
	select {
	case <-time.After(min(wait, resolveSooner-time.Since(asked))):
		return true
	case <-ctx.Done():
		return false
	}
}

// hurry asks the resolver before its time.
func (p *Pool) hurry() {
	select {
	case p.short <- struct{}{}:
	default:
	}
}

// named takes a good answer. Who has a place keeps it, unless the pool mirrors
// the answer.
func (p *Pool) named(addrs []netip.AddrPort) {
	drainLinks(p.take(addrs))
	p.poke()
}

// take notes the answer and returns the connections of those who had to go.
func (p *Pool) take(addrs []netip.AddrPort) (left []*link) {
	p.mu.Lock()
	defer p.mu.Unlock()
	now, before, added := time.Now(), len(p.answer), 0
	for _, e := range p.answer {
		e.listed = false
	}
	p.answer = nil
	for _, addr := range addrs {
		addr = netip.AddrPortFrom(addr.Addr().Unmap(), addr.Port())
		if !addr.IsValid() {
			continue
		}
		e := p.endpoint(addr)
		if e.listed { // named twice
			continue
		}
		if e.seen.IsZero() {
			added++
		}
		e.listed, e.seen = true, now
		p.answer = append(p.answer, e)
	}
	if added > 0 || before != len(p.answer) {
		p.noteLocked(Event{Kind: Resolved, Reason: fmt.Sprintf("%d addresses, %d of them new", len(p.answer), added)})
	}
	if p.cfg.Mirror {
		left = p.evictUnlisted()
	}
	p.forget(now)
	return left
}

func (p *Pool) evictUnlisted() (left []*link) {
	for _, e := range *p.members.Load() {
		if !e.listed {
			left = append(left, p.evict(e, "it is named no more")...)
		}
	}
	return left
}

func (p *Pool) unnamed(err error, wait time.Duration) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.trouble = "resolving: " + err.Error()
	p.noteLocked(Event{Kind: ResolveFailed, Reason: fmt.Sprintf("%v; asking again in %s", err, wait)})
	p.poke()
}

// forget drops addresses that are named no more, once nothing is to be
// remembered of them.
func (p *Pool) forget(now time.Time) {
	for addr, e := range p.known {
		idle := !e.member && !e.listed && !e.dialling && e.InFlight() == 0
		if idle && !e.circuit.ejected() && now.Sub(e.seen) > memory {
			delete(p.known, addr)
		}
	}
}
