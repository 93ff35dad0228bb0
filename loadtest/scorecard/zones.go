// SPDX-License-Identifier: Apache-2.0

package main

import (
	"fmt"
	"slices"
	"time"

	"github.com/sluice-push/sluice/loadtest"
	"github.com/sluice-push/sluice/mockprovider"
	"github.com/sluice-push/sluice/push"
)

const (
	inZone  = 4     // gateways of each of three zones
	ofAZone = 200.0 // calls a second from each of them
)

// region is three zones with gateways and callers. Each gateway sends to an address of the service that nobody else sends
// to, so that the service's ledger tells what each gateway sent.
type region struct {
	*stage
	m        *mockprovider.Mock
	hosts    []*host
	gateways []*gateway // a zone's behind another's
	callers  []*callers
}

// lostZone is S21: the cable of one of three zones is pulled amid single calls through the client, and put back.
func lostZone(s *stage) {
	const calm, trouble, after = 15 * time.Second, 20 * time.Second, 40 * time.Second
	r := s.region(3, 0)
	for zone, c := range r.callers {
		c.offer(ofAZone, calm+trouble+after, func(i int) *push.Notification { return repeated(zone<<24 + i) })
	}
	r.callers[0].at(calm)
	cut := r.hosts[0].cut()
	r.callers[0].at(calm + trouble)
	heal := r.hosts[0].heal()
	for _, c := range r.callers {
		c.wait()
	}
	r.judge(cut, heal)
}

func zoneName(zone int) string { return string('a' + rune(zone)) }

// region starts one with so many zones, behind cables that take so long.
func (s *stage) region(zones int, delay time.Duration) *region {
	r := &region{stage: s, hosts: s.hosts(zones, inZone, delay)}
	cfg := mockprovider.Config{
		Endpoints: zones * inZone, Script: script(mockprovider.Fault{Service: mockprovider.APNs, Delay: 50 * time.Millisecond}),
	}
	if s.alone {
		cfg.Advertise = hub
		for range cfg.Endpoints {
			cfg.APNsListen = append(cfg.APNsListen, hub+":0")
		}
	}
	r.m = s.mock(cfg)
	files := s.files(r.m)
	for i := range cfg.Endpoints {
		h := r.hosts[i/inZone]
		settings := fmt.Sprintf("zone: %s", zoneName(i/inZone))
		config := s.configurationAt(h.addrs[i%inZone]+":8080", settings, app{shop, apnsAt(r.m, files, i)})
		g := s.launchIn(h.inside, config)
		h.runs = append(h.runs, g)
		r.gateways = append(r.gateways, g)
	}
	s.eventually("all gateways have joined their endpoint", 30*time.Second, func() bool {
		return !slices.ContainsFunc(r.gateways, func(g *gateway) bool { return g.address() == "" || len(g.since(g.born, "joined", "")) == 0 })
	})
	for zone := range zones {
		r.callers = append(r.callers, s.callers(zoneName(zone), r.gateways))
	}
	return r
}

// apnsAt is apnsTo with one of the addresses only.
func apnsAt(m *mockprovider.Mock, files mockprovider.Files, endpoint int) string {
	at := m.Ready(files)
	return fmt.Sprintf("apns: {url: 'https://%s', endpoints: ['%s'], ca_file: %q, key_file: %q, key_id: %s, team_id: %s, topic: %s}",
		at.APNs, at.APNsEndpoints[endpoint], at.CAFile, at.APNsKeyFile, at.APNsKeyID, at.APNsTeamID, at.APNsTopic)
}

// sent is when each gateway's requests reached the service, and which of them came from another zone's callers.
type sent struct {
	all      []times
	crossing []times
}

func (r *region) sent() sent {
	seen := sent{make([]times, len(r.gateways)), make([]times, len(r.gateways))}
	at := map[string]int{}
	for i, addr := range r.m.APNsAddrs() {
		at[addr.String()] = i
	}
	for _, e := range r.m.Ledger().Entries(mockprovider.Query{Service: mockprovider.APNs}) {
		var device int
		if _, err := fmt.Sscanf(e.Token, "5a%062x", &device); err != nil {
			continue // a connection's own
		}
		i := at[e.Endpoint]
		seen.all[i] = append(seen.all[i], e.Time)
		if device>>24 != i/inZone {
			seen.crossing[i] = append(seen.crossing[i], e.Time)
		}
	}
	return seen
}

