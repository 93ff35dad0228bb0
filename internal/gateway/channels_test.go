// SPDX-License-Identifier: Apache-2.0

package gateway_test

import (
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"strings"
	"testing"

	"github.com/sluice-push/sluice/mockprovider"
)

// newChannelGateway starts a gateway whose app can manage channels at the mock if managed is true.
func newChannelGateway(t testing.TB, services mockprovider.Config, managed bool) shopGateway {
	t.Helper()
	s := newMockEnv(t, services)
	block := s.apnsBlock()
	if managed {
		block = strings.Replace(block, "topic:", fmt.Sprintf("manage_url: 'https://%s', topic:", s.ready.APNsManage), 1)
	}
	r := shopGateway{mock: s.mock, http: &http.Client{Transport: &http.Transport{}}}
	r.testGateway = s.start(t, listenConfig+fmt.Sprintf("retry: {max_retry_after: 10ms}\napps:\n  shop:\n    keys: [{name: test, hash: %q, scopes: [send, read, channels]}]\n    %s\n", s.hash, block))
	t.Cleanup(r.http.CloseIdleConnections)
	return r
}

// callChannels makes one request and returns the status, the header and the JSON members of the
// response.
func (r shopGateway) callChannels(t testing.TB, method, path, body string) (int, http.Header, map[string]any) {
	t.Helper()
	request, err := http.NewRequest(method, r.url+path, strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	request.Header.Set("Authorization", "Bearer "+r.key)
	response, err := r.http.Do(request)
	if err != nil {
		t.Fatal(err)
	}
	defer response.Body.Close()
	text, err := io.ReadAll(response.Body)
	if err != nil {
		t.Fatal(err)
	}
	var members map[string]any
	if len(text) > 0 {
		if err := json.Unmarshal(text, &members); err != nil {
			t.Fatalf("%s: %v", text, err)
		}
	}
	return response.StatusCode, response.Header, members
}

const channelsPath = "/v1/apps/shop/channels"

// liveActivityUpdate returns an update of a Live Activity for a channel.
func liveActivityUpdate(channel string) string {
	return fmt.Sprintf(`{"platform":"apns","channel":%q,"apns":{"payload":{"aps":{"timestamp":1,"event":"update","content-state":{"home":1}}}}}`, channel)
}

func TestChannelLifecycle(t *testing.T) {
	r := newChannelGateway(t, mockprovider.Config{}, true)
	status, header, created := r.callChannels(t, "POST", channelsPath, `{"storage":"latest"}`)
	id, _ := created["id"].(string)
	if status != 201 || id == "" || created["storage"] != "latest" {
		t.Fatalf("%d %v", status, created)
	}
	location := header.Get("Location")
	if status, _, shown := r.callChannels(t, "GET", location, ""); status != 200 || shown["id"] != id || shown["storage"] != "latest" {
		t.Errorf("GET %s: %d %v", location, status, shown)
	}
	if status, _, all := r.callChannels(t, "GET", channelsPath, ""); status != 200 || fmt.Sprint(all) != fmt.Sprintf("map[channels:[map[id:%s]]]", id) {
		t.Errorf("list: %d %v", status, all)
	}
	if got := r.send(t, liveActivityUpdate(id)); got.Status != "accepted" {
		t.Errorf("notification to the channel: %+v", got)
	}
	r.mock.Ledger().Expect(t, mockprovider.Query{Service: mockprovider.APNs, Token: id}, 1)
	if status, _, gone := r.callChannels(t, "DELETE", location, ""); status != 204 || gone != nil {
		t.Errorf("DELETE: %d %v", status, gone)
	}
	if status, _, all := r.callChannels(t, "GET", channelsPath, ""); status != 200 || fmt.Sprint(all) != "map[channels:[]]" {
		t.Errorf("list after DELETE: %d %v", status, all)
	}
	if got := r.send(t, liveActivityUpdate(id)); got.Status != "refused" || got.Reason != "ChannelNotRegistered" {
		t.Errorf("notification to the deleted channel: %+v", got)
	}
	for _, method := range []string{"GET", "DELETE"} {
		status, _, p := r.callChannels(t, method, location, "")
		if status != 404 || p["field"] != "id" || !strings.Contains(fmt.Sprint(p["detail"]), "ChannelNotRegistered") {
			t.Errorf("%s of the deleted channel: %d %v", method, status, p)
		}
	}
}

func TestChannelIDWithSlash(t *testing.T) {
	r := newChannelGateway(t, mockprovider.Config{}, true)
	for range 100 { // about two of nine IDs contain a slash
		_, header, created := r.callChannels(t, "POST", channelsPath, `{"storage":"none"}`)
		if status, _, shown := r.callChannels(t, "GET", header.Get("Location"), ""); status != 200 || shown["id"] != created["id"] {
			t.Fatalf("GET %s: %d %v, want %v", header.Get("Location"), status, shown, created)
		}
		if strings.Contains(created["id"].(string), "/") {
			return
		}
	}
}

func TestInvalidChannelCallsExplainTheError(t *testing.T) {
	r := newChannelGateway(t, mockprovider.Config{}, true)
	for _, c := range []struct {
		name, method, path, body string
		status                   int
		field, want              string
	}{
		{"missing body", "POST", "", ``, 400, "", "one JSON object"},
		{"list instead of an object", "POST", "", `[]`, 400, "", `{"storage":"latest"}`},
		{"missing storage", "POST", "", `{}`, 400, "storage", `"none", "latest"`},
		{"storage as a number", "POST", "", `{"storage":1}`, 400, "storage", `"none", "latest"`},
		{"unknown member", "POST", "", `{"storage":"none","name":"final"}`, 400, "name", "storage"},
		{"unknown environment", "GET", "?environment=staging", ``, 400, "environment", `"production", "sandbox"`},
		{"ID that is not base64", "GET", "/final", ``, 400, "id", "base64"},
		{"ID with invalid escapes", "GET", "/%2Ffin%3D%3D%3D", ``, 400, "id", "base64"},
		{"unknown channel", "DELETE", "/dHN0LXNyY2gtY2hubA==", ``, 404, "id", "ChannelNotRegistered"},
		{"unsupported method", "PUT", "", ``, 405, "", "Allow"},
	} {
		t.Run(c.name, func(t *testing.T) {
			status, header, p := r.callChannels(t, c.method, channelsPath+c.path, c.body)
			field, _ := p["field"].(string)
			if status != c.status || field != c.field || !strings.Contains(fmt.Sprint(p["detail"]), c.want) || header.Get("Content-Type") != "application/problem+json" {
				t.Errorf("%d %v", status, p)
			}
		})
	}
}

func TestMockWithoutChannelManagementNeverReachesApple(t *testing.T) {
	r := newChannelGateway(t, mockprovider.Config{}, false)
	status, _, p := r.callChannels(t, "GET", channelsPath, "")
	if status != 400 || !strings.Contains(fmt.Sprint(p["detail"]), "manage_url") {
		t.Errorf("%d %v", status, p)
	}
}

func TestChannelErrorsMapToStatus(t *testing.T) {
	for _, c := range []struct {
		fault  mockprovider.Fault
		status int
		want   string
	}{
		{mockprovider.Fault{Status: 400, Reason: "FeatureNotEnabled"}, 422, "broadcast capability"},
		{mockprovider.Fault{Status: 400, Reason: "CannotCreateChannelConfig"}, 422, "10,000"},
		{mockprovider.Fault{Status: 403, Reason: "InvalidProviderToken"}, 502, "InvalidProviderToken"},
		{mockprovider.Fault{Status: 429, Reason: "TooManyRequests"}, 429, "TooManyRequests"},
		{mockprovider.Fault{Status: 503, Reason: "ServiceUnavailable"}, 503, "ServiceUnavailable"},
	} {
		c.fault.Service = mockprovider.APNsManage
		services := mockprovider.Config{}
		services.Script.Faults = []mockprovider.Fault{c.fault}
		r := newChannelGateway(t, services, true)
		status, header, p := r.callChannels(t, "POST", channelsPath, `{"storage":"none"}`)
		receipt, _ := p["receipt"].(map[string]any)
		if status != c.status || !strings.Contains(fmt.Sprint(p["detail"]), c.want) || receipt["attempts"] == nil {
			t.Errorf("%s: %d %v", c.fault.Reason, status, p)
		}
		if retryAfter := header.Get("Retry-After") != ""; retryAfter != (status == 429 || status == 503) {
			t.Errorf("%s: Retry-After %q", c.fault.Reason, header.Get("Retry-After"))
		}
	}
}

func TestTransientChannelErrorIsRetried(t *testing.T) {
	services := mockprovider.Config{}
	services.Script.Faults = []mockprovider.Fault{{Service: mockprovider.APNsManage, Status: 503, Times: 1}}
	r := newChannelGateway(t, services, true)
	if status, _, created := r.callChannels(t, "POST", channelsPath, `{"storage":"none"}`); status != 201 {
		t.Errorf("%d %v", status, created)
	}
}
