// SPDX-License-Identifier: Apache-2.0

package gateway_test

import (
	"fmt"
	"net/http"
	"strings"
	"sync"
	"testing"

	"github.com/sluice-push/sluice/config"
	"github.com/sluice-push/sluice/mockprovider"
)

// Tokens that only one of the mock's environments knows, and one that neither does.
const (
	sandboxToken    = "5a2db0c0adff785122b4ad28809a3420982341241421348097878e577c991de8"
	productionToken = "5a2db0c1adff785122b4ad28809a3420982341241421348097878e577c991de8"
	noToken         = "deadbeefadff785122b4ad28809a3420982341241421348097878e577c991de8"
)

// twoWorlds opens a house whose app calls Apple's two services by name, at the addresses of the mock.
func twoWorlds(t testing.TB, settings string) road {
	t.Helper()
	s := newStreet(t, mockprovider.Config{})
	r := road{mock: s.mock, http: &http.Client{Transport: &http.Transport{MaxIdleConnsPerHost: 1000}}}
	r.house = s.open(t, head+patient+"apps:\n"+s.app("shop", fmt.Sprintf(
		"apns: {endpoints: ['%s'], ca_file: %q, key_file: %q, key_id: %s, team_id: %s, topic: %s%s}",
		strings.Join(s.at.APNsEndpoints, "', '"), s.at.CAFile, s.at.APNsKeyFile, s.at.APNsKeyID, s.at.APNsTeamID, s.at.APNsTopic, settings)))
	t.Cleanup(r.http.CloseIdleConnections)
	return r
}

// to is a notification with more members.
func to(token, more string) string {
	return fmt.Sprintf(`{"platform":"apns","token":%q,"title":"x"%s}`, token, more)
}

// way spells a receipt's attempts and its end.
func (r receipt) way() (s string) {
	for _, a := range r.Attempts {
		s += a.Environment + " " + a.Status + ", "
	}
	return strings.TrimSpace(s + r.Status + " " + r.Reason)
}

func TestOneProcessServesBothEnvironments(t *testing.T) {
	const sandbox, production = `,"apns":{"environment":"sandbox"}`, `,"apns":{"environment":"production"}`
	r := twoWorlds(t, "")
	for _, c := range [][3]string{
		{productionToken, "", "production accepted, accepted"},
		{sandboxToken, sandbox, "sandbox accepted, accepted"},
		{sandboxToken, "", "production refused, refused BadDeviceToken"},
		{productionToken, sandbox, "sandbox refused, refused BadDeviceToken"},
		{productionToken, production, "production accepted, accepted"},
	} {
		if got := r.send(t, to(c[0], c[1])).way(); got != c[2] {
			t.Errorf("%s%s: %s, want %s", c[0][:8], c[1], got, c[2])
		}
	}
	r = twoWorlds(t, ", environment: sandbox")
	if got := r.send(t, to(sandboxToken, "")).way(); got != "sandbox accepted, accepted" {
		t.Errorf("the app's own environment: %s", got)
	}
}

// services lists the pools that GET /v1/status shows, by name.
func (r road) services(t *testing.T) (names []string) {
	t.Helper()
	for _, s := range r.status(t).Services {
		names = append(names, s.Pool.Name)
	}
	return names
}

func TestAnEnvironmentThatNobodyHasAskedForIsNotCalled(t *testing.T) {
	r := twoWorlds(t, "")
	r.send(t, to(productionToken, ""))
	if names := r.services(t); len(names) != 1 || !strings.Contains(names[0], "api.push.apple.com") {
		t.Errorf("the services are %q", names)
	}
	r.send(t, to(sandboxToken, `,"apns":{"environment":"sandbox"}`))
	if names := r.services(t); len(names) != 2 {
		t.Errorf("the services are %q", names)
	}
}

func TestAStandInPlaysBothEnvironments(t *testing.T) {
	r := lay(t, mockprovider.Config{}, "")
	if got := r.send(t, to(device, `,"apns":{"environment":"sandbox"}`)).way(); got != "accepted, accepted" {
		t.Error(got)
	}
}

func TestAnEnvironmentIsLearnt(t *testing.T) {
	r := twoWorlds(t, ", learn_environment: true")
	for _, c := range [][2]string{
		{sandboxToken, "production refused, sandbox accepted, accepted"},
		{sandboxToken, "sandbox accepted, accepted"},
		{noToken, "production refused, sandbox refused, refused BadDeviceToken"},
		{noToken, "production refused, refused BadDeviceToken"},
		{productionToken, "production accepted, accepted"},
	} {
		if got := r.send(t, to(c[0], "")).way(); got != c[1] {
			t.Errorf("%s: %s, want %s", c[0][:8], got, c[1])
		}
	}
}

func TestABurstToATokenOfTheOtherEnvironmentCostsOneRefusal(t *testing.T) {
	r := twoWorlds(t, ", learn_environment: true")
	var all sync.WaitGroup
	for range 50 {
		all.Go(func() {
			if got := r.send(t, to(sandboxToken, "")).way(); !strings.HasSuffix(got, "sandbox accepted, accepted") {
				t.Error(got)
			}
		})
	}
	all.Wait()
	if refused := r.mock.Ledger().Summary().Services[mockprovider.APNs].Reasons["BadDeviceToken"]; refused != 1 {
		t.Errorf("%d refusals, want 1", refused)
	}
}

func TestLearningNeedsTwoServices(t *testing.T) {
	s := newStreet(t)
	text := head + "apps:\n" + s.app("shop", strings.Replace(s.apns(), "topic:", "learn_environment: true, topic:", 1))
	if _, err := config.Parse("gateway.yaml", []byte(text), nil); err == nil || !strings.Contains(err.Error(), "apps.shop.apns.learn_environment: needs two services") {
		t.Error(err)
	}
}
