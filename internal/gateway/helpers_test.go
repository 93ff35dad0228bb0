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

	"github.com/sluice-push/sluice/internal/api"
	"github.com/sluice-push/sluice/internal/gateway"
	"github.com/sluice-push/sluice/mockprovider"
)

// shopGateway is a house with the app shop, which has both platforms, and a stranger,
// whose key is another app's; behind it the mock providers. Everything between
// is real: sockets, TLS, the configuration.
type shopGateway struct {
	testGateway
	mock     *mockprovider.Mock
	otherKey string
	http     *http.Client
}

// slowTimeouts lets everything take its time: that the machine is busy is nobody's fault, and no sign of a provider that is down.
const slowTimeouts = "retry: { attempt_timeout: 2m, budget_floor: 1000/s }\nlimits: { send_timeout: 10m }\n"

// newShopGateway opens a road with further top-level keys of its configuration.
func newShopGateway(t testing.TB, services mockprovider.Config, settings string) shopGateway {
	t.Helper()
	s := newMockEnv(t, services)
	key, hash := api.NewKey()
	other := fmt.Sprintf("  other:\n    keys: [{name: test, hash: %q}]\n    %s\n", hash, s.fcmBlock())
	transport := &http.Transport{MaxIdleConnsPerHost: 1000}
	r := shopGateway{mock: s.mock, otherKey: key, http: &http.Client{Transport: transport, Timeout: 10 * time.Minute}}
	r.testGateway = s.start(t, listenConfig+"apps:\n"+s.appBlock("shop", s.apnsBlock(), s.fcmBlock())+other+settings)
	t.Cleanup(transport.CloseIdleConnections)
	return r
}

// waitPoolSize waits until so many endpoints of APNs are in the pool.
func (r shopGateway) waitPoolSize(size int) {
	waitUntil(func() bool {
		return slices.ContainsFunc(r.gw.Status().Services, func(s gateway.ServiceStatus) bool {
			return strings.HasPrefix(s.Pool.Name, "apns ") && len(s.Pool.Endpoints) == size
		})
	})
}

// postTo sends body to the path below the app shop and returns the answer, whose
// body the caller closes.
func (r shopGateway) postTo(t testing.TB, path, key, media string, body io.Reader) *http.Response {
	t.Helper()
	request, err := http.NewRequest(http.MethodPost, r.url+"/v1/apps/shop/notifications"+path, body)
	if err != nil {
		t.Fatal(err)
	}
	request.Header.Set("Content-Type", media)
	if key != "" {
		request.Header.Set("Authorization", "Bearer "+key)
	}
	answer, err := r.http.Do(request)
	if err != nil {
		t.Fatal(err)
	}
	return answer
}

// receipt is what these tests read of a receipt.
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

// status reads GET /v1/status.
func (r shopGateway) status(t testing.TB) (status gateway.Status) {
	t.Helper()
	request, err := http.NewRequest(http.MethodGet, r.url+"/v1/status", nil)
	if err != nil {
		t.Fatal(err)
	}
	request.Header.Set("Authorization", "Bearer "+r.key)
	answer, err := r.http.Do(request)
	if err != nil {
		t.Fatal(err)
	}
	defer answer.Body.Close()
	if err := json.NewDecoder(answer.Body).Decode(&status); err != nil {
		t.Fatal(err)
	}
	return status
}

// send sends one notification and returns its receipt; any other answer fails
// the test.
func (r shopGateway) send(t testing.TB, body string) (got receipt) {
	t.Helper()
	answer := r.postTo(t, "", r.key, "application/json", strings.NewReader(body))
	defer answer.Body.Close()
	text, err := io.ReadAll(answer.Body)
	if err != nil {
		t.Error(err)
	}
	if answer.StatusCode != http.StatusOK {
		t.Errorf("status %d: %s", answer.StatusCode, text)
	} else if err := json.Unmarshal(text, &got); err != nil {
		t.Error(err)
	}
	return got
}

// batch sends lines of NDJSON and returns the receipts by index.
func (r shopGateway) batch(t testing.TB, lines []byte) map[int]receipt {
	t.Helper()
	answer := r.postTo(t, "/batch", r.key, "application/x-ndjson", bytes.NewReader(lines))
	defer answer.Body.Close()
	if answer.StatusCode != http.StatusOK {
		text, _ := io.ReadAll(answer.Body)
		t.Fatalf("status %d: %s", answer.StatusCode, text)
	}
	receipts := map[int]receipt{}
	scanner := bufio.NewScanner(answer.Body)
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
		t.Errorf("%+v: the mock knows no such channel, and says so on the road of broadcasts only", got)
	}
}

func TestTruncatedBatchLeavesConnectionUsable(t *testing.T) {
	r := newShopGateway(t, mockprovider.Config{}, "")
	broken := `[{"platform":"apns","token":"00","title":"x"},{"a":{"b":` + strings.Repeat(`{"platform":"apns","token":"00"},`, 20) + `]`
	for range 100 { // it was one request in a dozen that was reset
		answer := r.postTo(t, "/batch", r.key, "application/json", strings.NewReader(broken))
		if _, err := io.ReadAll(answer.Body); err != nil {
			t.Error(err)
		}
		answer.Body.Close()
		r.send(t, apnsNotification("00"))
	}
}
