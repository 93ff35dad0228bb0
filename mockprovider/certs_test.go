// SPDX-License-Identifier: Apache-2.0

package mockprovider_test

import (
	"crypto/tls"
	"net"
	"net/netip"
	"slices"
	"testing"

	"github.com/sluice-push/sluice/internal/testtool"
	"github.com/sluice-push/sluice/mockprovider"
)

func TestCertificateIsValidForEveryListenAddress(t *testing.T) {
	if l, err := net.Listen("tcp", "127.0.0.2:0"); err != nil {
		testtool.Missing(t, "needs a second loopback address: "+err.Error())
	} else {
		_ = l.Close()
	}
	m := mockprovider.Start(t, mockprovider.Config{
		Advertise: "push.test", APNsListen: []string{"127.0.0.1:0", "127.0.0.2:0"}, APNsManageListen: "127.0.0.3:0",
		FCMListen: []string{"127.0.0.4:0"}, OAuthListen: "127.0.0.5:0", WebPushListen: "localhost:0",
	})
	ready := m.Ready(mockprovider.Files{})
	for _, addr := range slices.Concat(m.APNsAddrs(), m.FCMAddrs(), []netip.AddrPort{m.APNsManageAddr()}) {
		for _, host := range []string{addr.Addr().String(), "127.0.0.5", "127.0.0.1", "localhost", "push.test", "api.push.apple.com"} {
			wantCertificateFor(t, m, addr.String(), host)
		}
	}
	for _, host := range []string{"push.test", "127.0.0.5", "localhost"} {
		_, port, _ := net.SplitHostPort(ready.TokenURL[len("https://") : len(ready.TokenURL)-len("/token")])
		wantCertificateFor(t, m, net.JoinHostPort("127.0.0.5", port), host)
		_, port, _ = net.SplitHostPort(ready.WebPush[len("https://"):])
		wantCertificateFor(t, m, net.JoinHostPort("localhost", port), host)
	}
}

// TestCertificateForAnUnspecifiedAddress checks that a mock in a container, which listens on 0.0.0.0, can
// be reached at each address of the container.
func TestCertificateForAnUnspecifiedAddress(t *testing.T) {
	m := mockprovider.Start(t, mockprovider.Config{Listen: "0.0.0.0", Endpoints: 1})
	addrs, err := net.InterfaceAddrs()
	if err != nil {
		t.Fatal(err)
	}
	for _, a := range addrs {
		if network, ok := a.(*net.IPNet); ok && network.IP.To4() != nil {
			addr := m.APNsAddrs()[0]
			wantCertificateFor(t, m, netip.AddrPortFrom(netip.MustParseAddr(network.IP.String()), addr.Port()).String(), network.IP.String())
		}
	}
}

// wantCertificateFor connects to addr and verifies the certificate for host.
func wantCertificateFor(t *testing.T, m *mockprovider.Mock, addr, host string) {
	t.Helper()
	config := m.ClientTLS()
	config.ServerName = host
	c, err := tls.Dial("tcp", addr, config)
	if err != nil {
		t.Errorf("%s as %s: %v", addr, host, err)
		return
	}
	_ = c.Close()
}
