// SPDX-License-Identifier: Apache-2.0

package scorecard

import (
	"fmt"
	"slices"
	"time"

	"github.com/sluice-push/sluice/internal/load"
	"github.com/sluice-push/sluice/mockprovider"
	"github.com/sluice-push/sluice/push"
)

const (
	gatewaysPerZone = 4     // number of gateways in each zone
	zoneRate        = 200.0 // calls per second from each zone
)

// region has several zones with gateways and callers. Each gateway sends to its own address of the
// service, so the ledger shows the requests of each gateway.
type region struct {
	*scenario
	mock     *mockprovider.Mock
	hosts    []*host
	gateways []*gateway // ordered by zone
	clients  []*clientLoad
}

// zoneLoss is S21. One of three zones is disconnected and reconnected during single calls with the
// Go client.
func zoneLoss(s *scenario) {
	const before, outage, after = 15 * time.Second, 20 * time.Second, 40 * time.Second
	r := s.startRegion(3, 0)
	for zone, c := range r.clients {
		c.start(zoneRate, before+outage+after, func(i int) *push.Notification { return repeatableNotification(zone<<24 + i) })
	}
	r.clients[0].waitUntil(before)
	faultStart := r.hosts[0].disconnect()
	r.clients[0].waitUntil(before + outage)
	faultEnd := r.hosts[0].reconnect()
	for _, c := range r.clients {
		c.wait()
	}
	r.checkZoneLoss(faultStart, faultEnd)
}

func zoneName(zone int) string { return string('a' + rune(zone)) }

// startRegion starts a region with the given number of zones behind links with the given delay.
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
	s.eventually("waiting until all gateways are connected to their endpoint", 30*time.Second, func() bool {
		return !slices.ContainsFunc(r.gateways, func(g *gateway) bool { return g.baseURL() == "" || len(g.eventsSince(g.startedAt, "joined", "")) == 0 })
	})
	for zone := range zones {
		r.clients = append(r.clients, s.newClientLoad(zoneName(zone), r.gateways))
	}
	return r
}

// apnsBlockAt is apnsBlock with only one endpoint.
func apnsBlockAt(m *mockprovider.Mock, files mockprovider.Files, endpoint int) string {
	info := m.Ready(files)
	return fmt.Sprintf("apns: {url: 'https://%s', endpoints: ['%s'], ca_file: %q, key_file: %q, key_id: %s, team_id: %s, topic: %s}",
		info.APNs, info.APNsEndpoints[endpoint], info.CAFile, info.APNsKeyFile, info.APNsKeyID, info.APNsTeamID, info.APNsTopic)
}

// sentTimes holds the times at which requests of each gateway arrived at the service, all of them
// and those of callers in other zones.
type sentTimes struct {
	all       []times
	crossZone []times
}

func (r *region) requestTimes() sentTimes {
	sent := sentTimes{make([]times, len(r.gateways)), make([]times, len(r.gateways))}
	gatewayOf := map[string]int{}
	for i, addr := range r.mock.APNsAddrs() {
		gatewayOf[addr.String()] = i
	}
	for _, e := range r.mock.Ledger().Entries(mockprovider.Query{Service: mockprovider.APNs}) {
		var device int
		if _, err := fmt.Sscanf(e.Token, "5a%062x", &device); err != nil {
			continue // the first request of a connection
		}
		i := gatewayOf[e.Endpoint]
		sent.all[i] = append(sent.all[i], e.Time)
		if device>>24 != i/gatewaysPerZone {
			sent.crossZone[i] = append(sent.crossZone[i], e.Time)
		}
	}
	return sent
}

