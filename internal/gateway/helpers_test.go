// SPDX-License-Identifier: Apache-2.0

package gateway_test

import (
	"bufio"
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/sluice-push/sluice/internal/gateway"
	"github.com/sluice-push/sluice/internal/identity"
	"github.com/sluice-push/sluice/internal/testwait"
	"github.com/sluice-push/sluice/mockprovider"
)

// shopGateway is a gateway with the app shop, which has APNs and FCM at the mock, and another app
// with its own key. It uses real sockets, TLS and configuration files.
type shopGateway struct {
	testGateway
	mock     *mockprovider.Mock
	otherKey string
	http     *http.Client
}

// slowTimeouts raises the timeouts, so that a busy machine does not look like a failing provider.
const slowTimeouts = "retry: { attempt_timeout: 2m, budget_floor: 1000/s }\nlimits: { send_timeout: 10m }\n"

// newShopGateway starts a shopGateway with additional top-level configuration.
func newShopGateway(t testing.TB, services mockprovider.Config, settings string) shopGateway {
	t.Helper()
	s := newMockEnv(t, services)
	if !strings.Contains(settings, "pool:") {
		settings = "pool: {idle_timeout: 0s}\n" + settings // connects at the start
	}
	key, hash := identity.NewKey()
	other := fmt.Sprintf("  other:\n    keys: [{name: test, hash: %q}]\n    %s\n", hash, s.fcmBlock())
	transport := &http.Transport{MaxIdleConnsPerHost: 1000}
	r := shopGateway{mock: s.mock, otherKey: key, http: &http.Client{Transport: transport, Timeout: 10 * time.Minute}}
	r.testGateway = s.start(t, listenConfig+"apps:\n"+s.appBlock("shop", s.apnsBlock(), s.fcmBlock())+other+settings)
	t.Cleanup(transport.CloseIdleConnections)
	return r
}

// waitPoolSize waits until the APNs pool has size endpoints.
func (r shopGateway) waitPoolSize(size int) {
	r.testGateway.t.Helper()
	testwait.Until(r.testGateway.t, func() bool {
		return slices.ContainsFunc(r.gw.Status().Services, func(s gateway.ServiceStatus) bool {
			return strings.HasPrefix(s.Pool.Name, "apns ") && len(s.Pool.Endpoints) == size
		})
	}, "the APNs pool has its endpoints")
}

// postTo posts body to a path below the notifications of shop. The caller closes the body of the
// response.
func (r shopGateway) postTo(t testing.TB, path, key, contentType string, body io.Reader) *http.Response {
	t.Helper()
	request, err := http.NewRequest(http.MethodPost, r.url+"/v1/apps/shop/notifications"+path, body)
	if err != nil {
		t.Fatal(err)
	}
	request.Header.Set("Content-Type", contentType)
	if key != "" {
		request.Header.Set("Authorization", "Bearer "+key)
	}
	response, err := r.http.Do(request)
	if err != nil {
		t.Fatal(err)
	}
	return response
}

// receipt contains the fields of a receipt that the tests check.
type receipt struct {
	ID          string `json:"id"`
	Index       int    `json:"index"`
	Status      string `json:"status"`
	Reason      string `json:"reason"`
	Field       string `json:"field"`
	ForgetToken bool   `json:"forget_token"`
	Attempts    []struct {
		Endpoint    string `json:"endpoint"`
		Environment string `json:"environment"`
		Status      string `json:"status"`
	} `json:"attempts"`
}

// status returns the response of GET /v1/status.
func (r shopGateway) status(t testing.TB) (status gateway.Status) {
	t.Helper()
	request, err := http.NewRequest(http.MethodGet, r.url+"/v1/status", nil)
	if err != nil {
		t.Fatal(err)
	}
	request.Header.Set("Authorization", "Bearer "+r.key)
	response, err := r.http.Do(request)
	if err != nil {
		t.Fatal(err)
	}
	defer response.Body.Close()
	if err := json.NewDecoder(response.Body).Decode(&status); err != nil {
		t.Fatal(err)
	}
	return status
}

// send sends one notification and returns its receipt. Any other response fails the test.
func (r shopGateway) send(t testing.TB, body string) (got receipt) {
	t.Helper()
	response := r.postTo(t, "", r.key, "application/json", strings.NewReader(body))
	defer response.Body.Close()
	text, err := io.ReadAll(response.Body)
	if err != nil {
		t.Error(err)
	}
	if response.StatusCode != http.StatusOK {
		t.Errorf("status %d: %s", response.StatusCode, text)
	} else if err := json.Unmarshal(text, &got); err != nil {
		t.Error(err)
	}
	return got
}

// batch sends NDJSON lines and returns the receipts by index.
func (r shopGateway) batch(t testing.TB, lines []byte) map[int]receipt {
	t.Helper()
	response := r.postTo(t, "/batch", r.key, "application/x-ndjson", bytes.NewReader(lines))
	defer response.Body.Close()
	if response.StatusCode != http.StatusOK {
		text, _ := io.ReadAll(response.Body)
		t.Fatalf("status %d: %s", response.StatusCode, text)
	}
	receipts := map[int]receipt{}
	scanner := bufio.NewScanner(response.Body)
	for scanner.Scan() {
		var got receipt
		if err := json.Unmarshal(scanner.Bytes(), &got); err != nil {
			t.Fatalf("%v in %q", err, scanner.Text())
		}
		if _, twice := receipts[got.Index]; twice {
			t.Errorf("index %d has two receipts", got.Index)
		}
		receipts[got.Index] = got
	}
	if err := scanner.Err(); err != nil {
		t.Fatal(err)
	}
	return receipts
}

func TestBroadcastToChannel(t *testing.T) {
	r := newShopGateway(t, mockprovider.Config{}, "")
	got := r.send(t, `{"platform":"apns","channel":"dHN0LXNyY2gtY2hubA==","apns":{"payload":{"aps":{"timestamp":1,"event":"update","content-state":{}}}}}`)
	if got.Status != "refused" || got.Reason != "ChannelNotRegistered" || len(got.Attempts) != 1 {
		t.Errorf("%+v, want the mock's refusal of an unknown channel, which only broadcasts get", got)
	}
}

func TestTruncatedBatchLeavesConnectionUsable(t *testing.T) {
	r := newShopGateway(t, mockprovider.Config{}, "")
	broken := `[{"platform":"apns","token":"00","title":"x"},{"a":{"b":` + strings.Repeat(`{"platform":"apns","token":"00"},`, 20) + `]`
	for range 100 { // the bug that this tests reset about one request in twelve
		response := r.postTo(t, "/batch", r.key, "application/json", strings.NewReader(broken))
		if _, err := io.ReadAll(response.Body); err != nil {
			t.Error(err)
		}
		response.Body.Close()
		r.send(t, apnsNotification("00"))
	}
}
