// SPDX-License-Identifier: Apache-2.0

package scorecard

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

// badDNSAnswers is S15. For Apple's real name and port in a network namespace, DNS answers
// SERVFAIL, then no address, then private addresses with listeners. DNS answers have a TTL of one
// second and max_age is ten seconds, so each phase outlasts everything that the pool has cached.
// The default max_age of ten minutes would show nothing more.
func badDNSAnswers(s *scenario) {
	const phase = 15 * time.Second
	s.noError(routeLocally(s.ctx, "17.188.143.0/24", "10.0.0.0/24"))
	var public, private []netip.Addr
	for i := 1; i <= poolSize; i++ {
		public = append(public, netip.AddrFrom4([4]byte{17, 188, 143, byte(i)}))
		private = append(private, netip.AddrFrom4([4]byte{10, 0, 0, byte(i)}))
	}
	privateConns := s.countConnections(private)
	server := s.startNameServer(public...)
	m := s.startMock(mockprovider.Config{APNsListen: addrPorts(public, 443)})
	files, err := m.WriteFiles(s.newTempDir())
	s.noError(err)
	ready := m.Ready(files)
	g := s.startGateway(fmt.Sprintf("dns: {servers: ['%s']}\npool: {max_age: 10s}", server.addr), app{shopApp, fmt.Sprintf(
		"apns: {ca_file: %q, key_file: %q, key_id: %s, team_id: %s, topic: %s}",
		ready.CAFile, ready.APNsKeyFile, ready.APNsKeyID, ready.APNsTeamID, ready.APNsTopic)})

	run := s.offerRate(g, loadRate, 4*phase, apnsNotification)
	run.waitUntil(phase)
	faultStart := time.Now()
	for i, answer := range []dnsAnswer{{code: dns.RcodeServerFailure}, {}, {addrs: private}} {
		server.answer.Store(&answer)
		run.waitUntil(time.Duration(i+2) * phase)
	}
	e := collectEvidence(m, run.wait(), faultStart)

	s.expectZero("failed", s.countFailed(e.after, e.accepted))
	s.expectZero("private addresses dialed", int(privateConns.Load())+g.privateDials())
	s.expect("DNS answers rejected", fmt.Sprint(len(g.eventsSince(faultStart, "resolve_failed", ""))), len(g.eventsSince(faultStart, "resolve_failed", "")) > 3)
	s.expectP99(e, 50*time.Millisecond)
	s.expectZero("duplicates", e.duplicates())
	s.expectDialBudget(g, m, mockprovider.APNs)
}

// countConnections listens on the private addresses and counts the connections.
func (s *scenario) countConnections(private []netip.Addr) *atomic.Int64 {
	return s.listen(addrPorts(private, 443), func(net.Conn) {})
}

// privateDials counts the dials to private addresses in the log of the gateway.
func (g *gateway) privateDials() (n int) {
	for _, kind := range []string{"connected", "dial_failed"} {
		for _, e := range g.eventsSince(g.startedAt, kind, "") {
			if strings.HasPrefix(e.Endpoint, "10.") {
				n++
			}
		}
	}
	return n
}
