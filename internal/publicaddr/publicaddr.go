// SPDX-License-Identifier: Apache-2.0

// Package internet tells the addresses of the public internet from all others, and connects to those alone, so that a name
// that strangers chose cannot lead into our own network. It judges no name and speaks no protocol.
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

// specialPurpose are the blocks of the IANA special-purpose address registries that netip's own predicates do not know: they are
// nobody's public address, or they hide another address inside.
var specialPurpose = []netip.Prefix{
	netip.MustParsePrefix("0.0.0.0/8"),       // this network, RFC 791
	netip.MustParsePrefix("100.64.0.0/10"),   // carrier-grade NAT, RFC 6598
	netip.MustParsePrefix("192.0.0.0/24"),    // protocol assignments, RFC 6890
	netip.MustParsePrefix("192.0.2.0/24"),    // documentation, RFC 5737
	netip.MustParsePrefix("198.18.0.0/15"),   // benchmarks, RFC 2544
	netip.MustParsePrefix("198.51.100.0/24"), // documentation, RFC 5737
	netip.MustParsePrefix("203.0.113.0/24"),  // documentation, RFC 5737
	netip.MustParsePrefix("240.0.0.0/4"),     // reserved and broadcast, RFC 1112
	netip.MustParsePrefix("64:ff9b::/96"),    // NAT64, RFC 6052: any IPv4 address inside
	netip.MustParsePrefix("64:ff9b:1::/48"),  // local NAT64, RFC 8215
	netip.MustParsePrefix("100::/64"),        // discard, RFC 6666
	netip.MustParsePrefix("2001::/23"),       // protocol assignments, RFC 2928; Teredo hides IPv4
	netip.MustParsePrefix("2001:db8::/32"),   // documentation, RFC 3849
	netip.MustParsePrefix("2002::/16"),       // 6to4, RFC 3056: any IPv4 address inside
}

// Public reports whether an address belongs to the public internet. An IPv4 address in IPv6 clothes counts as what it is.
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

// ErrNotPublic says that a connection was not made, because its address is none of the public internet's.
var ErrNotPublic = errors.New("not an address of the public internet")

// Dialer connects to public addresses alone. It looks at the very address that is dialled, each time, after the name was
// resolved: what the name says to others or later does not matter.
type Dialer struct {
	// Allow are networks that are not public and may be connected to all the same; nil allows none.
	Allow []netip.Prefix
	// Timeout bounds looking up the name and connecting to its addresses; zero is 5 s.
	Timeout time.Duration
}

// DialContext is net.Dialer's; its error is or wraps ErrNotPublic where every address was one that may not be dialled.
func (d Dialer) DialContext(ctx context.Context, network, address string) (net.Conn, error) {
	timeout := d.Timeout
	if timeout <= 0 {
		timeout = 5 * time.Second
	}
	dialer := net.Dialer{Timeout: timeout, Control: d.control}
	return dialer.DialContext(ctx, network, address)
}

// control is called with the address that is about to be connected to.
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
