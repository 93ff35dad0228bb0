// SPDX-License-Identifier: Apache-2.0

package pool

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"time"

	"github.com/miekg/dns"
	"golang.org/x/sync/errgroup"
)

// DNS asks name servers itself, for A and AAAA, and so sees the TTLs that the
// operating system hides.
type DNS struct {
	Host string
	Port uint16 // 0 means 443
	// Servers are "host:port", asked in turn until one answers; none means
	// those of /etc/resolv.conf.
	Servers []string
}

var (
	_ Resolver = Static(nil)
	_ Resolver = System{}
	_ Resolver = DNS{}
)

// Resolve asks for both families at once. One that fails does not spoil the
// other. The answer takes turns between them, IPv6 first (RFC 8305, section
// 4), so that a family that does not work costs no more than half the dials.
func (d DNS) Resolve(ctx context.Context) ([]netip.AddrPort, time.Duration, error) {
	servers, err := d.servers()
	if err != nil {
		return nil, 0, err
	}
	var v4, v6 lookup
	var both errgroup.Group
	both.Go(func() error { v4 = query(ctx, servers, d.Host, dns.TypeA); return nil })
	both.Go(func() error { v6 = query(ctx, servers, d.Host, dns.TypeAAAA); return nil })
	_ = both.Wait()
	addrs := interleave(v6.addrs, v4.addrs)
	if len(addrs) == 0 {
		return nil, 0, errors.Join(v4.err, v6.err)
	}
	return withPort(addrs, d.Port), shortestTTL(v4, v6), nil
}

func (d DNS) servers() ([]string, error) {
	if len(d.Servers) > 0 {
		return d.Servers, nil
	}
	conf, err := dns.ClientConfigFromFile("/etc/resolv.conf")
	if err != nil {
		return nil, fmt.Errorf("reading the name servers (or name them): %w", err)
	}
	var servers []string
	for _, server := range conf.Servers {
		servers = append(servers, net.JoinHostPort(server, conf.Port))
	}
	return servers, nil
}

// lookup is the answer for one family.
type lookup struct {
	addrs []netip.Addr
	ttl   time.Duration
	err   error
}

// query puts one question to the servers until one answers it.
func query(ctx context.Context, servers []string, host string, kind uint16) (found lookup) {
	question := new(dns.Msg)
	question.SetQuestion(dns.Fqdn(host), kind)
	question.SetEdns0(1232, false) // what passes every network unfragmented (DNS flag day 2020)
	for _, server := range servers {
		answer, err := exchange(ctx, question, server)
		if err == nil && answer.Rcode != dns.RcodeSuccess {
			err = errors.New(dns.RcodeToString[answer.Rcode])
		}
		if err == nil {
			return parseAnswer(answer)
		}
		found.err = fmt.Errorf("%s %s at %s: %w", dns.TypeToString[kind], host, server, err)
		if answer != nil && answer.Rcode == dns.RcodeNameError {
			break // a firm no; the others would say the same
		}
	}
	return found
}

// exchange goes over UDP, and over TCP when the answer does not fit.
func exchange(ctx context.Context, question *dns.Msg, server string) (*dns.Msg, error) {
	client := dns.Client{Timeout: 2 * time.Second}
	answer, _, err := client.ExchangeContext(ctx, question, server)
	if err == nil && answer.Truncated {
		client.Net = "tcp"
		answer, _, err = client.ExchangeContext(ctx, question, server)
	}
	return answer, err
}

// parseAnswer takes the addresses, and the least TTL on the way to them: a chain of
// aliases is as short-lived as its shortest link.
func parseAnswer(answer *dns.Msg) (found lookup) {
	found.ttl = maxTTL
	for _, record := range answer.Answer {
		found.ttl = min(found.ttl, time.Duration(record.Header().Ttl)*time.Second)
		switch record := record.(type) {
		case *dns.A:
			found.add(netip.AddrFromSlice(record.A.To4()))
		case *dns.AAAA:
			found.add(netip.AddrFromSlice(record.AAAA))
		}
	}
	return found
}

func (l *lookup) add(addr netip.Addr, ok bool) {
	if ok {
		l.addrs = append(l.addrs, addr)
	}
}

// shortestTTL is the TTL of an answer of both families; one without an address
// has no say.
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
