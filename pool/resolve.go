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
	"github.com/sluice-push/sluice/internal/sleep"
)

// Resolver returns the addresses of a service and how long they are valid. After an error or an
// empty answer the pool continues to use the last good answer.
type Resolver interface {
	Resolve(ctx context.Context) (addrs []netip.AddrPort, ttl time.Duration, err error)
}

const (
	minTTL, maxTTL     = time.Second, 30 * time.Second // bounds for a TTL
	resolveTimeout     = 5 * time.Second               // for one call of Resolve
	minResolveInterval = 5 * time.Second               // minimum time between two calls
)

// Static is a fixed list of addresses.
type Static []netip.AddrPort

// Resolve returns the list.
func (s Static) Resolve(context.Context) ([]netip.AddrPort, time.Duration, error) {
	return s, maxTTL, nil
}

// System uses the operating system's resolver for IPv4 and IPv6. It does not provide TTLs, so the
// pool resolves at its maximum interval.
type System struct {
	Host string
	Port uint16 // 0 means 443
}

// Resolve looks up Host.
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

// PublicOnly drops addresses that are not on the public internet from the answers of r. If a public
// service resolves to a private address, DNS is compromised or misconfigured, and credentials must
// not be sent there.
func PublicOnly(r Resolver) Resolver { return publicOnly{r} }

type publicOnly struct{ Resolver }

var errAllPrivate = errors.New("a public service resolved to private addresses only")

func (p publicOnly) Resolve(ctx context.Context) ([]netip.AddrPort, time.Duration, error) {
	addrs, ttl, err := p.Resolver.Resolve(ctx)
	if err != nil {
		return nil, 0, err
	}
	var public []netip.AddrPort
	for _, addr := range addrs {
		if publicaddr.Public(addr.Addr()) {
			public = append(public, addr)
		}
	}
	if len(public) == 0 && len(addrs) > 0 {
		return nil, 0, errAllPrivate
	}
	return public, ttl, nil
}

// resolveLoop resolves repeatedly until ctx ends.
func (p *Pool) resolveLoop(ctx context.Context) {
	failures := 0
	for {
		started := time.Now()
		addrs, ttl, err := p.resolveOnce(ctx)
		if ctx.Err() != nil {
			return
		}
		select {
		case <-p.resolveNow: // this answer already serves the request
		default:
		}
		wait := min(max(ttl, minTTL), maxTTL)
		if err == nil {
			failures = 0
			drainConns(p.updateListed(addrs))
			p.wakeMaintainer()
		} else {
			wait = min(minTTL<<min(failures, 5), maxTTL)
			failures++
			p.resolveFailed(err, wait)
		}
		if !p.waitToResolve(ctx, wait, started) {
			return
		}
	}
}

func (p *Pool) resolveOnce(ctx context.Context) (addrs []netip.AddrPort, ttl time.Duration, err error) {
	ctx, cancel := context.WithTimeout(ctx, resolveTimeout)
	defer cancel()
	err = p.recovered(func() error {
		addrs, ttl, err = p.cfg.Resolver.Resolve(ctx)
		return err
	})
	if err == nil && len(addrs) == 0 {
		err = errors.New("the answer contains no address")
	}
	return addrs, ttl, err
}

// waitToResolve waits before the next resolve, for less time if one is requested. It returns false
// if ctx has ended.
func (p *Pool) waitToResolve(ctx context.Context, wait time.Duration, started time.Time) bool {
	select {
	case <-time.After(wait):
		return true
	case <-p.resolveNow:
	case <-ctx.Done():
		return false
	}
	return sleep.For(ctx, min(wait, minResolveInterval-time.Since(started)))
}

// requestResolve triggers a resolve before the TTL expires.
func (p *Pool) requestResolve() { signal(p.resolveNow) }

// updateListed stores a good answer. Members keep their slots unless PruneUnlisted is set.
// updateListed returns the connections of evicted members.
func (p *Pool) updateListed(addrs []netip.AddrPort) (toDrain []*endpointConn) {
	p.mu.Lock()
	defer p.mu.Unlock()
	now, before, added := time.Now(), len(p.listed), 0
	p.resolveErr = nil
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
		if e.listed { // a duplicate
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
		toDrain = p.evictIf(func(e *Endpoint) bool { return !e.listed }, "no longer listed")
	}
	p.forgetStale(now)
	return toDrain
}

func (p *Pool) resolveFailed(err error, wait time.Duration) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.lastError = "resolving: " + err.Error()
	p.addEventLocked(Event{Kind: EventResolveFailed, Reason: fmt.Sprintf("%v; next attempt in %s", err, wait), repeated: p.resolveErr != nil || len(p.listed) == 0})
	p.resolveErr = err
	p.wakeMaintainer()
}

// forgetStale drops unlisted addresses that have not been seen for a while and hold no state worth
// keeping.
func (p *Pool) forgetStale(now time.Time) {
	for addr, e := range p.endpoints {
		idle := !e.member && !e.listed && !e.dialing && e.InFlight() == 0
		if idle && !e.breaker.ejected() && now.Sub(e.lastListed) > forgetAfter {
			delete(p.endpoints, addr)
		}
	}
}
