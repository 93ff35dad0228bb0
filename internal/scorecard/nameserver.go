// SPDX-License-Identifier: Apache-2.0

package main

import (
	"net"
	"net/netip"
	"sync/atomic"

	"github.com/miekg/dns"
)

// nameServer is a name server of ours. It gives everybody who asks for an IPv4 address the same answer.
type nameServer struct {
	addr   string // ip:port
	answer atomic.Pointer[dnsAnswer]
}

// dnsAnswer is what it says: addresses, good for a second, or a code that is no success.
type dnsAnswer struct {
	addrs []netip.Addr
	code  int
}

// startNameServer starts one that ends with the row.
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

// ServeDNS answers one question.
func (n *nameServer) ServeDNS(w dns.ResponseWriter, question *dns.Msg) {
	says, reply := n.answer.Load(), new(dns.Msg)
	reply.SetRcode(question, says.code)
	if says.code == dns.RcodeSuccess && len(question.Question) == 1 && question.Question[0].Qtype == dns.TypeA {
		for _, addr := range says.addrs {
			reply.Answer = append(reply.Answer, &dns.A{
				Hdr: dns.RR_Header{Name: question.Question[0].Name, Rrtype: dns.TypeA, Class: dns.ClassINET, Ttl: 1},
				A:   addr.AsSlice(),
			})
		}
	}
	_ = w.WriteMsg(reply) // who asked asks again
}
