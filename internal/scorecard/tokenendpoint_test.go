// SPDX-License-Identifier: Apache-2.0

package scorecard

import (
	"fmt"
	"net/http"
	"strings"
	"time"

	"github.com/sluice-push/sluice/mockprovider"
)

// tokenFault is a misbehaving token endpoint. usable says that the access token is nevertheless
// valid, and renewal how long to wait at least before the next one; 0 if one is enough for the row.
type tokenFault struct {
	name     string
	fault    mockprovider.Fault
	lifetime time.Duration
	usable   bool
	renewal  time.Duration
}

// tokenFaults are the faults of S30. The shortest lifetime that a gateway assumes is 10 s, of which
// it uses about half.
func tokenFaults() []tokenFault {
	response := func(members string) mockprovider.Fault {
		return mockprovider.Fault{Service: mockprovider.OAuth, Body: new(`{"access_token":"${access_token}","token_type":"Bearer"` + members + "}")}
	}
	raw := func(body string) mockprovider.Fault {
		return mockprovider.Fault{Service: mockprovider.OAuth, Body: new(body)}
	}
	const short = 4 * time.Second
	faults := []tokenFault{
		{name: "missing", fault: response(""), usable: true},
		{name: "past_id_token", fault: response(`,"expires_in":3599,"id_token":"e30.eyJleHAiOjF9.x"`), usable: true},
		{name: "eight_seconds", lifetime: 9 * time.Second, usable: true, renewal: short},
		{name: "huge", fault: raw(`{"access_token":"` + strings.Repeat("a", 900<<10) + `","expires_in":3599}`)},
		{name: "invalid_json", fault: raw(`{"access_token":"${access_token}`)},
		{name: "html", fault: raw("<html>log in</html>")},
		{name: "slow", fault: mockprovider.Fault{Service: mockprovider.OAuth, Delay: 15 * time.Second}},
	}
	for name, value := range map[string]string{"too_large": "10000000000", "float": "3599.5", "string": `"3599"`} {
		faults = append(faults, tokenFault{name: name, fault: response(`,"expires_in":` + value), usable: true})
	}
	for name, value := range map[string]string{"zero": "0", "negative": "-1"} {
		faults = append(faults, tokenFault{name: name, fault: response(`,"expires_in":` + value), usable: true, renewal: short})
	}
	for name, char := range map[string]string{"cr": `\r`, "lf": `\n`, "nul": `\u0000`} {
		faults = append(faults, tokenFault{name: name, fault: raw(`{"access_token":"ya29` + char + `x","expires_in":3599}`)})
	}
	return faults
}

// misbehavingTokenEndpoint is S30. Each app has an account whose token endpoint misbehaves in its own
// way for 30 s; another app sends to APNs on the same gateway. Then the endpoints work.
func misbehavingTokenEndpoint(s *scenario) {
	const fault = 30 * time.Second
	healthy := s.startMock(mockprovider.Config{Script: script(mockprovider.Fault{Delay: healthyResponse.Delay})})
	apps := []app{{shopApp, apnsBlock(healthy, s.writeMockFiles(healthy), "")}}
	faults := tokenFaults()
	mocks := make([]*mockprovider.Mock, len(faults))
	for i, f := range faults {
		usual := mockprovider.Fault{Delay: 10 * time.Millisecond}
		faultScript := script(usual)
		if f.lifetime == 0 {
			faultScript = script(f.fault, usual)
		}
		mocks[i] = s.startMock(mockprovider.Config{AccessTokenLifetime: f.lifetime, Script: faultScript})
		apps = append(apps, app{f.name, fcmBlock(mocks[i], s.writeMockFiles(mocks[i]), "")})
	}
	g := s.startGatewayWith(1, "", apps...)
	run := s.offerRate(g, 200, fault, apnsNotification)
	calls := s.callAll(g, faults, run)

	s.expect("gateway runs", fmt.Sprint(!g.Exited()), !g.Exited())
	s.expectZero("failed for an app without FCM", s.countFailed(run.wait().Samples, healthy.Ledger().AcceptedByID()))
	for i, f := range faults {
		s.checkTokenFault(f, mocks[i], calls[f.name])
		s.noError(mocks[i].SetScript(mockprovider.Script{}))
	}
	for _, f := range faults {
		s.eventually(f.name+" works after the fault", 75*time.Second, func() bool {
			resp, err := g.sendOne(f.name, fcmNotification(0))
			s.noError(err)
			return resp.code == http.StatusOK
		})
	}
}

// callAll sends a notification of each app twice a second until the load ends, and returns the
// responses by app.
func (s *scenario) callAll(g *gateway, faults []tokenFault, until *loadRun) map[string][]response {
	calls := map[string][]response{}
	for i := 0; ; i++ {
		select {
		case <-until.done:
			return calls
		default:
		}
		for _, f := range faults {
			if f.name == "slow" && i > 0 { // each call waits for the endpoint
				continue
			}
			resp, err := g.sendOne(f.name, fcmNotification(i))
			s.noError(err)
			calls[f.name] = append(calls[f.name], resp)
		}
		s.sleep(500 * time.Millisecond)
	}
}

func (s *scenario) checkTokenFault(f tokenFault, m *mockprovider.Mock, calls []response) {
	accepted, reasons := 0, map[string]bool{}
	for _, c := range calls {
		if c.code == http.StatusOK {
			accepted++
		} else {
			reasons[fmt.Sprint(c.code, " ", c.receipt.Reason)] = true
		}
	}
	exchanges, early := requestTimes(m, mockprovider.OAuth).all, 0
	switch {
	case !f.usable:
		early = exchanges.beforeBackoff()
	case f.renewal == 0:
		early = len(exchanges) - 1
	default:
		early = exchanges.closerThan(f.renewal)
	}
	s.expect(f.name+": exchanges", fmt.Sprint(len(exchanges)), len(exchanges) > 0)
	s.expectZero("too early", early)
	if f.usable {
		s.expectZero("failed", len(calls)-accepted)
	} else {
		s.expectZero("accepted", accepted)
		s.expectZero("requests to FCM", len(m.Ledger().Entries(mockprovider.Query{Service: mockprovider.FCM})))
	}
	if len(reasons) > 0 {
		s.note("%s: %v", f.name, reasons)
	}
}

// closerThan counts the times that come sooner after the one before than min.
func (t times) closerThan(min time.Duration) (n int) {
	for i := 1; i < len(t); i++ {
		if t[i].Sub(t[i-1]) < min {
			n++
		}
	}
	return n
}
