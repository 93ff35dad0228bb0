// SPDX-License-Identifier: Apache-2.0

package main

import (
	"fmt"
	"slices"
	"time"

	"github.com/sluice-push/sluice/internal/scorecard/load"
	"github.com/sluice-push/sluice/mockprovider"
	"github.com/sluice-push/sluice/push"
)

const (
	gatewaysPerZone = 4     // gateways of each of three zones
	zoneRate        = 200.0 // calls a second from each of them
)

// region is three zones with gateways and callers. Each gateway sends to an address of the service that nobody else sends
// to, so that the service's ledger tells what each gateway sent.
type region struct {
	*scenario
	mock     *mockprovider.Mock
	hosts    []*host
	gateways []*gateway // a zone's behind another's
	clients  []*clientLoad
}

// zoneLoss is S21: the cable of one of three zones is pulled amid single calls through the client, and put back.
func zoneLoss(s *scenario) {
	const calm, trouble, after = 15 * time.Second, 20 * time.Second, 40 * time.Second
	r := s.startRegion(3, 0)
	for zone, c := range r.clients {
		c.start(zoneRate, calm+trouble+after, func(i int) *push.Notification { return repeatableNotification(zone<<24 + i) })
	}
	r.clients[0].waitUntil(calm)
	cut := r.hosts[0].disconnect()
	r.clients[0].waitUntil(calm + trouble)
	heal := r.hosts[0].reconnect()
	for _, c := range r.clients {
		c.wait()
	}
	r.checkZoneLoss(cut, heal)
}

func zoneName(zone int) string { return string('a' + rune(zone)) }

// startRegion starts one with so many zones, behind cables that take so long.
func (s *scenario) startRegion(zones int, delay time.Duration) *region {
	r := &region{scenario: s, hosts: s.startHosts(zones, gatewaysPerZone, delay)}
	cfg := mockprovider.Config{
		Endpoints: zones * gatewaysPerZone, Script: script(mockprovider.Fault{Service: mockprovider.APNs, Delay: 50 * time.Millisecond}),
	}
	if s.inNamespace {
		cfg.Advertise = hubAddr
		for range cfg.Endpoints {
			cfg.APNsListen = append(cfg.APNsListen, hubAddr+":0")
		}
	}
	r.mock = s.startMock(cfg)
	files := s.writeMockFiles(r.mock)
	for i := range cfg.Endpoints {
		h := r.hosts[i/gatewaysPerZone]
		settings := fmt.Sprintf("zone: %s", zoneName(i/gatewaysPerZone))
		config := s.writeConfigAt(h.addrs[i%gatewaysPerZone]+":8080", settings, app{shopApp, apnsBlockAt(r.mock, files, i)})
		g := s.startProcessIn(h.enterCommand, config)
		h.gateways = append(h.gateways, g)
		r.gateways = append(r.gateways, g)
	}
	s.eventually("all gateways have joined their endpoint", 30*time.Second, func() bool {
		return !slices.ContainsFunc(r.gateways, func(g *gateway) bool { return g.baseURL() == "" || len(g.eventsSince(g.startedAt, "joined", "")) == 0 })
	})
	for zone := range zones {
		r.clients = append(r.clients, s.newClientLoad(zoneName(zone), r.gateways))
	}
	return r
}

// apnsBlockAt is apnsTo with one of the addresses only.
func apnsBlockAt(m *mockprovider.Mock, files mockprovider.Files, endpoint int) string {
	at := m.Ready(files)
	return fmt.Sprintf("apns: {url: 'https://%s', endpoints: ['%s'], ca_file: %q, key_file: %q, key_id: %s, team_id: %s, topic: %s}",
		at.APNs, at.APNsEndpoints[endpoint], at.CAFile, at.APNsKeyFile, at.APNsKeyID, at.APNsTeamID, at.APNsTopic)
}

// sentTimes is when each gateway's requests reached the service, and which of them came from another zone's callers.
type sentTimes struct {
	all       []times
	crossZone []times
}

func (r *region) requestTimes() sentTimes {
	seen := sentTimes{make([]times, len(r.gateways)), make([]times, len(r.gateways))}
	at := map[string]int{}
	for i, addr := range r.mock.APNsAddrs() {
		at[addr.String()] = i
	}
	for _, e := range r.mock.Ledger().Entries(mockprovider.Query{Service: mockprovider.APNs}) {
		var device int
		if _, err := fmt.Sscanf(e.Token, "5a%062x", &device); err != nil {
			continue // a connection's own
		}
		i := at[e.Endpoint]
		seen.all[i] = append(seen.all[i], e.Time)
		if device>>24 != i/gatewaysPerZone {
			seen.crossZone[i] = append(seen.crossZone[i], e.Time)
		}
	}
	return seen
}

