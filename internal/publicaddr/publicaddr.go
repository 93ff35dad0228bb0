// SPDX-License-Identifier: Apache-2.0

// Package publicaddr distinguishes addresses of the public internet from all others, and dials only
// public ones. It prevents a host name that an attacker chose from leading into the operator's
// network (SSRF). It does not resolve names.
package publicaddr

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"syscall"
	"time"
)

// specialPurpose lists the blocks of the IANA special-purpose address registries that the
// predicates of netip do not cover. Their addresses are not public, or they embed another address.
var specialPurpose = []netip.Prefix{
	netip.MustParsePrefix("0.0.0.0/8"),       // this network, RFC 791
	netip.MustParsePrefix("100.64.0.0/10"),   // carrier-grade NAT, RFC 6598
	netip.MustParsePrefix("192.0.0.0/24"),    // protocol assignments, RFC 6890
	netip.MustParsePrefix("192.0.2.0/24"),    // documentation, RFC 5737
	netip.MustParsePrefix("198.18.0.0/15"),   // benchmarks, RFC 2544
	netip.MustParsePrefix("198.51.100.0/24"), // documentation, RFC 5737
	netip.MustParsePrefix("203.0.113.0/24"),  // documentation, RFC 5737
	netip.MustParsePrefix("240.0.0.0/4"),     // reserved and broadcast, RFC 1112
	netip.MustParsePrefix("64:ff9b::/96"),    // NAT64, RFC 6052: embeds any IPv4 address
	netip.MustParsePrefix("64:ff9b:1::/48"),  // local NAT64, RFC 8215
	netip.MustParsePrefix("100::/64"),        // discard, RFC 6666
	netip.MustParsePrefix("2001::/23"),       // protocol assignments, RFC 2928; Teredo embeds IPv4
	netip.MustParsePrefix("2001:db8::/32"),   // documentation, RFC 3849
	netip.MustParsePrefix("2002::/16"),       // 6to4, RFC 3056: embeds any IPv4 address
}

// Public reports whether addr is an address of the public internet. An IPv4-mapped IPv6 address is
// treated as its IPv4 address.
func Public(addr netip.Addr) bool {
	addr = addr.Unmap()
	if !addr.IsGlobalUnicast() || addr.IsPrivate() || addr.Zone() != "" {
		return false
	}
	for _, block := range specialPurpose {
		if block.Contains(addr) {
			return false
		}
	}
	return true
}

// ErrNotPublic means that no connection was made because the address is not public.
var ErrNotPublic = errors.New("not an address of the public internet")

// Dialer connects only to public addresses. It checks the address of each connection after the name
// is resolved, so a name that resolves to another address later (DNS rebinding) does not bypass the
// check.
type Dialer struct {
	// Allow lists networks that may be dialed although they are not public. nil allows none.
	Allow []netip.Prefix
	// Timeout limits name resolution and connecting; zero means 5 s.
	Timeout time.Duration
}

// DialContext is like net.Dialer.DialContext. Its error wraps ErrNotPublic if no address may be
// dialed.
func (d Dialer) DialContext(ctx context.Context, network, address string) (net.Conn, error) {
	timeout := d.Timeout
	if timeout <= 0 {
		timeout = 5 * time.Second
	}
	dialer := net.Dialer{Timeout: timeout, Control: d.control}
	return dialer.DialContext(ctx, network, address)
}

// control checks the address immediately before connecting.
func (d Dialer) control(_, address string, _ syscall.RawConn) error {
	at, err := netip.ParseAddrPort(address)
	if err != nil || !d.allows(at.Addr()) {
		return fmt.Errorf("%s: %w", address, ErrNotPublic)
	}
	return nil
}

func (d Dialer) allows(addr netip.Addr) bool {
	if Public(addr) {
		return true
	}
	for _, network := range d.Allow {
		if network.Contains(addr.Unmap()) {
			return true
		}
	}
	return false
}
