// SPDX-License-Identifier: Apache-2.0

package publicaddr_test

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"testing"

	"github.com/sluice-push/sluice/internal/publicaddr"
)

func TestPublic(t *testing.T) {
	for public, addrs := range map[bool][]string{
		true: {"17.188.143.98", "8.8.8.8", "2a00:1450:4001:80f::200a", "::ffff:8.8.8.8"},
		false: {
			"127.0.0.1", "0.0.0.0", "10.1.2.3", "172.16.0.1", "192.168.1.1", "169.254.169.254", "100.64.0.1", "224.0.0.1", "255.255.255.255",
			"192.0.2.1", "198.18.0.1", "::", "::1", "fe80::1", "fe80::1%eth0", "fd00::1", "ff02::1", "::ffff:127.0.0.1", "::ffff:169.254.169.254",
			"64:ff9b::7f00:1", "2002:7f00:1::", "2001:0:4136:e378::", "2001:db8::1",
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
