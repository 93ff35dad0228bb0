// SPDX-License-Identifier: Apache-2.0

package main

import (
	"fmt"
	"math"
	"net"
	"net/netip"
	"slices"
	"sync/atomic"
	"time"

	"github.com/sluice-push/sluice/internal/scorecard/load"
	"github.com/sluice-push/sluice/mockprovider"
)

// faultyService is one of those that S05 needs: addresses of one name, of which two are dead in a way of their own. The last
// service has none that are, and shows what the others' latencies would be.
type faultyService struct {
	name string
	port uint16
	mock *mockprovider.Mock
	run  *loadRun
}

// standInHost is a name that the mock's certificate bears and that is nobody's.
const standInHost = "push.example.net"

// address is one of the addresses of the stand-in, from 1: on Linux all of 127.0.0.0/8 is this machine's.
func address(i int) netip.Addr { return netip.AddrFrom4([4]byte{127, 0, 1, byte(i)}) }

func addresses(from, to int) (all []netip.Addr) {
	for i := from; i <= to; i++ {
		all = append(all, address(i))
	}
	return all
}

// deadAddresses is S05: DNS names two more addresses, first of all, and none of them is alive. One service does not answer
// their SYN, one refuses it, one speaks no TLS there, and one is told of them by nobody. A fourth of the load each.
func deadAddresses(s *scenario) {
	const during = 5 * time.Minute
	server := s.startNameServer(addresses(1, poolSize-2)...)
	services := []*faultyService{{name: "syn"}, {name: "rst"}, {name: "tls"}, {name: "control"}}
	var apps []app
	for _, one := range services {
		apps = append(apps, s.startStandIn(one))
	}
	s.dropSYN(services[0].port)
	garbled := s.serveGarbage(services[2].port)
	g := s.startGatewayWith(poolSize-2, fmt.Sprintf("dns: {servers: ['%s']}", server.addr), apps...)
	for _, one := range services {
		count := int(loadRate / 4 * (warmUp + during).Seconds())
		one.run = s.startLoad(g, load.Generator{App: one.name, Rate: loadRate / 4, Count: count, NewNotification: apnsNotification})
	}
	services[0].run.waitUntil(warmUp)
	cut := time.Now()
	server.answer.Store(&dnsAnswer{addrs: append(addresses(poolSize-1, poolSize), addresses(1, poolSize-2)...)})
	s.checkDeadAddresses(g, services, cut, garbled)
}

func (s *scenario) checkDeadAddresses(g *gateway, services []*faultyService, cut time.Time, garbled *atomic.Int64) {
	var met load.Samples
	visits, failed, most, fewest := 0, 0, 0, math.MaxInt
	for _, one := range services[:3] {
		e := collectEvidence(one.mock, one.run.wait(), cut)
		met = append(met, e.after...)
		s.note("p99 of %s: %s", one.name, format(e.after.LatencyQuantile(0.99)))
		failed += s.countFailed(e.after, e.accepted)
		for _, dead := range addresses(poolSize-1, poolSize) {
			at := netip.AddrPortFrom(dead, one.port).String()
			attempts, _ := e.after.AttemptsOn(at)
			visits += attempts
			tried := len(g.eventsSince(g.startedAt, "dial_failed", at))
			most, fewest = max(most, tried), min(fewest, tried)
		}
	}
	_, control := services[3].run.wait().Split(cut)
	s.note("p99 of control: %s", format(control.LatencyQuantile(0.99)))
	s.expectZero("requests to dead addresses", visits)
	s.expectMaxIncrease("p99", control.LatencyQuantile(0.99), met.LatencyQuantile(0.99), 5*time.Millisecond)
	s.expectZero("failed", failed)
	atMost(&s.rowResult, "most dials to a dead address", most, 8)
	atLeast(&s.rowResult, "fewest", fewest, 1)
	atMost(&s.rowResult, "connections without TLS", int(garbled.Load()), 2*8)
	s.expectDialBudget(g, services[0].mock, mockprovider.APNs)
}

