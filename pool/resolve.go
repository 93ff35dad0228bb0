// SPDX-License-Identifier: Apache-2.0

package pool

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"time"

	"github.com/sluice-push/sluice/internal/publicaddr"
)

// Resolver names the addresses of a service, and for how long the answer is
// good. An error or an empty answer leaves the pool with what it knows.
type Resolver interface {
	Resolve(ctx context.Context) (addrs []netip.AddrPort, ttl time.Duration, err error)
}

const (
	minTTL, maxTTL     = time.Second, 30 * time.Second // what a TTL is clamped to
	resolveTimeout     = 5 * time.Second               // for one Resolve
	minResolveInterval = 5 * time.Second               // between two, however much the pool is in need
)

// Static is a list that never changes.
type Static []netip.AddrPort

// Resolve returns the list.
func (s Static) Resolve(context.Context) ([]netip.AddrPort, time.Duration, error) {
	return s, maxTTL, nil
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
	return withPort(found, s.Port), maxTTL, nil
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

// PublicOnly keeps what another resolver names of the public internet. A public
// service that resolves to a private address has been hijacked or mistyped,
// and a credential must not go there.
func PublicOnly(r Resolver) Resolver { return publicOnly{r} }

type publicOnly struct{ Resolver }

var errAllPrivate = errors.New("only private addresses were named, for a public service")

func (p publicOnly) Resolve(ctx context.Context) ([]netip.AddrPort, time.Duration, error) {
	named, ttl, err := p.Resolver.Resolve(ctx)
	if err != nil {
		return nil, 0, err
	}
	var kept []netip.AddrPort
	for _, addr := range named {
		if publicaddr.Public(addr.Addr()) {
			kept = append(kept, addr)
		}
	}
	if len(kept) == 0 && len(named) > 0 {
		return nil, 0, errAllPrivate
	}
	return kept, ttl, nil
}

// resolveLoop asks the resolver again and again until ctx ends.
func (p *Pool) resolveLoop(ctx context.Context) {
	failures := 0
	for {
		asked := time.Now()
		addrs, ttl, err := p.resolveOnce(ctx)
		if ctx.Err() != nil {
			return
		}
		select {
		case <-p.resolveNow: // this answer is what was wanted
		default:
		}
		wait := min(max(ttl, minTTL), maxTTL)
		if err == nil {
			failures = 0
			p.applyAnswer(addrs)
		} else {
			wait = min(minTTL<<min(failures, 5), maxTTL)
			failures++
			p.resolveFailed(err, wait)
		}
		if !p.waitToResolve(ctx, wait, asked) {
			return
		}
	}
}

func (p *Pool) resolveOnce(ctx context.Context) ([]netip.AddrPort, time.Duration, error) {
	ctx, cancel := context.WithTimeout(ctx, resolveTimeout)
	defer cancel()
	addrs, ttl, err := p.cfg.Resolver.Resolve(ctx)
	if err == nil && len(addrs) == 0 {
		err = errors.New("the answer names no address")
	}
	return addrs, ttl, err
}

// waitToResolve waits, shorter if the pool is in need; false means that ctx has ended.
func (p *Pool) waitToResolve(ctx context.Context, wait time.Duration, asked time.Time) bool {
	select {
	case <-time.After(wait):
		return true
	case <-p.resolveNow:
	case <-ctx.Done():
		return false
	}
	select {
	case <-time.After(min(wait, minResolveInterval-time.Since(asked))):
		return true
	case <-ctx.Done():
		return false
	}
}

// requestResolve asks the resolver before its time.
func (p *Pool) requestResolve() {
	select {
	case p.resolveNow <- struct{}{}:
	default:
	}
}

// applyAnswer takes a good answer. Who has a place keeps it, unless the pool mirrors
// the answer.
func (p *Pool) applyAnswer(addrs []netip.AddrPort) {
	drainConns(p.updateListed(addrs))
	p.wakeMaintainer()
}

// updateListed notes the answer and returns the connections of those who had to go.
func (p *Pool) updateListed(addrs []netip.AddrPort) (left []*endpointConn) {
	p.mu.Lock()
	defer p.mu.Unlock()
	now, before, added := time.Now(), len(p.listed), 0
	for _, e := range p.listed {
		e.listed = false
	}
	p.listed = nil
	for _, addr := range addrs {
		addr = netip.AddrPortFrom(addr.Addr().Unmap(), addr.Port())
		if !addr.IsValid() {
			continue
		}
		e := p.ensureEndpoint(addr)
		if e.listed { // named twice
			continue
		}
		if e.lastListed.IsZero() {
			added++
		}
		e.listed, e.lastListed = true, now
		p.listed = append(p.listed, e)
	}
	if added > 0 || before != len(p.listed) {
		p.addEventLocked(Event{Kind: EventResolved, Reason: fmt.Sprintf("%d addresses, %d of them new", len(p.listed), added)})
	}
	if p.cfg.PruneUnlisted {
		left = p.evictUnlisted()
	}
	p.forgetStale(now)
	return left
}

func (p *Pool) evictUnlisted() (left []*endpointConn) {
	for _, e := range *p.members.Load() {
		if !e.listed {
			left = append(left, p.evict(e, "it is named no more")...)
		}
	}
	return left
}

func (p *Pool) resolveFailed(err error, wait time.Duration) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.lastError = "resolving: " + err.Error()
	p.addEventLocked(Event{Kind: EventResolveFailed, Reason: fmt.Sprintf("%v; asking again in %s", err, wait)})
	p.wakeMaintainer()
}

// forgetStale drops addresses that are named no more, once nothing is to be
// remembered of them.
func (p *Pool) forgetStale(now time.Time) {
	for addr, e := range p.endpoints {
		idle := !e.member && !e.listed && !e.dialling && e.InFlight() == 0
		if idle && !e.breaker.ejected() && now.Sub(e.lastListed) > forgetAfter {
			delete(p.endpoints, addr)
		}
	}
}
