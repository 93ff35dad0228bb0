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
	"slices"
	"syscall"
	"time"
)

// block is a row of a registry.
type block struct {
	netip.Prefix
	reachable bool // globally
}

// blocks contains the rows of the IANA IPv4 and IPv6 Special-Purpose Address Registries (RFC 6890, RFC
// 8190) with their column Globally Reachable. For an address in several blocks, the smallest one
// counts.
var blocks = []block{
	{netip.MustParsePrefix("0.0.0.0/8"), false},       // this network
	{netip.MustParsePrefix("10.0.0.0/8"), false},      // private use
	{netip.MustParsePrefix("100.64.0.0/10"), false},   // carrier-grade NAT
	{netip.MustParsePrefix("127.0.0.0/8"), false},     // loopback
	{netip.MustParsePrefix("169.254.0.0/16"), false},  // link-local; metadata services of clouds
	{netip.MustParsePrefix("172.16.0.0/12"), false},   // private use
	{netip.MustParsePrefix("192.0.0.0/24"), false},    // protocol assignments
	{netip.MustParsePrefix("192.0.0.9/32"), true},     // PCP anycast
	{netip.MustParsePrefix("192.0.0.10/32"), true},    // TURN anycast
	{netip.MustParsePrefix("192.0.2.0/24"), false},    // documentation
	{netip.MustParsePrefix("192.88.99.0/24"), false},  // 6to4 relay anycast, deprecated
	{netip.MustParsePrefix("192.168.0.0/16"), false},  // private use
	{netip.MustParsePrefix("198.18.0.0/15"), false},   // benchmarks
	{netip.MustParsePrefix("198.51.100.0/24"), false}, // documentation
	{netip.MustParsePrefix("203.0.113.0/24"), false},  // documentation
	{netip.MustParsePrefix("224.0.0.0/4"), false},     // multicast
	{netip.MustParsePrefix("240.0.0.0/4"), false},     // reserved and broadcast

	// Global unicast addresses are in 2000::/3 (IPv6 Address Space registry). This excludes, among
	// others, ::/96 (IPv4-compatible), ::ffff:0:0:0/96 (IPv4-translated), 64:ff9b:1::/48 (local NAT64),
	// 100::/64 (discard), 5f00::/16 (segment routing), fc00::/7 (unique local), fe80::/10 (link-local),
	// fec0::/10 (site-local) and ff00::/8 (multicast).
	{netip.MustParsePrefix("::/0"), false},
	{netip.MustParsePrefix("64:ff9b::/96"), true}, // NAT64
	{netip.MustParsePrefix("2000::/3"), true},
	{netip.MustParsePrefix("2001::/23"), false},      // protocol assignments
	{netip.MustParsePrefix("2001::/32"), true},       // Teredo
	{netip.MustParsePrefix("2001:1::1/128"), true},   // PCP anycast
	{netip.MustParsePrefix("2001:1::2/128"), true},   // TURN anycast
	{netip.MustParsePrefix("2001:1::3/128"), true},   // DNS-SD registration anycast
	{netip.MustParsePrefix("2001:3::/32"), true},     // automatic multicast tunneling
	{netip.MustParsePrefix("2001:4:112::/48"), true}, // AS112
	{netip.MustParsePrefix("2001:20::/28"), true},    // ORCHIDv2
	{netip.MustParsePrefix("2001:30::/28"), true},    // drone remote ID
	{netip.MustParsePrefix("2001:db8::/32"), false},  // documentation
	{netip.MustParsePrefix("3fff::/20"), false},      // documentation
}

var (
	nat64     = netip.MustParsePrefix("64:ff9b::/96") // RFC 6052
	sixToFour = netip.MustParsePrefix("2002::/16")    // RFC 3056
	teredo    = netip.MustParsePrefix("2001::/32")    // RFC 4380
)

// Public reports whether addr is an address of the public internet. An IPv6 address that leads to
// an IPv4 address is public only if that is. A NAT64 prefix that only the operator's network uses
// (RFC 6052 §2.2) cannot be recognized.
func Public(addr netip.Addr) bool {
	addr = addr.Unmap()
	if !addr.IsValid() || addr.Zone() != "" || !reachable(addr) {
		return false
	}
	return addr.Is4() || !slices.ContainsFunc(embeddedIPv4(addr), func(a netip.Addr) bool { return !reachable(a) })
}

// reachable returns whether the smallest block with addr is globally reachable. An IPv4 address
// without a block is.
func reachable(addr netip.Addr) bool {
	found, bits := true, -1
	for _, b := range blocks {
		if b.Bits() > bits && b.Contains(addr) {
			found, bits = b.reachable, b.Bits()
		}
	}
	return found
}

// embeddedIPv4 returns the IPv4 addresses that packets to an IPv6 address are forwarded to.
func embeddedIPv4(addr netip.Addr) []netip.Addr {
	b := addr.As16()
	at := func(offset int) netip.Addr { return netip.AddrFrom4([4]byte(b[offset : offset+4])) }
	switch {
	case nat64.Contains(addr):
		return []netip.Addr{at(12)}
	case sixToFour.Contains(addr):
		return []netip.Addr{at(2)}
	case teredo.Contains(addr): // the server, and the client with all its bits inverted
		client := netip.AddrFrom4([4]byte{^b[12], ^b[13], ^b[14], ^b[15]})
		return []netip.Addr{at(4), client}
	case b[8]&^2 == 0 && b[9] == 0 && b[10] == 0x5e && b[11] == 0xfe: // ISATAP, RFC 5214
		return []netip.Addr{at(12)}
	}
	return nil
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
