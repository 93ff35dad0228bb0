// SPDX-License-Identifier: Apache-2.0

package main

import (
	"net"
	"net/netip"
	"sync/atomic"

	"github.com/miekg/dns"
)

// names is a name server of ours. It gives everybody who asks for an IPv4 address the same answer.
type names struct {
	addr string // ip:port
	says atomic.Pointer[answer]
}

// answer is what it says: addresses, good for a second, or a code that is no success.
type answer struct {
	addrs []netip.Addr
	code  int
}

// nameServer starts one that ends with the row.
func (s *stage) nameServer(addrs ...netip.Addr) *names {
	conn, err := net.ListenPacket("udp", "127.0.0.1:0")
	s.need(err)
	n := &names{addr: conn.LocalAddr().String()}
	n.says.Store(&answer{addrs: addrs})
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
func (n *names) ServeDNS(w dns.ResponseWriter, question *dns.Msg) {
	says, reply := n.says.Load(), new(dns.Msg)
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
