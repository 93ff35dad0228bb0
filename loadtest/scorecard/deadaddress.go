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

	"github.com/sluice-push/sluice/loadtest"
	"github.com/sluice-push/sluice/mockprovider"
)

// service is one of those that S05 needs: addresses of one name, of which two are dead in a way of their own. The last
// service has none that are, and shows what the others' latencies would be.
type service struct {
	name string
	port uint16
	m    *mockprovider.Mock
	load *load
}

// standIn is a name that the mock's certificate bears and that is nobody's.
const standIn = "push.example.net"

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
func deadAddresses(s *stage) {
	const during = 5 * time.Minute
	server := s.nameServer(addresses(1, size-2)...)
	services := []*service{{name: "syn"}, {name: "rst"}, {name: "tls"}, {name: "control"}}
	var apps []app
	for _, one := range services {
		apps = append(apps, s.standIn(one))
	}
	s.dropSYN(services[0].port)
	garbled := s.garble(services[2].port)
	g := s.open(size-2, fmt.Sprintf("dns: {servers: ['%s']}", server.addr), apps...)
	for _, one := range services {
		count := int(rate / 4 * (warmUp + during).Seconds())
		one.load = s.start(g, loadtest.Load{App: one.name, Rate: rate / 4, Count: count, Compose: toDevice})
	}
	services[0].load.at(warmUp)
	cut := time.Now()
	server.says.Store(&answer{addrs: append(addresses(size-1, size), addresses(1, size-2)...)})
	s.judgeDead(g, services, cut, garbled)
}

func (s *stage) judgeDead(g *gateway, services []*service, cut time.Time, garbled *atomic.Int64) {
	var met loadtest.Samples
	visits, failed, most, fewest := 0, 0, 0, math.MaxInt
	for _, one := range services[:3] {
		e := gather(one.m, one.load.wait(), cut)
		met = append(met, e.after...)
		s.note("p99 of %s: %s", one.name, write(e.after.Latency(0.99)))
		failed += s.failed(e.after, e.accepted)
		for _, dead := range addresses(size-1, size) {
			at := netip.AddrPortFrom(dead, one.port).String()
			attempts, _ := e.after.Visited(at)
			visits += attempts
			tried := len(g.since(g.born, "dial_failed", at))
			most, fewest = max(most, tried), min(fewest, tried)
		}
	}
	_, control := services[3].load.wait().Split(cut)
	s.note("p99 of control: %s", write(control.Latency(0.99)))
	s.none("requests there", visits)
	s.added("p99", control.Latency(0.99), met.Latency(0.99), 5*time.Millisecond)
	s.none("failed", failed)
	atMost(&s.card, "dials to one address", most, 8)
	atLeast(&s.card, "and to each", fewest, 1)
	atMost(&s.card, "connections that met no TLS", int(garbled.Load()), 2*8)
	s.dials(g, services[0].m, mockprovider.APNs)
}

// standIn starts a mock on the living addresses of one service, all at one port, and returns the app that sends there.
func (s *stage) standIn(one *service) app {
	probe, err := net.Listen("tcp", netip.AddrPortFrom(address(1), 0).String())
	s.need(err)
	one.port = probe.Addr().(*net.TCPAddr).AddrPort().Port()
	s.need(probe.Close())
	one.m = s.mock(mockprovider.Config{APNsListen: at(addresses(1, size-2), one.port)})
	ready := one.m.Ready(s.files(one.m))
	named := ""
	if one.name == "control" {
		named = fmt.Sprintf("endpoints: [%s], ", quoted(at(addresses(1, size-2), one.port)))
	}
	return app{one.name, fmt.Sprintf("apns: {url: 'https://%s:%d', %sca_file: %q, key_file: %q, key_id: %s, team_id: %s, topic: %s}",
		standIn, one.port, named, ready.CAFile, ready.APNsKeyFile, ready.APNsKeyID, ready.APNsTeamID, ready.APNsTopic)}
}

// at writes addresses as ip:port.
func at(addrs []netip.Addr, port uint16) []string {
	all := make([]string, len(addrs))
	for i, addr := range addrs {
		all[i] = netip.AddrPortFrom(addr, port).String()
	}
	return all
}

// dropSYN has the dead addresses pass over every SYN in silence, as a firewall does: their listeners take nobody in and
// their backlogs are full.
func (s *stage) dropSYN(port uint16) {
	for _, where := range at(addresses(size-1, size), port) {
		hold, err := deafListener(netip.MustParseAddrPort(where))
		s.need(err)
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

// garble has the dead addresses answer a TLS handshake with nonsense, and counts how often.
func (s *stage) garble(port uint16) *atomic.Int64 {
	var count atomic.Int64
	for _, where := range at(addresses(size-1, size), port) {
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
				_, _ = conn.Write([]byte("HTTP/1.1 400 Bad Request\r\n\r\n"))
				_ = conn.Close()
			}
		}()
	}
	return &count
}

// deadForGood is S05b: one of eight endpoints dies in service and stays dead for five minutes, and there is no other
// address to take its place.
func deadForGood(s *stage) {
	const during = 5 * time.Minute
	m := s.mock(mockprovider.Config{Endpoints: size})
	g := s.gateway(m, "")
	dead := m.APNsAddrs()[0].String()
	load := s.offer(g, rate, calm+during, repeated)
	load.at(calm)
	cut := s.begin(m, mockprovider.Fault{Service: mockprovider.APNs, Endpoint: dead, Blackhole: true})
	e := gather(m, load.wait(), cut)

	_, since := load.got.Split(cut)
	attempts, _ := since.Visited(dead)
	atMost(&s.card, "its requests", shareOf(attempts, len(since)), 0.005)
	atMost(&s.card, "in rotation", share(g.inRotation(dead, cut, during).Seconds()/during.Seconds()), 0.02)
	s.none("failed", s.failed(e.after, e.accepted))
	s.p99(e, 50*time.Millisecond)
	s.dials(g, m, mockprovider.APNs)
}

// inRotation is for how long since the fault an endpoint could be picked: until it was ejected, from a recovery to the
// next ejection, and while a probe was under way.
func (g *gateway) inRotation(endpoint string, from time.Time, during time.Duration) (total time.Duration) {
	changes := g.since(from, "ejected", endpoint)
	for _, kind := range []string{"probing", "recovered"} {
		changes = append(changes, g.since(from, kind, endpoint)...)
	}
	slices.SortFunc(changes, func(a, b event) int { return a.Time.Compare(b.Time) })
	in, since := true, from
	for _, c := range changes {
		if in {
			total += c.Time.Sub(since)
		}
		in, since = c.kind != "ejected", c.Time
	}
	if end := from.Add(during); in && since.Before(end) {
		total += end.Sub(since)
	}
	return total
}
