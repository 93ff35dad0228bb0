// SPDX-License-Identifier: Apache-2.0

package main

import (
	"fmt"
	"net"
	"net/netip"
	"strings"
	"sync/atomic"
	"time"

	"github.com/miekg/dns"

	"github.com/sluice-push/sluice/mockprovider"
)

// misnamed is S15: for Apple's real name and port, in a network of our own, DNS answers SERVFAIL, then nothing, then
// private addresses, where somebody listens. Answers are good for a second and endpoints are old after ten, so that each
// phase outlives what the pool knows several times over; the ten minutes of the default age would show no more.
func misnamed(s *stage) {
	const phase = 15 * time.Second
	s.need(own(s.ctx, "17.188.143.0/24", "10.0.0.0/24"))
	var public, private []netip.Addr
	for i := 1; i <= size; i++ {
		public = append(public, netip.AddrFrom4([4]byte{17, 188, 143, byte(i)}))
		private = append(private, netip.AddrFrom4([4]byte{10, 0, 0, byte(i)}))
	}
	trapped := s.trap(private)
	server := s.nameServer(public...)
	m := s.mock(mockprovider.Config{APNsListen: at(public, 443)})
	files, err := m.WriteFiles(s.folder())
	s.need(err)
	ready := m.Ready(files)
	g := s.serve(fmt.Sprintf("dns: {servers: ['%s']}\npool: {max_age: 10s}", server.addr), app{shop, fmt.Sprintf(
		"apns: {ca_file: %q, key_file: %q, key_id: %s, team_id: %s, topic: %s}",
		ready.CAFile, ready.APNsKeyFile, ready.APNsKeyID, ready.APNsTeamID, ready.APNsTopic)})

	load := s.offer(g, rate, 4*phase, toDevice)
	load.at(phase)
	cut := time.Now()
	for i, says := range []answer{{code: dns.RcodeServerFailure}, {}, {addrs: private}} {
		server.says.Store(&says)
		load.at(time.Duration(i+2) * phase)
	}
	e := gather(m, load.wait(), cut)

	s.none("failed", s.failed(e.after, e.accepted))
	s.none("private addresses dialled", int(trapped.Load())+g.dialledPrivate())
	s.must("answers refused", fmt.Sprint(len(g.since(cut, "resolve_failed", ""))), len(g.since(cut, "resolve_failed", "")) > 3)
	s.p99(e, 50*time.Millisecond)
	s.none("duplicates", e.duplicates())
	s.dials(g, m, mockprovider.APNs)
}

// trap listens on the private addresses and counts who connects.
func (s *stage) trap(private []netip.Addr) *atomic.Int64 {
	var count atomic.Int64
	for _, where := range at(private, 443) {
		listener, err := net.Listen("tcp", where)
		s.need(err)
		s.Cleanup(func() { _ = listener.Close() })
		go func() {
			for {
				conn, err := listener.Accept()
				if err != nil {
					return
				}
				count.Add(1)
				_ = conn.Close()
			}
		}()
	}
	return &count
}

// dialledPrivate counts what the gateway's log says of dials to private addresses.
func (g *gateway) dialledPrivate() (n int) {
	for _, kind := range []string{"dialled", "dial_failed"} {
		for _, e := range g.since(g.born, kind, "") {
			if strings.HasPrefix(e.Endpoint, "10.") {
				n++
			}
		}
	}
	return n
}
