// SPDX-License-Identifier: Apache-2.0

package mockprovider_test

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"os"
	"strings"
	"sync"
	"testing"

	"github.com/sluice-push/sluice/mockprovider"
)

// ask calls the mock's own API.
func ask(t testing.TB, method, url, body string) reply {
	t.Helper()
	r, err := http.NewRequestWithContext(context.Background(), method, url, strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	transport := &http.Transport{DisableKeepAlives: true}
	return do(t, &http.Client{Transport: transport}, r)
}

func TestTheLedgerAnswersByFilter(t *testing.T) {
	m := mockprovider.Start(t)
	c := client(t, m)
	do(t, c, push(t, m, nil))
	do(t, c, push(t, m, func(r *http.Request) { r.URL.Path = "/3/device/deadbeef" }))
	do(t, c, message(t, m, accessToken(t, m), to(fcmToken)))
	for filter, want := range map[string]int{
		"": 4, "service=apns": 2, "service=fcm": 1, "service=oauth": 1, "token=" + goodToken: 1, "token=dead*": 1,
		"apns_id=" + strings.ToUpper(goodID): 2, "status=400": 1, "reason=BadDeviceToken": 1, "accepted=true": 3,
		"accepted=false": 1, "after=3": 1, "limit=2": 2, "endpoint=" + m.APNsAddrs()[0].String(): 2, "token=none": 0,
	} {
		got := ask(t, "GET", m.LedgerURL()+"?"+filter, "")
		entries, _ := got.object["entries"].([]any)
		if got.status != 200 || entries == nil || len(entries) != want || got.object["truncated"] != (filter == "limit=2") {
			t.Errorf("%s: got %d entries, want %d: %s", filter, len(entries), want, got.body)
		}
	}
	for _, bad := range []string{"tokens=x", "status=x", "limit=0", "accepted=maybe", "after=-1"} {
		if got := ask(t, "GET", m.LedgerURL()+"?"+bad, ""); got.status != 400 {
			t.Errorf("%s: got %d %s", bad, got.status, got.body)
		}
	}
}

func TestTheSummaryIsExactAfterTheLedgerHasForgotten(t *testing.T) {
	m := mockprovider.Start(t, mockprovider.Config{LedgerSize: 3, Streams: mockprovider.Streams{Start: 1000}})
	c := client(t, m)
	for range 5 {
		do(t, c, push(t, m, nil))
	}
	var s mockprovider.Summary
	if err := json.Unmarshal([]byte(ask(t, "GET", m.LedgerURL()+"/summary", "").body), &s); err != nil {
		t.Fatal(err)
	}
	one := s.Services["apns"].Endpoints[m.APNsAddrs()[0].String()]
	if s.Entries != 5 || s.Kept != 3 || one.Requests != 5 || one.Accepted != 5 || one.Dials != 1 || one.Open != 1 || one.MaxInFlight != 1 {
		t.Errorf("summary %+v", s)
	}
	var perSecond uint64
	for _, second := range one.PerSecond {
		perSecond += second.Accepted
	}
	entries := m.Ledger().Entries(mockprovider.Query{})
	if perSecond != 5 || len(entries) != 3 || entries[0].Seq != 3 || entries[2].Seq != 5 {
		t.Errorf("per second %d, entries %+v", perSecond, entries)
	}
	if got := ask(t, "DELETE", m.LedgerURL(), ""); got.status != 204 {
		t.Errorf("DELETE: %d", got.status)
	}
	s = m.Ledger().Summary()
	if s.Entries != 0 || s.Services["apns"].Requests != 0 || s.Services["apns"].Open != 1 || len(m.Ledger().Entries(mockprovider.Query{})) != 0 {
		t.Errorf("after DELETE: %+v", s)
	}
}

func TestContentIsKeptOnRequestAndCredentialsNever(t *testing.T) {
	m := mockprovider.Start(t, mockprovider.Config{KeepContent: true})
	r := push(t, m, nil)
	secret := r.Header.Get("authorization")
	do(t, client(t, m), r)
	got := ask(t, "GET", m.LedgerURL(), "").body
	if strings.Contains(got, secret[20:60]) || !strings.Contains(got, "apns-priority") || !strings.Contains(got, `\"title\":\"Hello\"`) {
		t.Errorf("the ledger has %s", got)
	}
}

func TestTheScriptIsReplacedOverHTTP(t *testing.T) {
	m := mockprovider.Start(t)
	c := client(t, m)
	if got := ask(t, "PUT", m.ScriptURL(), "faults:\n- service: apns\n  status: 500\n"); got.status != 204 {
		t.Fatalf("PUT: %d %s", got.status, got.body)
	}
	if got := do(t, c, push(t, m, nil)); got.status != 500 {
		t.Errorf("got %d", got.status)
	}
	if got := ask(t, "GET", m.ScriptURL(), ""); !strings.Contains(got.body, "status: 500") {
		t.Errorf("GET: %s", got.body)
	}
	if got := ask(t, "PUT", m.ScriptURL(), "faults:\n- statuss: 500\n"); got.status != 400 || !strings.Contains(got.body, "line 2: statuss") {
		t.Errorf("PUT of nonsense: %d %s", got.status, got.body)
	}
	if got := ask(t, "DELETE", m.ScriptURL(), ""); got.status != 204 {
		t.Errorf("DELETE: %d", got.status)
	}
	if got := do(t, c, push(t, m, nil)); got.status != 200 {
		t.Errorf("got %d", got.status)
	}
}

func TestTheReadyFileNamesEverythingThatAClientNeeds(t *testing.T) {
	m := mockprovider.Start(t)
	files, err := m.WriteFiles(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	text, err := json.Marshal(m.Ready(files))
	if err != nil {
		t.Fatal(err)
	}
	var ready map[string]any
	if err := json.Unmarshal(text, &ready); err != nil {
		t.Fatal(err)
	}
	for _, key := range []string{"apns", "apns_endpoints", "apns_key_file", "apns_key_id", "apns_team_id", "apns_topic", "fcm",
		"fcm_endpoints", "token_url", "project_id", "service_account_file", "webpush", "ledger", "ca_file"} {
		if ready[key] == nil || fmt.Sprint(ready[key]) == "" {
			t.Errorf("%s is missing", key)
		}
	}
	for _, path := range []string{files.APNsKey, files.ServiceAccount, files.CA, files.ClientCert, files.ClientKey} {
		if info, err := os.Stat(path); err != nil || info.Mode().Perm() != 0o600 || info.Size() == 0 {
			t.Errorf("%s: %v %v", path, info, err)
		}
	}
}

func TestABadConfigIsRefused(t *testing.T) {
	for want, cfg := range map[string]mockprovider.Config{
		"endpoints":      {Endpoints: -1},
		"latency":        {Latency: "slow"},
		"streams":        {Streams: mockprovider.Streams{Start: 5, Max: 2}},
		"Credentials[0]": {Credentials: []mockprovider.Credential{{KeyPEM: []byte("x")}}},
		"faults[0]":      {Script: mockprovider.Script{Faults: []mockprovider.Fault{{}}}},
		"address":        {APNsListen: []string{"nowhere"}},
	} {
		if _, err := mockprovider.New(cfg); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("got %v, want it to name %s", err, want)
		}
	}
}

func TestALatencyProfileDelaysAnswers(t *testing.T) {
	m := mockprovider.Start(t, mockprovider.Config{Latency: "lan"})
	if got := do(t, client(t, m), push(t, m, nil)); got.status != 200 {
		t.Errorf("got %d %s", got.status, got.body)
	}
}

func TestEveryConcurrentPushIsEnteredOnce(t *testing.T) {
	m := mockprovider.Start(t, mockprovider.Config{Streams: mockprovider.Streams{Start: 1000}, Latency: "lan"})
	c := client(t, m)
	first := push(t, m, nil)
	var callers sync.WaitGroup
	const pushes, at = 400, 20
	for i := range at {
		callers.Go(func() {
			for j := range pushes / at {
				r := first.Clone(context.Background())
				r.Header.Set("apns-id", fmt.Sprintf("00000000-0000-0000-0000-%012d", i*1000+j))
				body(r, hello)
				if got := do(t, c, r); got.status != 200 {
					t.Errorf("got %d %s", got.status, got.body)
				}
			}
		})
	}
	callers.Wait()
	counts := m.Ledger().AcceptedByID()
	for id, n := range counts {
		if n != 1 {
			t.Errorf("%s was accepted %d times", id, n)
		}
	}
	if s := m.Ledger().Summary().Services["apns"]; len(counts) != pushes || s.Accepted != pushes || s.Unanswered != 0 {
		t.Errorf("%d IDs, summary %+v", len(counts), s.Counts)
	}
}
