// SPDX-License-Identifier: Apache-2.0

package pool_test

import (
	"context"
	"net"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/miekg/dns"

	"github.com/sluice-push/sluice/internal/testwait"
	"github.com/sluice-push/sluice/pool"
)

func TestResolveIntervalFollowsTTL(t *testing.T) {
	for name, test := range map[string]struct{ ttl, want time.Duration }{
		"none":      {0, time.Second},
		"short":     {100 * time.Millisecond, time.Second},
		"in bounds": {7 * time.Second, 7 * time.Second},
		"long":      {24 * time.Hour, 30 * time.Second},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				tp := newTestPool(t, 8, pool.Config{})
				tp.ttl = test.ttl
				tp.run()
				advance(10*test.want + test.want/2)
				if tp.resolves != 11 {
					t.Errorf("in ten and a half times %s there were %d resolves; want 11", test.want, tp.resolves)
				}
			})
		})
	}
}

func TestMissingSpareTriggersResolve(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		tp := newTestPool(t, 2, pool.Config{Size: 2})
		tp.ttl = 30 * time.Second
		tp.run()
		advance(time.Second)
		tp.mu.Lock()
		tp.addrs = addrs(1, 3)
		tp.mu.Unlock()
		tp.eject(1)
		advance(5 * time.Second)
		tp.wantMembers(2, 3)
	})
}

func TestDuplicateAndMappedAddressesAreOneEndpoint(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		tp := newTestPool(t, 0, pool.Config{})
		mapped := netip.AddrPortFrom(netip.AddrFrom16(addr(1).Addr().As16()), 443)
		tp.addrs = []netip.AddrPort{addr(1), mapped, addr(1), {}, addr(2)}
		tp.run()
		advance(time.Second)
		tp.wantMembers(1, 2)
	})
}

func TestUnlistedAddressesAreForgotten(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		tp := startPool(t, 2, pool.Config{Size: 2})
		for i := range 200 {
			tp.setAddrs(append(addrs(10*i+3, 10*i+9), addrs(1, 2)...)...)
			advance(25 * time.Second)
		}
		if n := len(tp.Status().Spares); n > 7*25 {
			t.Errorf("after 1,400 addresses in 100 minutes the pool keeps %d; want those of about the last ten minutes", n)
		}
	})
}

// listResolver is a resolver that returns these addresses.
type listResolver []string

func (l listResolver) Resolve(context.Context) (out []netip.AddrPort, ttl time.Duration, err error) {
	for _, text := range l {
		out = append(out, netip.AddrPortFrom(netip.MustParseAddr(text), 443))
	}
	return out, time.Second, nil
}

func TestPublicOnlyRejectsPrivateAddresses(t *testing.T) {
	private := listResolver{
		"127.0.0.1", "10.1.2.3", "172.16.0.1", "192.168.1.1", "169.254.169.254", "100.64.0.1", "0.0.0.0", "255.255.255.255",
		"224.0.0.1", "192.0.2.1", "198.18.0.1", "::", "::1", "fe80::1", "fc00::1", "fd12::1", "ff02::1",
		"::ffff:127.0.0.1", "::ffff:10.0.0.1", "64:ff9b::7f00:1", "2002:7f00:1::1", "2001:db8::1",
	}
	for _, text := range private {
		if got, _, err := pool.PublicOnly(listResolver{text}).Resolve(t.Context()); err == nil {
			t.Errorf("private address %s was accepted: %v", text, got)
		}
	}
	open := listResolver{"17.188.143.98", "2620:149:208:4304::3", "142.250.0.95", "2a00:1450:4001::5f"}
	got, ttl, err := pool.PublicOnly(append(private[:len(private):len(private)], open...)).Resolve(t.Context())
	if want, _, _ := open.Resolve(t.Context()); !slices.Equal(got, want) || ttl != time.Second || err != nil {
		t.Errorf("the public addresses of a mixed answer are %v, %v; want %v", got, err, want)
	}
	if got, _, err := pool.PublicOnly(listResolver{}).Resolve(t.Context()); len(got) != 0 || err != nil {
		t.Errorf("an empty answer became %v, %v", got, err)
	}
}

