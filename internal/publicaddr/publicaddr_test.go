// SPDX-License-Identifier: Apache-2.0

package publicaddr_test

import (
	"encoding/csv"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"slices"
	"strings"
	"testing"

	"github.com/sluice-push/sluice/internal/publicaddr"
)

func TestPublic(t *testing.T) {
	for public, addrs := range map[bool][]string{
		true: {
			"17.188.143.98", "8.8.8.8", "1.1.1.1", "2a00:1450:4001:80f::200a", "::ffff:8.8.8.8", "2600::", "3ffe:ffff::1",
			// IPv4 addresses that are embedded
			"64:ff9b::8.8.8.8", "64:ff9b::808:808", "2002:808:808::1", "2001:0:808:808::f7f7:f7f7", "2a00:1450::5efe:8.8.8.8", "2a00:1450::200:5efe:808:808",
			// neighbours of blocks
			"9.255.255.255", "11.0.0.0", "100.63.255.255", "100.128.0.0", "172.15.255.255", "172.32.0.0", "192.0.1.0", "198.17.255.255", "198.20.0.0",
			"223.255.255.255", "2001:200::", "2001:db7:ffff::", "2001:db9::", "2003::", "3fff:1000::", "2000::1",
		},
		false: {
			"127.0.0.1", "0.0.0.0", "10.1.2.3", "172.16.0.1", "192.168.1.1", "169.254.169.254", "100.64.0.1", "224.0.0.1", "255.255.255.255",
			"192.0.2.1", "198.18.0.1", "192.0.0.170", "192.88.99.1", "::", "::1", "fe80::1", "fe80::1%eth0", "2a00:1450::1%eth0", "fd00::1", "ff02::1",
			"::ffff:127.0.0.1", "::ffff:169.254.169.254", "fd00:ec2::254",
			// IPv4-compatible, IPv4-translated, site-local, local NAT64, 6bone and unassigned
			"::127.0.0.1", "::8.8.8.8", "::10.0.0.1", "::ffff:0:127.0.0.1", "::ffff:0:8.8.8.8", "fec0::1", "feff::1", "64:ff9b:1::808:808", "64:ff9b:1:808::8.8.8.8",
			"100::1", "100:0:0:1::1", "5f00::1", "3fff::1", "3fff:fff:ffff::1", "4000::1", "1fff:ffff::1", "e000::1", "200::1", "400::1",
			"2001:db8::1", "2001:2::1", "2001:10::1", "2001:1::4", "2001:5::1", "2001:100::1",
			// private IPv4 addresses that are embedded
			"64:ff9b::7f00:1", "64:ff9b::10.0.0.1", "64:ff9b::169.254.169.254", "64:ff9b::192.0.0.170", "64:ff9b::",
			"2002:7f00:1::", "2002:a00:1::1", "2002:a9fe:a9fe::", "2002:c0a8:101::1",
			"2001:0:4136:e378::", "2001:0:7f00:1::f7f7:f7f7", "2001:0:808:808::80ff:fffe", "2001:0:808:808::f5ff:fffe",
			"2a00:1450::5efe:10.0.0.1", "2a00:1450::200:5efe:127.0.0.1", "fe80::5efe:8.8.8.8",
		},
	} {
		for _, addr := range addrs {
			if got := publicaddr.Public(netip.MustParseAddr(addr)); got != public {
				t.Errorf("Public(%s) = %v", addr, got)
			}
		}
	}
	if publicaddr.Public(netip.Addr{}) {
		t.Error("the zero address is public")
	}
}

// TestPublicFollowsRegistries checks the first and the last address of every row of the IANA
// registries, except for rows whose addresses depend on an embedded address.
func TestPublicFollowsRegistries(t *testing.T) {
	text, err := os.ReadFile("testdata/iana-special-purpose.csv")
	if err != nil {
		t.Fatal(err)
	}
	rows, err := csv.NewReader(strings.NewReader(string(text))).ReadAll()
	if err != nil || len(rows) < 45 {
		t.Fatalf("%d rows, %v", len(rows), err)
	}
	nested := func(addr netip.Addr, bits int) bool { // it belongs to a smaller block
		return slices.ContainsFunc(rows[1:], func(row []string) bool {
			p := netip.MustParsePrefix(row[0])
			return p.Bits() > bits && p.Contains(addr)
		})
	}
	for _, row := range rows[1:] {
		block := netip.MustParsePrefix(row[0])
		for _, addr := range []netip.Addr{block.Addr(), last(block)} {
			if row[2] == "embedded" || nested(addr, block.Bits()) {
				continue
			}
			if want := row[2] == "true"; publicaddr.Public(addr) != want {
				t.Errorf("Public(%s) = %v, in %s (%s)", addr, !want, block, row[1])
			}
		}
	}
}

// last returns the last address of a block.
func last(p netip.Prefix) netip.Addr {
	b := p.Addr().AsSlice()
	for i := p.Bits(); i < len(b)*8; i++ {
		b[i/8] |= 0x80 >> (i % 8)
	}
	addr, _ := netip.AddrFromSlice(b)
	return addr
}

func TestDialerChecksAddressNotName(t *testing.T) {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = listener.Close() }()
	_, port, _ := net.SplitHostPort(listener.Addr().String())
	for _, host := range []string{"127.0.0.1", "localhost", "::ffff:127.0.0.1", "0.0.0.0"} {
		conn, err := publicaddr.Dialer{}.DialContext(t.Context(), "tcp", net.JoinHostPort(host, port))
		if !errors.Is(err, publicaddr.ErrNotPublic) {
			t.Errorf("%s: %v %v", host, conn, err)
		}
	}
	allowed := publicaddr.Dialer{Allow: []netip.Prefix{netip.MustParsePrefix("127.0.0.0/8")}}
	conn, err := allowed.DialContext(t.Context(), "tcp", listener.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	_ = conn.Close()
}

func ExamplePublic() {
	for _, addr := range []string{"17.188.143.98", "169.254.169.254", "::ffff:10.0.0.1"} {
		fmt.Println(addr, publicaddr.Public(netip.MustParseAddr(addr)))
	}
	// Output:
	// 17.188.143.98 true
	// 169.254.169.254 false
	// ::ffff:10.0.0.1 false
}
