// SPDX-License-Identifier: Apache-2.0

package scorecard

import (
	"fmt"
	"math"
	"time"

	"github.com/sluice-push/sluice/internal/load"
	"github.com/sluice-push/sluice/mockprovider"
	"github.com/sluice-push/sluice/push"
)

// throttledWithoutRetryAfter is S11. Each service refuses one notification with 429 and without
// Retry-After. The scope of the refusal must pause for as long as the service's documentation says,
// and nothing else may pause. The scopes are an FCM project, an FCM device, an APNs device and the
// APNs provider token. Only the two devices share a credential.
func throttledWithoutRetryAfter(s *scenario) {
	const before, minute, after, rate = 5 * time.Second, time.Minute, 5 * time.Second, 50.0
	var mocks [3]*mockprovider.Mock
	var files [3]mockprovider.Files
	healthy := mockprovider.Fault{Delay: healthyResponse.Delay}
	for i := range mocks {
		mocks[i] = s.startMock(mockprovider.Config{
			Endpoints: 2, Script: script(healthy), TokenUpdateEvery: 20 * time.Minute, ProjectID: fmt.Sprintf("project-%d", i),
		})
		files[i] = s.writeMockFiles(mocks[i])
	}
	g := s.startGatewayWith(2, "pool: {size: 2}", app{"project", fcmBlock(mocks[0], files[0], "")},
		app{"devices", joinBlocks(apnsBlock(mocks[1], files[1], ""), fcmBlock(mocks[1], files[1], ""))}, app{"token", apnsBlock(mocks[2], files[2], "")})
	offer := func(app string, newNotification func(int) *push.Notification) *loadRun {
		return s.startLoad(g, load.Generator{Apps: []string{app}, Rate: rate, Count: int(rate * (before + minute + after).Seconds())}, newNotification)
	}
	project, providerToken := offer("project", fcmNotification), offer("token", apnsNotification)
	apns, fcm := offer("devices", withBusyToken(busyDevice, apnsNotification)), offer("devices", withBusyToken(busyRegistration, fcmNotification))
	project.waitUntil(before)
	once := func(service, reason string) mockprovider.Fault {
		return mockprovider.Fault{Service: service, Status: 429, Reason: reason, Times: 1}
	}
	s.playFaults(mocks[0], once(mockprovider.FCM, "RATE_LIMIT_EXCEEDED"), healthy)
	s.playFaults(mocks[2], once(mockprovider.APNs, "TooManyProviderTokenUpdates"), healthy)
	resumed := project.started.Add(before + minute + 2*time.Second) // all pauses have ended by then
	_, afterProject := project.wait().Split(resumed)
	_, afterToken := providerToken.wait().Split(resumed)

	s.expectPause("FCM project", mocks[0], mockprovider.Query{Service: mockprovider.FCM}, time.Minute)
	s.expectPause("FCM device", mocks[1], mockprovider.Query{Service: mockprovider.FCM, Token: busyRegistration}, time.Minute)
	s.expectPause("APNs device", mocks[1], mockprovider.Query{Service: mockprovider.APNs, Token: busyDevice}, 30*time.Second)
	s.expectPause("APNs provider token", mocks[2], mockprovider.Query{Service: mockprovider.APNs}, time.Minute)
	s.expectZero("not accepted afterwards", s.countNotAccepted(afterProject)+s.countNotAccepted(afterToken))
	s.expectZero("other devices not accepted", s.countNotAccepted(otherDevices(apns.wait()))+s.countNotAccepted(otherDevices(fcm.wait())))
	s.expectZero("new provider tokens within 20 min", int(mocks[2].Ledger().Summary().Services[mockprovider.APNs].Reasons["TooManyProviderTokenUpdates"])-1)
}

// Devices for which the services always respond with 429. One notification in busyEvery goes to one
// of them.
const (
	busyDevice       = "fa11042900000000000000000000000000000000000000000000000000000000"
	busyRegistration = "fid:quota"
	busyEvery        = 50
)

func withBusyToken(token string, newNotification func(int) *push.Notification) func(int) *push.Notification {
	return func(i int) *push.Notification {
		n := newNotification(i)
		if i%busyEvery == 0 {
			n.Token = token
		}
		return n
	}
}

// otherDevices returns the samples of the other devices.
func otherDevices(r load.Results) (samples load.Samples) {
	for i, sample := range r.Samples {
		if i%busyEvery != 0 {
			samples = append(samples, sample)
		}
	}
	return samples
}

// expectPause records how long a scope was paused after its first refusal. It ignores requests that
// were already in flight.
func (s *scenario) expectPause(name string, m *mockprovider.Mock, q mockprovider.Query, limit time.Duration) {
	var refusal time.Time
	gap := time.Duration(math.MaxInt64)
	for _, e := range m.Ledger().Entries(q) {
		switch {
		case refusal.IsZero() && e.Status == 429:
			refusal = e.Time
		case !refusal.IsZero() && e.Time.Sub(refusal) > inFlightTolerance:
			gap = min(gap, e.Time.Sub(refusal))
		}
	}
	if refusal.IsZero() {
		s.Fatalf("%s: the service refused nothing", name)
	}
	atLeast(&s.rowResult, name, gap, limit)
}