func TestPublicOnlyPoolNeverDialsPrivateAddress(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		tp := newTestPool(t, 3, pool.Config{}) // 10.0.0.x
		var dialed int
		p, err := pool.New(pool.Config{Resolver: pool.PublicOnly(tp), Dial: func(context.Context, netip.AddrPort) (pool.Conn, error) {
			dialed++
			return nil, errCut
		}})
		if err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithCancel(t.Context())
		ended := make(chan error)
		go func() { ended <- p.Run(ctx) }()
		advance(10 * time.Minute)
		if err := p.Ready(); dialed != 0 || err == nil || !strings.Contains(err.Error(), "private addresses only") {
			t.Errorf("%d dials, Ready() = %v", dialed, err)
		}
		cancel()
		if err := <-ended; err != nil {
			t.Error(err)
		}
	})
}

func TestStaticAndSystemResolvers(t *testing.T) {
	static := pool.Static(addrs(1, 3))
	if got, ttl, err := static.Resolve(t.Context()); !slices.Equal(got, addrs(1, 3)) || ttl != 30*time.Second || err != nil {
		t.Errorf("Static = %v, %s, %v", got, ttl, err)
	}
	got, ttl, err := pool.System{Host: "127.0.0.1", Port: 8443}.Resolve(t.Context())
	if want := []netip.AddrPort{netip.MustParseAddrPort("127.0.0.1:8443")}; !slices.Equal(got, want) || ttl != 30*time.Second || err != nil {
		t.Errorf("System = %v, %s, %v; want %v", got, ttl, err, want)
	}
	got, _, err = pool.System{Host: "::1"}.Resolve(t.Context())
	if want := []netip.AddrPort{netip.MustParseAddrPort("[::1]:443")}; !slices.Equal(got, want) || err != nil {
		t.Errorf("System = %v, %v; want %v", got, err, want)
	}
}

// dnsServer is a DNS server on a loopback socket.
type dnsServer struct {
	records  map[uint16][]string // by type
	rcode    int
	truncate bool // truncate responses over UDP
}

func (s dnsServer) ServeDNS(w dns.ResponseWriter, question *dns.Msg) {
	answer := new(dns.Msg)
	answer.SetReply(question)
	answer.Rcode = s.rcode
	_, tcp := w.RemoteAddr().(*net.TCPAddr)
	if answer.Truncated = s.truncate && !tcp; !answer.Truncated {
		for _, text := range s.records[question.Question[0].Qtype] {
			record, err := dns.NewRR(text)
			if err != nil {
				panic(err)
			}
			answer.Answer = append(answer.Answer, record)
		}
	}
	_ = w.WriteMsg(answer)
}

// listenOnePort listens on a free port for UDP and TCP.
func listenOnePort(t *testing.T) (packets net.PacketConn, streams net.Listener) {
	t.Helper()
	for range 20 { // the TCP port with the same number may be in use
		packets, err := net.ListenPacket("udp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		if streams, err = net.Listen("tcp", packets.LocalAddr().String()); err == nil {
			return packets, streams
		}
		_ = packets.Close()
	}
	t.Fatal("no port is free for UDP and TCP")
	return nil, nil
}

// serve runs the server on UDP and TCP and returns its address.
func (s dnsServer) serve(t *testing.T) string {
	t.Helper()
	packets, streams := listenOnePort(t)
	for _, server := range []*dns.Server{{PacketConn: packets, Handler: s}, {Listener: streams, Handler: s}} {
		started := make(chan struct{})
		server.NotifyStartedFunc = func() { close(started) }
		ended := make(chan struct{})
		go func() {
			defer close(ended)
			_ = server.ActivateAndServe()
		}()
		testwait.For(t, started, "the start of the DNS server")
		t.Cleanup(func() {
			_ = server.Shutdown()
			<-ended
		})
	}
	return packets.LocalAddr().String()
}

// resolve calls d.Resolve. It repeats the call if the machine was too busy to respond within the
// query timeout.
func resolve(t *testing.T, d pool.DNS) (addrs []netip.AddrPort, ttl time.Duration, err error) {
	for range 20 {
		start := time.Now()
		if addrs, ttl, err = d.Resolve(t.Context()); time.Since(start) < 2*time.Second {
			break
		}
	}
	return addrs, ttl, err
}

