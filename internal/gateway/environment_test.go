// SPDX-License-Identifier: Apache-2.0

package gateway_test

import (
	"fmt"
	"net/http"
	"strings"
	"sync"
	"testing"

	"github.com/sluice-push/sluice/internal/config"
	"github.com/sluice-push/sluice/internal/testwait"
	"github.com/sluice-push/sluice/mockprovider"
)

// Tokens that only one of the mock's environments accepts, and one that neither accepts.
const (
	sandboxToken    = "5a2db0c0adff785122b4ad28809a3420982341241421348097878e577c991de8"
	productionToken = "5a2db0c1adff785122b4ad28809a3420982341241421348097878e577c991de8"
	noToken         = "deadbeefadff785122b4ad28809a3420982341241421348097878e577c991de8"
)

// newTwoEnvironmentGateway starts a gateway whose app uses the names of Apple's two services, at
// the addresses of the mock.
func newTwoEnvironmentGateway(t testing.TB, settings string) shopGateway {
	t.Helper()
	s := newMockEnv(t, mockprovider.Config{})
	r := shopGateway{mock: s.mock, http: &http.Client{Transport: &http.Transport{MaxIdleConnsPerHost: 1000}}}
	r.testGateway = s.start(t, listenConfig+slowTimeouts+"apps:\n"+s.appBlock("shop", fmt.Sprintf(
		"apns: {endpoints: ['%s'], ca_file: %q, key_file: %q, key_id: %s, team_id: %s, topic: %s%s}",
		strings.Join(s.ready.APNsEndpoints, "', '"), s.ready.CAFile, s.ready.APNsKeyFile, s.ready.APNsKeyID, s.ready.APNsTeamID, s.ready.APNsTopic, settings)))
	t.Cleanup(r.http.CloseIdleConnections)
	return r
}

// apnsNotificationWith returns a notification with further JSON members.
func apnsNotificationWith(token, more string) string {
	return fmt.Sprintf(`{"platform":"apns","token":%q,"title":"x"%s}`, token, more)
}

// summary returns the attempts and the result of a receipt in one line.
func (r receipt) summary() (s string) {
	for _, a := range r.Attempts {
		s += a.Environment + " " + a.Status + ", "
	}
	return strings.TrimSpace(s + r.Status + " " + r.Reason)
}

func TestOneProcessServesBothEnvironments(t *testing.T) {
	const sandbox, production = `,"apns":{"environment":"sandbox"}`, `,"apns":{"environment":"production"}`
	r := newTwoEnvironmentGateway(t, "")
	for _, c := range [][3]string{
		{productionToken, "", "production accepted, accepted"},
		{sandboxToken, sandbox, "sandbox accepted, accepted"},
		{sandboxToken, "", "production refused, refused BadDeviceToken"},
		{productionToken, sandbox, "sandbox refused, refused BadDeviceToken"},
		{productionToken, production, "production accepted, accepted"},
	} {
		if got := r.send(t, apnsNotificationWith(c[0], c[1])).summary(); got != c[2] {
			t.Errorf("%s%s: %s, want %s", c[0][:8], c[1], got, c[2])
		}
	}
	r = newTwoEnvironmentGateway(t, ", environment: sandbox")
	if got := r.send(t, apnsNotificationWith(sandboxToken, "")).summary(); got != "sandbox accepted, accepted" {
		t.Errorf("the app's default environment: %s", got)
	}
}

// serviceNames returns the names of the pools in GET /v1/status.
func (r shopGateway) serviceNames(t *testing.T) (names []string) {
	t.Helper()
	for _, s := range r.status(t).Services {
		names = append(names, s.Pool.Name)
	}
	return names
}

func TestUnusedEnvironmentIsNotConnected(t *testing.T) {
	r := newTwoEnvironmentGateway(t, "")
	r.send(t, apnsNotificationWith(productionToken, ""))
	if names := r.serviceNames(t); len(names) != 1 || !strings.Contains(names[0], "api.push.apple.com") {
		t.Errorf("the services are %q", names)
	}
	r.send(t, apnsNotificationWith(sandboxToken, `,"apns":{"environment":"sandbox"}`))
	if names := r.serviceNames(t); len(names) != 2 {
		t.Errorf("the services are %q", names)
	}
}

func TestMockServesBothEnvironments(t *testing.T) {
	r := newShopGateway(t, mockprovider.Config{}, "")
	if got := r.send(t, apnsNotificationWith(deviceToken, `,"apns":{"environment":"sandbox"}`)).summary(); got != "accepted, accepted" {
		t.Error(got)
	}
}

func TestEnvironmentIsLearned(t *testing.T) {
	r := newTwoEnvironmentGateway(t, ", learn_environment: true")
	for _, c := range [][2]string{
		{sandboxToken, "production refused, sandbox accepted, accepted"},
		{sandboxToken, "sandbox accepted, accepted"},
		{noToken, "production refused, sandbox refused, refused BadDeviceToken"},
		{noToken, "production refused, refused BadDeviceToken"},
		{productionToken, "production accepted, accepted"},
	} {
		if got := r.send(t, apnsNotificationWith(c[0], "")).summary(); got != c[1] {
			t.Errorf("%s: %s, want %s", c[0][:8], got, c[1])
		}
	}
}

func TestBurstToTokenOfOtherEnvironmentCausesOneRefusal(t *testing.T) {
	r := newTwoEnvironmentGateway(t, ", learn_environment: true")
	var all sync.WaitGroup
	for range 50 {
		all.Go(func() {
			if got := r.send(t, apnsNotificationWith(sandboxToken, "")).summary(); !strings.HasSuffix(got, "sandbox accepted, accepted") {
				t.Error(got)
			}
		})
	}
	testwait.Call(t, all.Wait, "the end of all sends")
	if refused := r.mock.Ledger().Summary().Services[mockprovider.APNs].Reasons["BadDeviceToken"]; refused != 1 {
		t.Errorf("%d refusals, want 1", refused)
	}
}

func TestLearnEnvironmentNeedsTwoServices(t *testing.T) {
	s := newMockEnv(t)
	text := listenConfig + "apps:\n" + s.appBlock("shop", strings.Replace(s.apnsBlock(), "topic:", "learn_environment: true, topic:", 1))
	if _, err := config.Parse("gateway.yaml", []byte(text), nil); err == nil || !strings.Contains(err.Error(), "apps.shop.apns.learn_environment: needs two services") {
		t.Error(err)
	}
}
