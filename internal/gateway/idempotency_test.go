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
	"github.com/sluice-push/sluice/mockprovider"
)

// TestIdempotencyKeyAcrossTwoGateways calls both at once for each key, while the service takes its time. On a machine
// that is too busy a call may end without a verdict, but no key may be sent twice.
func TestIdempotencyKeyAcrossTwoGateways(t *testing.T) {
	const keys = 12
	slow := mockprovider.Fault{Service: mockprovider.APNs, Delay: 100 * time.Millisecond}
	s := newMockEnv(t, mockprovider.Config{Script: mockprovider.Script{Faults: []mockprovider.Fault{slow}}})
	text := listenConfig + fmt.Sprintf("queue: {nats: {url: '%s', replicas: 1}}\n", jetstreamtest.StartServer(t)) + "apps:\n" + s.appBlock("shop", s.apnsBlock())
	gateways := []testGateway{s.start(t, text), s.start(t, text)}
	if one, other := gateways[0].idempotencyDomain(t), gateways[1].idempotencyDomain(t); one == "" || one != other {
		t.Errorf("they share their keys, and say so by %q and %q", one, other)
	}
	var calls sync.WaitGroup
	var told [keys][2]*receipt
	for i := range told {
		for at, h := range gateways {
			calls.Go(func() {
				told[i][at] = h.sendWithKey(t, fmt.Sprint("order-", i), apnsNotification(fmt.Sprintf("%064x", i+1)))
			})
		}
	}
	calls.Wait()
	for i, r := range told {
		token := fmt.Sprintf("%064x", i+1)
		if n := len(s.mock.Ledger().Entries(mockprovider.Query{Service: mockprovider.APNs, Token: token})); n > 1 {
			t.Errorf("key %d: the service got %d requests", i, n)
		}
		if r[0] != nil && r[1] != nil && (r[0].ID != r[1].ID || r[0].Status != "accepted") {
			t.Errorf("key %d: the callers are told %+v and %+v", i, r[0], r[1])
		}
	}
}

func TestGatewayWithoutClusterSharesNoIdempotencyKeys(t *testing.T) {
	s := newMockEnv(t)
	for _, queue := range []string{"", fmt.Sprintf("queue: {dir: '%s'}\n", t.TempDir())} {
		if keys := s.start(t, listenConfig+queue+"apps:\n"+s.appBlock("shop", s.apnsBlock())).idempotencyDomain(t); keys != "" {
			t.Errorf("%q: it says that it shares keys, with %s", queue, keys)
		}
	}
}

var idempotencyDomainPattern = regexp.MustCompile(`keys="([0-9a-z]+)"`)

// idempotencyDomain is what the gateway says of them in its signals.
func (h testGateway) idempotencyDomain(t *testing.T) string {
	t.Helper()
	answer, err := http.Get(h.url + "/livez")
	if err != nil {
		t.Fatal(err)
	}
	_ = answer.Body.Close()
	found := idempotencyDomainPattern.FindStringSubmatch(answer.Header.Get("Sluice-Gateway"))
	if found == nil {
		return ""
	}
	return found[1]
}

// sendWithKey sends one notification with a key, and returns its receipt, nil if there is none.
func (h testGateway) sendWithKey(t *testing.T, key, body string) *receipt {
	request, _ := http.NewRequest(http.MethodPost, h.url+"/v1/apps/shop/notifications", strings.NewReader(body))
	request.Header.Set("Authorization", "Bearer "+h.key)
	request.Header.Set("Idempotency-Key", key)
	request.Header.Set("Prefer", "wait=60")
	answer, err := http.DefaultClient.Do(request)
	if err != nil {
		t.Error(err)
		return nil
	}
	defer answer.Body.Close()
	r := new(receipt)
	if answer.StatusCode != http.StatusOK {
		t.Log(answer.Status)
		return nil
	}
	if err := json.NewDecoder(answer.Body).Decode(r); err != nil {
		t.Error(err)
	}
	return r
}