// checkZoneLoss holds what came of it against the bounds.
func (r *region) checkZoneLoss(cut, heal time.Time) {
	const share = zoneRate / gatewaysPerZone
	seen := r.requestTimes()
	accepted := r.mock.Ledger().AcceptedByID()
	home, failed, late, due := r.clients[0], 0, 0, 0
	for _, c := range r.clients {
		failed += r.countFailed(c.results.Samples, accepted)
		for _, s := range c.results.Between(cut.Add(2*time.Second), heal) {
			if due++; s.Latency > time.Second {
				late++
			}
		}
	}
	end := home.started.Add(time.Duration(len(home.results.Samples)) * time.Second / zoneRate)
	repeats, settled := cut.Add(1500*time.Millisecond), cut.Add(3*time.Second) // of what the lost gateways had taken
	atMost(&r.rowResult, "avoided by its callers after", home.abandonedAfter(r.gateways[:gatewaysPerZone], cut), 2*time.Second)
	atLeast(&r.rowResult, "later calls answered within 1s", fractionOf(due-late, due), 0.99)
	r.expectZero("failed", failed)
	busiest, burst := 0, 0
	for _, t := range seen.all {
		busiest = max(busiest, t.between(cut, repeats).busiestSecond(), t.after(settled).busiestSecond())
		burst = max(burst, t.between(repeats, settled).busiestSecond())
	}
	atMost(&r.rowResult, "busiest second of a gateway, relative to its usual load", float64(busiest)/share, 1.5*1.1)
	r.expect("during the repeats of lost calls", format(float64(burst)/share), true)
	atMost(&r.rowResult, "cross-zone traffic before", seen.crossZoneFraction(home.started.Add(warmUp), cut), 0.01)
	back := seen.rampTime(heal)
	atLeast(&r.rowResult, "returns to its load over", back, 9*time.Second)
	atMost(&r.rowResult, "cross-zone traffic at the end", seen.crossZoneFraction(end.Add(-5*time.Second), end.Add(-time.Second)), 0.01)
}

// crossZoneFraction is which part of what was sent then came from other zones.
func (s sentTimes) crossZoneFraction(from, until time.Time) fraction {
	all, crossing := 0, 0
	for i := range s.all {
		all += len(s.all[i].between(from, until))
		crossing += len(s.crossZone[i].between(from, until))
	}
	return fractionOf(crossing, all)
}

// rampTime is how long the first zone takes from its first request after heal until it has 95 % of its load for a second.
func (s sentTimes) rampTime(heal time.Time) time.Duration {
	var zone times
	for _, t := range s.all[:gatewaysPerZone] {
		zone = append(zone, t.after(heal)...)
	}
	slices.SortFunc(zone, time.Time.Compare)
	if len(zone) == 0 {
		return never
	}
	for from := zone[0]; from.Before(zone[len(zone)-1]); from = from.Add(100 * time.Millisecond) {
		if float64(len(zone.between(from, from.Add(time.Second)))) >= 0.95*zoneRate {
			return from.Sub(zone[0])
		}
	}
	return never
}

// providerOutageForClients is S09b: the only provider answers 503, and the callers' own client has three gateways to ask. What one
// gateway has tried no other may try again.
func providerOutageForClients(s *scenario) {
	const calm, outage = 5 * time.Second, 20 * time.Second
	const attempts = 3 // retry.attempts, as it is by default
	usual := mockprovider.Fault{Service: mockprovider.APNs, Delay: 50 * time.Millisecond}
	m := s.startMock(mockprovider.Config{Endpoints: poolSize, Script: script(usual)})
	files := s.writeMockFiles(m)
	var gateways []*gateway
	for range 3 {
		gateways = append(gateways, s.startGateway("", app{shopApp, apnsBlock(m, files, "")}))
	}
	c := s.newClientLoad("", gateways)
	c.start(100, calm+outage, repeatableNotification)
	c.waitUntil(calm)
	ill := usual
	ill.Status = 503
	cut := s.playFaults(m, ill)
	during := c.wait().Between(cut, c.started.Add(calm+outage))

	requests, most, asked := map[string]int{}, 0, 0
	for _, e := range m.Ledger().Entries(mockprovider.Query{Service: mockprovider.APNs}) {
		if e.Time.After(cut) {
			requests[e.Token]++
			most = max(most, requests[e.Token])
		}
	}
	for _, n := range c.gatewaysTried {
		asked = max(asked, n)
	}
	told := during.Count(func(n *load.Sample) bool { return n.Status == "unavailable" })
	s.expect("notifications tried", fmt.Sprint(len(requests)), len(requests) > 0)
	atMost(&s.rowResult, "most requests for a notification", most, attempts)
	s.expect("most gateways tried for a notification", fmt.Sprint(asked), asked >= 1)
	s.expectZero("not reported as unavailable", len(during)-told)
}
