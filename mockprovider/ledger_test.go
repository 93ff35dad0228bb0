// SPDX-License-Identifier: Apache-2.0

package mockprovider_test

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/sluice-push/sluice/internal/testwait"
	"github.com/sluice-push/sluice/mockprovider"
)

func TestLedgerIsFilteredOverHTTP(t *testing.T) {
	m := mockprovider.Start(t)
	c := newClient(t, m)
	do(t, c, push(t, m))
	do(t, c, push(t, m, path("/3/device/deadbeef")))
	do(t, c, message(t, m, accessToken(t, m), to(registrationToken)))
	for filter, want := range map[string]int{
		"": 4, "service=apns": 2, "service=fcm": 1, "service=oauth": 1, "token=" + deviceToken: 1, "token=dead*": 1,
		"apns_id=" + strings.ToUpper(apnsID): 2, "status=400": 1, "reason=BadDeviceToken": 1, "accepted=true": 3,
		"accepted=false": 1, "after=3": 1, "limit=2": 2, "endpoint=" + m.APNsAddrs()[0].String(): 2, "token=none": 0,
	} {
		got := call(t, "GET", m.LedgerURL()+"?"+filter, "")
		entries, _ := got.object["entries"].([]any)
		if got.status != 200 || entries == nil || len(entries) != want || got.object["truncated"] != (filter == "limit=2") {
			t.Errorf("%s: got %d entries, want %d: %s", filter, len(entries), want, got.body)
		}
	}
	for _, filter := range []string{"tokens=x", "status=x", "limit=0", "accepted=maybe", "after=-1"} {
		if got := call(t, "GET", m.LedgerURL()+"?"+filter, ""); got.status != 400 {
			t.Errorf("%s: got %d %s", filter, got.status, got.body)
		}
	}
}

func TestLedgerIsAwaitedOverHTTP(t *testing.T) {
	m := mockprovider.Start(t)
	done := make(chan string)
	go func() {
		done <- call(t, "GET", m.LedgerURL()+"?service=apns&await=1&timeout="+time.Minute.String(), "").body
	}()
	do(t, newClient(t, m), push(t, m))
	if text := testwait.For(t, done, "the response"); !strings.Contains(text, deviceToken) {
		t.Errorf("got %s", text)
	}
	for query, want := range map[string]int{"?await=2&timeout=1ms": 408, "?await=x": 400, "?timeout=1h": 400, "?awai=1": 400} {
		if got := call(t, "GET", m.LedgerURL()+query, ""); got.status != want {
			t.Errorf("%s: got %d %s, want %d", query, got.status, got.body, want)
		}
	}
}

func TestSummaryIsExactWhenEntriesAreDropped(t *testing.T) {
	m := mockprovider.Start(t, mockprovider.Config{LedgerSize: 3, Streams: mockprovider.Streams{Start: 1000}})
	c := newClient(t, m)
	for range 5 {
		do(t, c, push(t, m))
	}
	var s mockprovider.Summary
	if err := json.Unmarshal([]byte(call(t, "GET", m.LedgerURL()+"/summary", "").body), &s); err != nil {
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
	if got := call(t, "DELETE", m.LedgerURL(), ""); got.status != 204 {
		t.Errorf("DELETE: %d", got.status)
	}
	s = m.Ledger().Summary()
	if s.Entries != 0 || s.Services["apns"].Requests != 0 || s.Services["apns"].Open != 1 || len(m.Ledger().Entries(mockprovider.Query{})) != 0 {
		t.Errorf("after DELETE: %+v", s)
	}
}

func TestContentIsKeptWithoutCredentials(t *testing.T) {
	m := mockprovider.Start(t, mockprovider.Config{KeepContent: true})
	r := push(t, m)
	secret := r.Header.Get("authorization")
	do(t, newClient(t, m), r)
	got := call(t, "GET", m.LedgerURL(), "").body
	if strings.Contains(got, secret[20:60]) || !strings.Contains(got, "apns-priority") || !strings.Contains(got, `\"title\":\"Hello\"`) {
		t.Errorf("the ledger has %s", got)
	}
}

func TestScriptIsReplacedOverHTTP(t *testing.T) {
	m := mockprovider.Start(t)
	c := newClient(t, m)
	if got := call(t, "PUT", m.ScriptURL(), "faults:\n- service: apns\n  status: 500\n"); got.status != 204 {
		t.Fatalf("PUT: %d %s", got.status, got.body)
	}
	if got := do(t, c, push(t, m)); got.status != 500 {
		t.Errorf("got %d", got.status)
	}
	if got := call(t, "GET", m.ScriptURL(), ""); !strings.Contains(got.body, "status: 500") {
		t.Errorf("GET: %s", got.body)
	}
	if got := call(t, "PUT", m.ScriptURL(), "faults:\n- statuss: 500\n"); got.status != 400 || !strings.Contains(got.body, "line 2: statuss") {
		t.Errorf("PUT of an invalid script: %d %s", got.status, got.body)
	}
	if got := call(t, "DELETE", m.ScriptURL(), ""); got.status != 204 {
		t.Errorf("DELETE: %d", got.status)
	}
	if got := do(t, c, push(t, m)); got.status != 200 {
		t.Errorf("got %d", got.status)
	}
}

func TestReadyFileIsComplete(t *testing.T) {
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

func TestInvalidConfigIsRejected(t *testing.T) {
	for want, cfg := range map[string]mockprovider.Config{
		"endpoints":                   {Endpoints: -1},
		"latency":                     {Latency: "slow"},
		"streams":                     {Streams: mockprovider.Streams{Start: 5, Max: 2}},
		"credentials[0]: key":         {Credentials: []mockprovider.Credential{{KeyPEM: []byte("x")}}},
		"credentials[0]: environment": {Credentials: []mockprovider.Credential{{Environment: "test"}}},
		"faults[0]":                   {Script: mockprovider.Script{Faults: []mockprovider.Fault{{}}}},
		"address":                     {APNsListen: []string{"nowhere"}},
	} {
		if _, err := mockprovider.New(cfg); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("got %v, want %s in it", err, want)
		}
	}
}

func TestLatencyProfileDelaysResponses(t *testing.T) {
	m := mockprovider.Start(t, mockprovider.Config{Latency: "lan"})
	r, began := push(t, m), time.Now()
	if got := do(t, newClient(t, m), r); got.status != 200 || time.Since(began) < time.Millisecond {
		t.Errorf("got %d %s after %v", got.status, got.body, time.Since(began))
	}
}

func TestConcurrentPushesAreRecordedOnce(t *testing.T) {
	m := mockprovider.Start(t, mockprovider.Config{Streams: mockprovider.Streams{Start: 1000}, Latency: "lan"})
	c := newClient(t, m)
	first := push(t, m)
	var wg sync.WaitGroup
	const pushes, callers = 400, 20
	for i := range callers {
		wg.Go(func() {
			for j := range pushes / callers {
				r := first.Clone(context.Background())
				r.Header.Set("apns-id", fmt.Sprintf("00000000-0000-0000-0000-%012d", i*1000+j))
				body(payload)(r)
				if got := do(t, c, r); got.status != 200 {
					t.Errorf("got %d %s", got.status, got.body)
				}
			}
		})
	}
	testwait.Call(t, wg.Wait, "the end of all pushes")
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
