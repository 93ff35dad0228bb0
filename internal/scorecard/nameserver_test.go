// SPDX-License-Identifier: Apache-2.0

package scorecard

import (
	"net"
	"net/netip"
	"sync/atomic"

	"github.com/miekg/dns"
)

// nameServer is a DNS server that gives the same answer to every query for an IPv4 address.
type nameServer struct {
	addr   string // ip:port
	answer atomic.Pointer[dnsAnswer]
}

// dnsAnswer is the answer of a nameServer: addresses with a TTL of one second, or an error code.
type dnsAnswer struct {
	addrs []netip.Addr
	code  int
}

// startNameServer starts a DNS server that stops at the end of the row.
func (s *scenario) startNameServer(addrs ...netip.Addr) *nameServer {
	conn, err := net.ListenPacket("udp", "127.0.0.1:0")
	s.noError(err)
	n := &nameServer{addr: conn.LocalAddr().String()}
	n.answer.Store(&dnsAnswer{addrs: addrs})
	server := &dns.Server{PacketConn: conn, Handler: n}
	done := make(chan struct{})
	go func() {
		defer close(done)
		_ = server.ActivateAndServe() // ends when conn is closed
	}()
	s.Cleanup(func() {
		_ = conn.Close()
		<-done
	})
	return n
}

// ServeDNS answers one query.
func (n *nameServer) ServeDNS(w dns.ResponseWriter, question *dns.Msg) {
	answer, reply := n.answer.Load(), new(dns.Msg)
	reply.SetRcode(question, answer.code)
	if answer.code == dns.RcodeSuccess && len(question.Question) == 1 && question.Question[0].Qtype == dns.TypeA {
		for _, addr := range answer.addrs {
			reply.Answer = append(reply.Answer, &dns.A{
				Hdr: dns.RR_Header{Name: question.Question[0].Name, Rrtype: dns.TypeA, Class: dns.ClassINET, Ttl: 1},
				A:   addr.AsSlice(),
			})
		}
	}
	_ = w.WriteMsg(reply) // the client retries
}