func TestDNSResolver(t *testing.T) {
	both := map[uint16][]string{
		dns.TypeA: {
			"api.test. 20 IN CNAME lb.test.", "lb.test. 9 IN CNAME edge.test.",
			"edge.test. 60 IN A 17.188.143.1", "edge.test. 60 IN A 17.188.143.2", "edge.test. 60 IN A 17.188.143.3",
		},
		dns.TypeAAAA: {"api.test. 12 IN AAAA 2620:149:208::1"},
	}
	four := []string{"17.188.143.1:443", "17.188.143.2:443", "17.188.143.3:443"}
	tests := map[string]struct {
		server dnsServer
		want   []string
		ttl    time.Duration
		fail   string
	}{
		"both":                  {server: dnsServer{records: both}, want: []string{"[2620:149:208::1]:443", four[0], four[1], four[2]}, ttl: 9 * time.Second},
		"over TCP":              {server: dnsServer{records: both, truncate: true}, want: []string{"[2620:149:208::1]:443", four[0], four[1], four[2]}, ttl: 9 * time.Second},
		"IPv4 only":             {server: dnsServer{records: map[uint16][]string{dns.TypeA: both[dns.TypeA]}}, want: four, ttl: 9 * time.Second},
		"IPv6 only":             {server: dnsServer{records: map[uint16][]string{dns.TypeAAAA: both[dns.TypeAAAA]}}, want: []string{"[2620:149:208::1]:443"}, ttl: 12 * time.Second},
		"none":                  {server: dnsServer{}, ttl: 0},
		"no such name":          {server: dnsServer{rcode: dns.RcodeNameError}, fail: "NXDOMAIN"},
		"server failure":        {server: dnsServer{rcode: dns.RcodeServerFailure}, fail: "SERVFAIL"},
		"refused":               {server: dnsServer{rcode: dns.RcodeRefused}, fail: "REFUSED"},
		"TTL above the maximum": {server: dnsServer{records: map[uint16][]string{dns.TypeA: {"api.test. 86400 IN A 17.188.143.1"}}}, want: four[:1], ttl: 30 * time.Second},
		"TTL of zero":           {server: dnsServer{records: map[uint16][]string{dns.TypeA: {"api.test. 0 IN A 17.188.143.1"}}}, want: four[:1], ttl: 0},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			addr := test.server.serve(t)
			found, ttl, err := resolve(t, pool.DNS{Host: "api.test", Servers: []string{addr}})
			var got []string
			for _, a := range found {
				got = append(got, a.String())
			}
			if !slices.Equal(got, test.want) || ttl != test.ttl && err == nil && len(got) > 0 {
				t.Errorf("Resolve = %v, %s, %v; want %v, %s", got, ttl, err, test.want, test.ttl)
			}
			if test.fail == "" && err != nil || test.fail != "" && (err == nil || !strings.Contains(err.Error(), test.fail)) {
				t.Errorf("the error is %v; want one that contains %q", err, test.fail)
			}
		})
	}
}

func TestDNSTriesNextServer(t *testing.T) {
	failing := dnsServer{rcode: dns.RcodeServerFailure}.serve(t)
	healthy := dnsServer{records: map[uint16][]string{dns.TypeA: {"api.test. 5 IN A 17.188.143.1"}}}.serve(t)
	found, _, err := resolve(t, pool.DNS{Host: "api.test", Port: 2197, Servers: []string{failing, healthy}})
	if want := []netip.AddrPort{netip.MustParseAddrPort("17.188.143.1:2197")}; !slices.Equal(found, want) || err != nil {
		t.Errorf("Resolve = %v, %v; want %v", found, err, want)
	}
}

func TestEndpointNameIsShown(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		tp := startPool(t, 2, pool.Config{EndpointName: func(addr netip.AddrPort) string { return "push.example#" + addr.Addr().String() }})
		for _, e := range tp.Status().Endpoints {
			if !strings.HasPrefix(e.Address, "push.example#10.0.0.") {
				t.Errorf("an endpoint is named %s", e.Address)
			}
		}
	})
}
