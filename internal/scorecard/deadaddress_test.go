// SPDX-License-Identifier: Apache-2.0

package scorecard

import (
	"fmt"
	"math"
	"net"
	"net/netip"
	"slices"
	"sync/atomic"
	"time"

	"github.com/sluice-push/sluice/internal/load"
	"github.com/sluice-push/sluice/mockprovider"
)

// faultyService is one of the services of S05. Its name has two dead addresses that fail in a
// particular way. The last service has no dead addresses and is the control for the latencies.
type faultyService struct {
	name string
	port uint16
	mock *mockprovider.Mock
	run  *loadRun
}

// standInHost is a host name in the mock's certificate. It does not exist in DNS.
const standInHost = "push.example.net"

// address returns address i of standInHost, counted from 1. On Linux all of 127.0.0.0/8 is local.
func address(i int) netip.Addr { return netip.AddrFrom4([4]byte{127, 0, 1, byte(i)}) }

func addresses(from, to int) (all []netip.Addr) {
	for i := from; i <= to; i++ {
		all = append(all, address(i))
	}
	return all
}

// deadAddresses is S05. DNS lists two further addresses first, and both are dead. For one service
// the addresses ignore SYN, for one they refuse the connection, for one they do not speak TLS, and
// one service does not get them. Each service gets a quarter of the load.
func deadAddresses(s *scenario) {
	const duration = 5 * time.Minute
	server := s.startNameServer(addresses(1, poolSize-2)...)
	services := []*faultyService{{name: "syn"}, {name: "rst"}, {name: "tls"}, {name: "control"}}
	var apps []app
	for _, service := range services {
		apps = append(apps, s.startStandIn(service))
	}
	s.dropSYN(services[0].port)
	tlsFailures := s.serveGarbage(services[2].port)
	g := s.startGatewayWith(poolSize-2, fmt.Sprintf("dns: {servers: ['%s']}", server.addr), apps...)
	for _, service := range services {
		count := int(loadRate / 4 * (warmUp + duration).Seconds())
		service.run = s.startLoad(g, load.Generator{Apps: []string{service.name}, Rate: loadRate / 4, Count: count}, apnsNotification)
	}
	services[0].run.waitUntil(warmUp)
	faultStart := time.Now()
	server.answer.Store(&dnsAnswer{addrs: append(addresses(poolSize-1, poolSize), addresses(1, poolSize-2)...)})
	s.checkDeadAddresses(g, services, faultStart, tlsFailures)
}

func (s *scenario) checkDeadAddresses(g *gateway, services []*faultyService, faultStart time.Time, tlsFailures *atomic.Int64) {
	var affected load.Samples
	requests, failed, maxDials, minDials := 0, 0, 0, math.MaxInt
	for _, service := range services[:3] {
		e := collectEvidence(service.mock, service.run.wait(), faultStart)
		affected = append(affected, e.after...)
		s.note("p99 of %s: %s", service.name, format(e.after.LatencyQuantile(0.99)))
		failed += s.countFailed(e.after, e.accepted)
		for _, dead := range addresses(poolSize-1, poolSize) {
			addr := netip.AddrPortFrom(dead, service.port).String()
			attempts, _ := e.after.AttemptsOn(addr)
			requests += attempts
			dials := len(g.eventsSince(g.startedAt, "dial_failed", addr))
			maxDials, minDials = max(maxDials, dials), min(minDials, dials)
		}
	}
	_, control := services[3].run.wait().Split(faultStart)
	s.note("p99 of control: %s", format(control.LatencyQuantile(0.99)))
	s.expectZero("requests to dead addresses", requests)
	s.expectMaxIncrease("p99", control.LatencyQuantile(0.99), affected.LatencyQuantile(0.99), 5*time.Millisecond)
	s.expectZero("failed", failed)
	atMost(&s.rowResult, "most dials to a dead address", maxDials, 8)
	atLeast(&s.rowResult, "fewest", minDials, 1)
	atMost(&s.rowResult, "connections without TLS", int(tlsFailures.Load()), 2*8)
	s.expectDialBudget(g, services[0].mock, mockprovider.APNs)
}

// startStandIn starts a mock on the healthy addresses of one service, all with the same port, and
// returns the app that sends to it.
func (s *scenario) startStandIn(service *faultyService) app {
	listener, err := net.Listen("tcp", netip.AddrPortFrom(address(1), 0).String())
	s.noError(err)
	service.port = listener.Addr().(*net.TCPAddr).AddrPort().Port()
	s.noError(listener.Close())
	service.mock = s.startMock(mockprovider.Config{APNsListen: addrPorts(addresses(1, poolSize-2), service.port)})
	ready := service.mock.Ready(s.writeMockFiles(service.mock))
	endpoints := ""
	if service.name == "control" {
		endpoints = fmt.Sprintf("endpoints: [%s], ", quoteList(addrPorts(addresses(1, poolSize-2), service.port)))
	}
	return app{service.name, fmt.Sprintf("apns: {url: 'https://%s:%d', %sca_file: %q, key_file: %q, key_id: %s, team_id: %s, topic: %s}",
		standInHost, service.port, endpoints, ready.CAFile, ready.APNsKeyFile, ready.APNsKeyID, ready.APNsTeamID, ready.APNsTopic)}
}

