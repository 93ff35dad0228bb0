// SPDX-License-Identifier: Apache-2.0

package gateway_test

import (
	"encoding/json"
	"fmt"
	"net/http"
	"regexp"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/sluice-push/sluice/internal/jetstream/jetstreamtest"
	"github.com/sluice-push/sluice/internal/testwait"
	"github.com/sluice-push/sluice/mockprovider"
)

// TestIdempotencyKeyAcrossTwoGateways calls both gateways at the same time with the same key, while
// the service is slow. On a busy machine a call may end without a receipt, but no notification may
// be sent twice.
func TestIdempotencyKeyAcrossTwoGateways(t *testing.T) {
	const keys = 12
	slow := mockprovider.Fault{Service: mockprovider.APNs, Delay: 100 * time.Millisecond}
	s := newMockEnv(t, mockprovider.Config{Script: mockprovider.Script{Faults: []mockprovider.Fault{slow}}})
	text := listenConfig + fmt.Sprintf("queue: {nats: {url: '%s', replicas: 1}}\n", jetstreamtest.StartServer(t)) + "apps:\n" + s.appBlock("shop", s.apnsBlock())
	gateways := []testGateway{s.start(t, text), s.start(t, text)}
	if one, other := gateways[0].idempotencyDomain(t), gateways[1].idempotencyDomain(t); one == "" || one != other {
		t.Errorf("the gateways report the domains %q and %q", one, other)
	}
	var calls sync.WaitGroup
	var receipts [keys][2]*receipt
	for i := range receipts {
		for at, h := range gateways {
			calls.Go(func() {
				receipts[i][at] = h.sendWithKey(t, fmt.Sprint("order-", i), apnsNotification(fmt.Sprintf("%064x", i+1)))
			})
		}
	}
	testwait.Call(t, calls.Wait, "the end of all calls")
	for i, r := range receipts {
		token := fmt.Sprintf("%064x", i+1)
		if n := len(s.mock.Ledger().Entries(mockprovider.Query{Service: mockprovider.APNs, Token: token})); n > 1 {
			t.Errorf("key %d: the service got %d requests", i, n)
		}
		if r[0] != nil && r[1] != nil && (r[0].ID != r[1].ID || r[0].Status != "accepted") {
			t.Errorf("key %d: the receipts are %+v and %+v", i, r[0], r[1])
		}
	}
}

func TestGatewayWithoutClusterSharesNoIdempotencyKeys(t *testing.T) {
	s := newMockEnv(t)
	for _, queue := range []string{"", fmt.Sprintf("queue: {dir: '%s'}\n", t.TempDir())} {
		if keys := s.start(t, listenConfig+queue+"apps:\n"+s.appBlock("shop", s.apnsBlock())).idempotencyDomain(t); keys != "" {
			t.Errorf("%q: the load report has keys=%s", queue, keys)
		}
	}
}

var idempotencyDomainPattern = regexp.MustCompile(`keys="([0-9a-z]+)"`)

// idempotencyDomain returns the value of keys in the gateway's load report.
func (h testGateway) idempotencyDomain(t *testing.T) string {
	t.Helper()
	response, err := http.Get(h.url + "/livez")
	if err != nil {
		t.Fatal(err)
	}
	_ = response.Body.Close()
	found := idempotencyDomainPattern.FindStringSubmatch(response.Header.Get("Sluice-Gateway"))
	if found == nil {
		return ""
	}
	return found[1]
}

// sendWithKey sends one notification with an Idempotency-Key. It returns nil if the call ends
// without a receipt.
func (h testGateway) sendWithKey(t *testing.T, key, body string) *receipt {
	request, _ := http.NewRequest(http.MethodPost, h.url+"/v1/apps/shop/notifications", strings.NewReader(body))
	request.Header.Set("Authorization", "Bearer "+h.key)
	request.Header.Set("Idempotency-Key", key)
	request.Header.Set("Prefer", "wait=60")
	response, err := http.DefaultClient.Do(request)
	if err != nil {
		t.Error(err)
		return nil
	}
	defer response.Body.Close()
	r := new(receipt)
	if response.StatusCode != http.StatusOK {
		t.Log(response.Status)
		return nil
	}
	if err := json.NewDecoder(response.Body).Decode(r); err != nil {
		t.Error(err)
	}
	return r
}
