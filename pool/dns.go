// SPDX-License-Identifier: Apache-2.0

package pool

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"time"

	"github.com/miekg/dns"
	"golang.org/x/sync/errgroup"

	"github.com/sluice-push/sluice/internal/panics"
)

// DNS queries name servers directly for A and AAAA records. Unlike System, it sees the TTLs.
type DNS struct {
	Host string
	Port uint16 // 0 means 443
	// Servers are "host:port" addresses, queried in order until one responds. If empty, the servers
	// in /etc/resolv.conf are used.
	Servers []string
}

var (
	_ Resolver = Static(nil)
	_ Resolver = System{}
	_ Resolver = DNS{}
)

// Resolve queries both address families in parallel and fails only if neither has an address. The
// result alternates between the families, IPv6 first (RFC 8305 §4), so that a family that does not
// work costs at most half of the dials.
func (d DNS) Resolve(ctx context.Context) ([]netip.AddrPort, time.Duration, error) {
	servers, err := d.servers()
	if err != nil {
		return nil, 0, err
	}
	var v4, v6 lookup
	var group errgroup.Group
	group.Go(func() error { v4 = guardedQuery(ctx, servers, d.Host, dns.TypeA); return nil })
	group.Go(func() error { v6 = guardedQuery(ctx, servers, d.Host, dns.TypeAAAA); return nil })
	_ = group.Wait()
	addrs := interleave(v6.addrs, v4.addrs)
	switch {
	case len(addrs) == 0 && v4.err != nil && v6.err != nil:
		return nil, 0, fmt.Errorf("%w; %w", v4.err, v6.err)
	case len(addrs) == 0:
		return nil, 0, cmp.Or(v4.err, v6.err)
	}
	return withPort(addrs, d.Port), shortestTTL(v4, v6), nil
}

func (d DNS) servers() ([]string, error) {
	if len(d.Servers) > 0 {
		return d.Servers, nil
	}
	conf, err := dns.ClientConfigFromFile("/etc/resolv.conf")
	if err != nil {
		return nil, fmt.Errorf("reading the name servers (set DNS.Servers to avoid this): %w", err)
	}
	var servers []string
	for _, server := range conf.Servers {
		servers = append(servers, net.JoinHostPort(server, conf.Port))
	}
	return servers, nil
}

// lookup is the answer for one address family.
type lookup struct {
	addrs []netip.Addr
	ttl   time.Duration
	err   error
}

// guardedQuery is query for a goroutine of its own. A panic, for instance about the answer of a name
// server, is an error.
func guardedQuery(ctx context.Context, servers []string, host string, qtype uint16) (result lookup) {
	if err := panics.Recover(slog.Default(), "DNS query", func() error {
		result = query(ctx, servers, host, qtype)
		return nil
	}); err != nil {
		result.err = err
	}
	return result
}

// query sends one question to the servers in order until one answers it.
func query(ctx context.Context, servers []string, host string, qtype uint16) (result lookup) {
	question := new(dns.Msg)
	question.SetQuestion(dns.Fqdn(host), qtype)
	question.SetEdns0(1232, false) // fits unfragmented into every network (DNS Flag Day 2020)
	for _, server := range servers {
		answer, err := exchange(ctx, question, server)
		if err == nil && answer.Rcode != dns.RcodeSuccess {
			err = errors.New(dns.RcodeToString[answer.Rcode])
		}
		if err == nil {
			return parseAnswer(answer)
		}
		result.err = fmt.Errorf("%s %s at %s: %w", dns.TypeToString[qtype], host, server, err)
		if answer != nil && answer.Rcode == dns.RcodeNameError {
			break // authoritative; the other servers would say the same
		}
	}
	return result
}

// exchange queries over UDP, and again over TCP if the answer is truncated.
func exchange(ctx context.Context, question *dns.Msg, server string) (*dns.Msg, error) {
	client := dns.Client{Timeout: 2 * time.Second}
	answer, _, err := client.ExchangeContext(ctx, question, server)
	if err == nil && answer.Truncated {
		client.Net = "tcp"
		answer, _, err = client.ExchangeContext(ctx, question, server)
	}
	return answer, err
}

// parseAnswer returns the addresses and the shortest TTL of the answer, CNAME records included.
func parseAnswer(answer *dns.Msg) (result lookup) {
	result.ttl = maxTTL
	for _, record := range answer.Answer {
		result.ttl = min(result.ttl, time.Duration(record.Header().Ttl)*time.Second)
		switch record := record.(type) {
		case *dns.A:
			result.add(netip.AddrFromSlice(record.A.To4()))
		case *dns.AAAA:
			result.add(netip.AddrFromSlice(record.AAAA))
		}
	}
	return result
}

func (l *lookup) add(addr netip.Addr, ok bool) {
	if ok {
		l.addrs = append(l.addrs, addr)
	}
}

// shortestTTL returns the shortest TTL among the families that have an address.
func shortestTTL(families ...lookup) time.Duration {
	ttl := maxTTL
	for _, family := range families {
		if len(family.addrs) > 0 {
			ttl = min(ttl, family.ttl)
		}
	}
	return ttl
}

func interleave(a, b []netip.Addr) (out []netip.Addr) {
	for i := range max(len(a), len(b)) {
		if i < len(a) {
			out = append(out, a[i])
		}
		if i < len(b) {
			out = append(out, b[i])
		}
	}
	return out
}