// addrPorts formats addresses as ip:port.
func addrPorts(addrs []netip.Addr, port uint16) []string {
	all := make([]string, len(addrs))
	for i, addr := range addrs {
		all[i] = netip.AddrPortFrom(addr, port).String()
	}
	return all
}

// dropSYN makes the dead addresses ignore SYN, like a firewall: their listeners never accept and
// their backlogs are full.
func (s *scenario) dropSYN(port uint16) {
	for _, addr := range addrPorts(addresses(poolSize-1, poolSize), port) {
		closeListener, err := unresponsiveListener(netip.MustParseAddrPort(addr))
		s.noError(err)
		s.Cleanup(closeListener)
		for range 4 { // more than the backlog holds; the last SYNs are already ignored
			if conn, err := net.DialTimeout("tcp", addr, 200*time.Millisecond); err == nil {
				s.Cleanup(func() { _ = conn.Close() })
			}
		}
		if conn, err := net.DialTimeout("tcp", addr, 500*time.Millisecond); err == nil {
			_ = conn.Close()
			s.Fatalf("%s still accepts connections: the backlog could not be filled", addr)
		}
	}
}

// serveGarbage makes the dead addresses respond to a TLS handshake with plain text. It counts the
// connections.
func (s *scenario) serveGarbage(port uint16) *atomic.Int64 {
	return s.listen(addrPorts(addresses(poolSize-1, poolSize), port), func(conn net.Conn) {
		_, _ = conn.Write([]byte("HTTP/1.1 400 Bad Request\r\n\r\n"))
	})
}

// listen accepts connections to the addresses, calls serve with each and closes it. It counts them.
func (s *scenario) listen(addrs []string, serve func(net.Conn)) *atomic.Int64 {
	var count atomic.Int64
	for _, addr := range addrs {
		listener, err := net.Listen("tcp", addr)
		s.noError(err)
		s.Cleanup(func() { _ = listener.Close() })
		go func() {
			for {
				conn, err := listener.Accept()
				if err != nil {
					return
				}
				count.Add(1)
				serve(conn)
				_ = conn.Close()
			}
		}()
	}
	return &count
}

// deadEndpointNoSpare is S05b. One of eight endpoints is dead for five minutes, and no spare
// address exists.
func deadEndpointNoSpare(s *scenario) {
	const duration = 5 * time.Minute
	m := s.startMock(mockprovider.Config{Endpoints: poolSize})
	g := s.startAPNsGateway(m, "")
	dead := m.APNsAddrs()[0].String()
	run := s.offerRate(g, loadRate, beforeFault+duration, repeatableNotification)
	run.waitUntil(beforeFault)
	faultStart := s.injectFaults(m, mockprovider.Fault{Service: mockprovider.APNs, Endpoint: dead, Blackhole: true})
	e := collectEvidence(m, run.wait(), faultStart)

	_, afterFault := run.results.Split(faultStart)
	attempts, _ := afterFault.AttemptsOn(dead)
	atMost(&s.rowResult, "its share of the requests", fractionOf(attempts, len(afterFault)), 0.005)
	atMost(&s.rowResult, "time in rotation", fraction(g.timeInRotation(dead, faultStart, duration).Seconds()/duration.Seconds()), 0.02)
	s.expectZero("failed", s.countFailed(e.after, e.accepted))
	s.expectP99(e, 50*time.Millisecond)
	s.expectDialBudget(g, m, mockprovider.APNs)
}

// timeInRotation returns how long since the fault an endpoint could be picked: until its ejection,
// between a recovery and the next ejection, and during probes.
func (g *gateway) timeInRotation(endpoint string, from time.Time, duration time.Duration) (total time.Duration) {
	changes := g.eventsSince(from, "ejected", endpoint)
	for _, kind := range []string{"probing", "recovered"} {
		changes = append(changes, g.eventsSince(from, kind, endpoint)...)
	}
	slices.SortFunc(changes, func(a, b event) int { return a.Time.Compare(b.Time) })
	inRotation, since := true, from
	for _, c := range changes {
		if inRotation {
			total += c.Time.Sub(since)
		}
		inRotation, since = c.Kind != "ejected", c.Time
	}
	if end := from.Add(duration); inRotation && since.Before(end) {
		total += end.Sub(since)
	}
	return total
}