// judge holds what came of it against the bounds.
func (r *region) judge(cut, heal time.Time) {
	const share = ofAZone / inZone
	seen := r.sent()
	accepted := r.m.Ledger().AcceptedByID()
	home, failed, late, due := r.callers[0], 0, 0, 0
	for _, c := range r.callers {
		failed += r.failed(c.got.Samples, accepted)
		for _, s := range c.got.Between(cut.Add(2*time.Second), heal) {
			if due++; s.Latency > time.Second {
				late++
			}
		}
	}
	end := home.began.Add(time.Duration(len(home.got.Samples)) * time.Second / ofAZone)
	repeats, settled := cut.Add(1500*time.Millisecond), cut.Add(3*time.Second) // of what the lost gateways had taken
	atMost(&r.card, "left by its callers", home.lost(r.gateways[:inZone], cut), 2*time.Second)
	atLeast(&r.card, "of calls due from then on, answered within 1s", shareOf(due-late, due), 0.99)
	r.none("failed", failed)
	busiest, burst := 0, 0
	for _, t := range seen.all {
		busiest = max(busiest, t.between(cut, repeats).busiest(), t.after(settled).busiest())
		burst = max(burst, t.between(repeats, settled).busiest())
	}
	atMost(&r.card, "busiest second of a gateway, of its usual load", float64(busiest)/share, 1.5*1.1)
	r.must("amid the repeats of what was lost", write(float64(burst)/share), true)
	atMost(&r.card, "across zones, before", seen.crossed(home.began.Add(warmUp), cut), 0.01)
	back := seen.ramped(heal)
	atLeast(&r.card, "takes its load again over", back, 9*time.Second)
	atMost(&r.card, "across zones, at the end", seen.crossed(end.Add(-5*time.Second), end.Add(-time.Second)), 0.01)
}

// crossed is which part of what was sent then came from other zones.
func (s sent) crossed(from, until time.Time) share {
	all, crossing := 0, 0
	for i := range s.all {
		all += len(s.all[i].between(from, until))
		crossing += len(s.crossing[i].between(from, until))
	}
	return shareOf(crossing, all)
}

// ramped is how long the first zone takes from its first request after heal until it has 95 % of its load for a second.
func (s sent) ramped(heal time.Time) time.Duration {
	var zone times
	for _, t := range s.all[:inZone] {
		zone = append(zone, t.after(heal)...)
	}
	slices.SortFunc(zone, time.Time.Compare)
	if len(zone) == 0 {
		return never
	}
	for from := zone[0]; from.Before(zone[len(zone)-1]); from = from.Add(100 * time.Millisecond) {
		if float64(len(zone.between(from, from.Add(time.Second)))) >= 0.95*ofAZone {
			return from.Sub(zone[0])
		}
	}
	return never
}

// downForClients is S09b: the only provider answers 503, and the callers' own client has three gateways to ask. What one
// gateway has tried no other may try again.
func downForClients(s *stage) {
	const calm, outage = 5 * time.Second, 20 * time.Second
	const attempts = 3 // retry.attempts, as it is by default
	usual := mockprovider.Fault{Service: mockprovider.APNs, Delay: 50 * time.Millisecond}
	m := s.mock(mockprovider.Config{Endpoints: size, Script: script(usual)})
	files := s.files(m)
	var gateways []*gateway
	for range 3 {
		gateways = append(gateways, s.serve("", app{shop, apnsTo(m, files, "")}))
	}
	c := s.callers("", gateways)
	c.offer(100, calm+outage, repeated)
	c.at(calm)
	ill := usual
	ill.Status = 503
	cut := s.play(m, ill)
	during := c.wait().Between(cut, c.began.Add(calm+outage))

	requests, most, asked := map[string]int{}, 0, 0
	for _, e := range m.Ledger().Entries(mockprovider.Query{Service: mockprovider.APNs}) {
		if e.Time.After(cut) {
			requests[e.Token]++
			most = max(most, requests[e.Token])
		}
	}
	for _, n := range c.asked {
		asked = max(asked, n)
	}
	told := during.Count(func(n *loadtest.Sample) bool { return n.Status == "unavailable" })
	s.must("notifications tried", fmt.Sprint(len(requests)), len(requests) > 0)
	atMost(&s.card, "requests for one notification", most, attempts)
	s.must("gateways asked for one, at most", fmt.Sprint(asked), asked >= 1)
	s.none("not told that it was not sent", len(during)-told)
}
