// SPDX-License-Identifier: Apache-2.0

package main

import (
	"fmt"
	"math"
	"time"

	"github.com/sluice-push/sluice/loadtest"
	"github.com/sluice-push/sluice/mockprovider"
	"github.com/sluice-push/sluice/push"
)

// told is S11: each service refuses one notification for too much and names no time. What the refusal is about pauses for
// as long as the service's documents ask for, and nothing else does. Four scopes, each with a credential of its own but for
// the two devices: an FCM project, an FCM device, an APNs device, and the APNs provider token.
func told(s *stage) {
	const calm, minute, after, pace = 5 * time.Second, time.Minute, 5 * time.Second, 50.0
	var mocks [3]*mockprovider.Mock
	var files [3]mockprovider.Files
	usual := mockprovider.Fault{Delay: healthy.Delay}
	for i := range mocks {
		mocks[i] = s.mock(mockprovider.Config{
			Endpoints: 2, Script: script(usual), TokenUpdateEvery: 20 * time.Minute, ProjectID: fmt.Sprintf("project-%d", i),
		})
		files[i] = s.files(mocks[i])
	}
	g := s.open(2, "pool: {size: 2}", app{"project", fcmTo(mocks[0], files[0], "")},
		app{"devices", both(apnsTo(mocks[1], files[1], ""), fcmTo(mocks[1], files[1], ""))}, app{"token", apnsTo(mocks[2], files[2], "")})
	offer := func(app string, compose func(int) *push.Notification) *load {
		return s.start(g, loadtest.Load{App: app, Rate: pace, Count: int(pace * (calm + minute + after).Seconds()), Compose: compose})
	}
	whole, token := offer("project", toRegistration), offer("token", toDevice)
	apns, fcm := offer("devices", someTo(busyDevice, toDevice)), offer("devices", someTo(busyRegistration, toRegistration))
	whole.at(calm)
	once := func(service, reason string) mockprovider.Fault {
		return mockprovider.Fault{Service: service, Status: 429, Reason: reason, Times: 1}
	}
	s.play(mocks[0], once(mockprovider.FCM, "RATE_LIMIT_EXCEEDED"), usual)
	s.play(mocks[2], once(mockprovider.APNs, "TooManyProviderTokenUpdates"), usual)
	later := whole.began.Add(calm + minute + 2*time.Second) // everything goes on again by then
	_, afterProject := whole.wait().Split(later)
	_, afterToken := token.wait().Split(later)

	s.paused("FCM project", mocks[0], mockprovider.Query{Service: mockprovider.FCM}, time.Minute)
	s.paused("FCM device", mocks[1], mockprovider.Query{Service: mockprovider.FCM, Token: busyRegistration}, time.Minute)
	s.paused("APNs device", mocks[1], mockprovider.Query{Service: mockprovider.APNs, Token: busyDevice}, 30*time.Second)
	s.paused("APNs provider token", mocks[2], mockprovider.Query{Service: mockprovider.APNs}, time.Minute)
	s.none("not accepted afterwards", s.unaccepted(afterProject)+s.unaccepted(afterToken))
	s.none("other devices not accepted", s.unaccepted(others(apns.wait()))+s.unaccepted(others(fcm.wait())))
	s.none("tokens minted within 20 min", int(mocks[2].Ledger().Summary().Services[mockprovider.APNs].Reasons["TooManyProviderTokenUpdates"])-1)
}

// The devices that the services always refuse for too much. One notification in so many is for one of them.
const (
	busyDevice       = "fa11042900000000000000000000000000000000000000000000000000000000"
	busyRegistration = "fid:quota"
	oneIn            = 50
)

func someTo(token string, compose func(int) *push.Notification) func(int) *push.Notification {
	return func(i int) *push.Notification {
		n := compose(i)
		if i%oneIn == 0 {
			n.Token = token
		}
		return n
	}
}

// others are those for other devices.
func others(r loadtest.Results) (found loadtest.Samples) {
	for i, sample := range r.Samples {
		if i%oneIn != 0 {
			found = append(found, sample)
		}
	}
	return found
}

// paused enters for how long a scope was left alone after its first refusal, but for what was on its way then.
func (s *stage) paused(name string, m *mockprovider.Mock, q mockprovider.Query, least time.Duration) {
	var refusal time.Time
	gap := time.Duration(math.MaxInt64)
	for _, e := range m.Ledger().Entries(q) {
		switch {
		case refusal.IsZero() && e.Status == 429:
			refusal = e.Time
		case !refusal.IsZero() && e.Time.Sub(refusal) > onTheWay:
			gap = min(gap, e.Time.Sub(refusal))
		}
	}
	if refusal.IsZero() {
		s.Fatalf("%s: nothing was refused", name)
	}
	atLeast(&s.card, name, gap, least)
}