// startStandIn starts a mock on the living addresses of one service, all at one port, and returns the app that sends there.
func (s *scenario) startStandIn(one *faultyService) app {
	probe, err := net.Listen("tcp", netip.AddrPortFrom(address(1), 0).String())
	s.noError(err)
	one.port = probe.Addr().(*net.TCPAddr).AddrPort().Port()
	s.noError(probe.Close())
	one.mock = s.startMock(mockprovider.Config{APNsListen: addrPorts(addresses(1, poolSize-2), one.port)})
	ready := one.mock.Ready(s.writeMockFiles(one.mock))
	named := ""
	if one.name == "control" {
		named = fmt.Sprintf("endpoints: [%s], ", quoteList(addrPorts(addresses(1, poolSize-2), one.port)))
	}
	return app{one.name, fmt.Sprintf("apns: {url: 'https://%s:%d', %sca_file: %q, key_file: %q, key_id: %s, team_id: %s, topic: %s}",
		standInHost, one.port, named, ready.CAFile, ready.APNsKeyFile, ready.APNsKeyID, ready.APNsTeamID, ready.APNsTopic)}
}

// addrPorts writes addresses as ip:port.
func addrPorts(addrs []netip.Addr, port uint16) []string {
	all := make([]string, len(addrs))
	for i, addr := range addrs {
		all[i] = netip.AddrPortFrom(addr, port).String()
	}
	return all
}

// dropSYN has the dead addresses pass over every SYN in silence, as a firewall does: their listeners take nobody in and
// their backlogs are full.
func (s *scenario) dropSYN(port uint16) {
	for _, where := range addrPorts(addresses(poolSize-1, poolSize), port) {
		hold, err := unresponsiveListener(netip.MustParseAddrPort(where))
		s.noError(err)
		s.Cleanup(hold)
		for range 4 { // more than the backlog holds; the last ones are passed over already
			if conn, err := net.DialTimeout("tcp", where, 200*time.Millisecond); err == nil {
				s.Cleanup(func() { _ = conn.Close() })
			}
		}
		if conn, err := net.DialTimeout("tcp", where, 500*time.Millisecond); err == nil {
			_ = conn.Close()
			s.Fatalf("%s still answers SYN: this system's backlog cannot be filled", where)
		}
	}
}

// serveGarbage has the dead addresses answer a TLS handshake with nonsense, and counts how often.
func (s *scenario) serveGarbage(port uint16) *atomic.Int64 {
	var count atomic.Int64
	for _, where := range addrPorts(addresses(poolSize-1, poolSize), port) {
		listener, err := net.Listen("tcp", where)
		s.noError(err)
		s.Cleanup(func() { _ = listener.Close() })
		go func() {
			for {
				conn, err := listener.Accept()
				if err != nil {
					return
				}
				count.Add(1)
				_, _ = conn.Write([]byte("HTTP/1.1 400 Bad Request\r\n\r\n"))
				_ = conn.Close()
			}
		}()
	}
	return &count
}

// deadEndpointNoSpare is S05b: one of eight endpoints dies in service and stays dead for five minutes, and there is no other
// address to take its place.
func deadEndpointNoSpare(s *scenario) {
	const during = 5 * time.Minute
	m := s.startMock(mockprovider.Config{Endpoints: poolSize})
	g := s.startAPNsGateway(m, "")
	dead := m.APNsAddrs()[0].String()
	run := s.offerRate(g, loadRate, beforeFault+during, repeatableNotification)
	run.waitUntil(beforeFault)
	cut := s.injectFaults(m, mockprovider.Fault{Service: mockprovider.APNs, Endpoint: dead, Blackhole: true})
	e := collectEvidence(m, run.wait(), cut)

	_, since := run.results.Split(cut)
	attempts, _ := since.AttemptsOn(dead)
	atMost(&s.rowResult, "its share of the requests", fractionOf(attempts, len(since)), 0.005)
	atMost(&s.rowResult, "time in rotation", fraction(g.timeInRotation(dead, cut, during).Seconds()/during.Seconds()), 0.02)
	s.expectZero("failed", s.countFailed(e.after, e.accepted))
	s.expectP99(e, 50*time.Millisecond)
	s.expectDialBudget(g, m, mockprovider.APNs)
}

// timeInRotation is for how long since the fault an endpoint could be picked: until it was ejected, from a recovery to the
// next ejection, and while a probe was under way.
func (g *gateway) timeInRotation(endpoint string, from time.Time, during time.Duration) (total time.Duration) {
	changes := g.eventsSince(from, "ejected", endpoint)
	for _, kind := range []string{"probing", "recovered"} {
		changes = append(changes, g.eventsSince(from, kind, endpoint)...)
	}
	slices.SortFunc(changes, func(a, b event) int { return a.Time.Compare(b.Time) })
	in, since := true, from
	for _, c := range changes {
		if in {
			total += c.Time.Sub(since)
		}
		in, since = c.Kind != "ejected", c.Time
	}
	if end := from.Add(during); in && since.Before(end) {
		total += end.Sub(since)
	}
	return total
}