// checkZoneLoss checks the figures of zoneLoss.
func (r *region) checkZoneLoss(faultStart, faultEnd time.Time) {
	const usualRate = zoneRate / gatewaysPerZone
	sent := r.requestTimes()
	accepted := r.mock.Ledger().AcceptedByID()
	lostZone, failed, late, due := r.clients[0], 0, 0, 0
	for _, c := range r.clients {
		failed += r.countFailed(c.results.Samples, accepted)
		for _, s := range c.results.Between(faultStart.Add(2*time.Second), faultEnd) {
			if due++; s.Latency > time.Second {
				late++
			}
		}
	}
	end := lostZone.started.Add(time.Duration(len(lostZone.results.Samples)) * time.Second / zoneRate)
	repeatStart, repeatEnd := faultStart.Add(1500*time.Millisecond), faultStart.Add(3*time.Second) // bounds of the repeats of calls lost with the zone
	atMost(&r.rowResult, "avoided by its callers after", lostZone.abandonedAfter(r.gateways[:gatewaysPerZone], faultStart), 2*time.Second)
	atLeast(&r.rowResult, "later calls answered within 1s", fractionOf(due-late, due), 0.99)
	r.expectZero("failed", failed)
	busiest, repeatPeak := 0, 0
	for _, t := range sent.all {
		busiest = max(busiest, t.between(faultStart, repeatStart).busiestSecond(), t.after(repeatEnd).busiestSecond())
		repeatPeak = max(repeatPeak, t.between(repeatStart, repeatEnd).busiestSecond())
	}
	atMost(&r.rowResult, "busiest second of a gateway, relative to its usual load", float64(busiest)/usualRate, 1.5*1.1)
	r.expect("during the repeats of lost calls", format(float64(repeatPeak)/usualRate), true)
	atMost(&r.rowResult, "cross-zone traffic before", sent.crossZoneFraction(lostZone.started.Add(warmUp), faultStart), 0.01)
	ramp := sent.rampTime(faultEnd)
	atLeast(&r.rowResult, "returns to its load over", ramp, 9*time.Second)
	atMost(&r.rowResult, "cross-zone traffic at the end", sent.crossZoneFraction(end.Add(-5*time.Second), end.Add(-time.Second)), 0.01)
}

// crossZoneFraction returns the fraction of requests in [from, until) that came from callers in
// other zones.
func (s sentTimes) crossZoneFraction(from, until time.Time) fraction {
	all, crossZone := 0, 0
	for i := range s.all {
		all += len(s.all[i].between(from, until))
		crossZone += len(s.crossZone[i].between(from, until))
	}
	return fractionOf(crossZone, all)
}

// rampTime returns the time from the first request of the first zone after faultEnd until it gets
// 95 % of its load for a second.
func (s sentTimes) rampTime(faultEnd time.Time) time.Duration {
	var zone times
	for _, t := range s.all[:gatewaysPerZone] {
		zone = append(zone, t.after(faultEnd)...)
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

// providerOutageForClients is S09b. The only provider responds with 503, and the callers' client
// has three gateways. A gateway must not try a notification that another one has tried.
func providerOutageForClients(s *scenario) {
	const before, outage = 5 * time.Second, 20 * time.Second
	const attempts = 6 // the default of retry.attempts
	healthy := mockprovider.Fault{Service: mockprovider.APNs, Delay: 50 * time.Millisecond}
	m := s.startMock(mockprovider.Config{Endpoints: poolSize, Script: script(healthy)})
	files := s.writeMockFiles(m)
	var gateways []*gateway
	for range 3 {
		gateways = append(gateways, s.startGateway("", app{shopApp, apnsBlock(m, files, "")}))
	}
	c := s.newClientLoad("", gateways)
	c.start(100, before+outage, repeatableNotification)
	c.waitUntil(before)
	failing := healthy
	failing.Status = 503
	faultStart := s.playFaults(m, failing)
	affected := c.wait().Between(faultStart, c.started.Add(before+outage))

	requests, maxRequests, maxGateways := map[string]int{}, 0, 0
	for _, e := range m.Ledger().Entries(mockprovider.Query{Service: mockprovider.APNs}) {
		if e.Time.After(faultStart) {
			requests[e.Token]++
			maxRequests = max(maxRequests, requests[e.Token])
		}
	}
	for _, n := range c.gatewaysTried {
		maxGateways = max(maxGateways, n)
	}
	reported := affected.Count(func(n *load.Sample) bool { return n.Status == "unavailable" })
	s.expect("notifications tried", fmt.Sprint(len(requests)), len(requests) > 0)
	atMost(&s.rowResult, "most requests for a notification", maxRequests, attempts)
	s.expect("most gateways tried for a notification", fmt.Sprint(maxGateways), maxGateways >= 1)
	s.expectZero("not reported as unavailable", len(affected)-reported)
}
