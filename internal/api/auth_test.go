// SPDX-License-Identifier: Apache-2.0

package api_test

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"io"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/sluice-push/sluice/internal/api"
	"github.com/sluice-push/sluice/internal/identity"
	"github.com/sluice-push/sluice/push"
)

func TestUnknownKeyIs401(t *testing.T) {
	ts := newTestAPI(t)
	for _, header := range []string{"", "Bearer", "Bearer ", "Bearer " + canary, "Basic " + sendKey, sendKey, "Bearer " + sendKey + "x",
		"Bearer " + strings.ToUpper(sendKey), "Bearer " + sendHash, "Bearer " + strings.Repeat("a", 10_000)} {
		w := ts.request("POST", singlePath, validBody, "Authorization: "+header)
		p := ts.wantProblem(w, 401, "unauthenticated")
		if p.Field != "Authorization" || !strings.HasPrefix(w.Header().Get("WWW-Authenticate"), "Bearer") || strings.Contains(w.Body.String(), canary) {
			t.Errorf("%q: %v %s", header, w.Header(), w.Body)
		}
		ts.wantProblem(ts.request("GET", "/v1/status", "", "Authorization: "+header), 401, "unauthenticated")
	}
	if ts.count() != 0 {
		t.Error("something was sent")
	}
}

func TestBearerSchemeIsCaseInsensitive(t *testing.T) {
	for _, scheme := range []string{"bearer", "BEARER", "Bearer "} {
		if w := newTestAPI(t).request("POST", singlePath, validBody, "Authorization: "+scheme+" "+sendKey); w.Code != 200 {
			t.Errorf("%q: %d", scheme, w.Code)
		}
	}
}

func TestKeyOfOtherAppIs403EvenIfAppDoesNotExist(t *testing.T) {
	ts := newTestAPI(t)
	otherApp := ts.wantProblem(ts.request("POST", singlePath, validBody, "Authorization: Bearer "+otherKey), 403, "wrong-app")
	noApp := ts.wantProblem(ts.request("POST", "/v1/apps/nobody/notifications", validBody, "Authorization: Bearer "+otherKey), 403, "wrong-app")
	otherApp.RequestID, noApp.RequestID = "", ""
	if otherApp != noApp || ts.count() != 0 {
		t.Fatalf("%+v, %+v", otherApp, noApp)
	}
}

func TestScopes(t *testing.T) {
	ts := newTestAPI(t)
	if p := ts.wantProblem(ts.request("POST", singlePath, validBody, "Authorization: Bearer "+readKey), 403, "missing-scope"); !strings.Contains(p.Detail, "scope send") {
		t.Error(p.Detail)
	}
	if p := ts.wantProblem(ts.request("GET", "/v1/status", ""), 403, "missing-scope"); !strings.Contains(p.Detail, "scope read") {
		t.Error(p.Detail)
	}
	ts.wantProblem(ts.request("POST", batchPath, validBody, "Authorization: Bearer "+readKey), 403, "missing-scope")
	if w := ts.request("GET", "/v1/status", "", "Authorization: Bearer "+readKey); w.Code != 200 || ts.count() != 0 {
		t.Errorf("%d %s", w.Code, w.Body)
	}
}

func TestKeySharedByApps(t *testing.T) {
	ts := newTestAPI(t, func(cfg *testConfig) {
		cfg.Apps["bank"] = []testKey{{Name: "backend", Hash: sendHash, Scopes: []string{"read"}}}
	})
	if w := ts.request("POST", singlePath, validBody); w.Code != 200 {
		t.Error(w.Body)
	}
	ts.wantProblem(ts.request("POST", "/v1/apps/bank/notifications", validBody), 403, "missing-scope")
	if w := ts.request("GET", "/v1/status", ""); w.Code != 200 {
		t.Error(w.Body)
	}
}

func TestNewRejectsInvalidConfig(t *testing.T) {
	if _, err := api.New(api.Config{}); err == nil || !strings.Contains(err.Error(), "Sender is nil") {
		t.Error(err)
	}
	if _, err := api.New(api.Config{Sender: &sender{}}); err == nil || !strings.Contains(err.Error(), "Auth is nil") {
		t.Error(err)
	}
	key := func(k testKey) map[string][]testKey { return map[string][]testKey{"shop": {k}} }
	for want, apps := range map[string]map[string][]testKey{
		"apps.shop.keys[0].hash: must be sha256: and 64 hex digits":             key(testKey{Hash: sendKey}),
		"apps.shop.keys[0].scopes: must be any of send, read, events, channels": key(testKey{Hash: sendHash, Scopes: []string{"write"}}),
		"apps: a name must be 1 to 64 letters":                                  {"../x": {}},
	} {
		if _, err := authFor(apps); err == nil || !strings.Contains(err.Error(), want) || strings.Contains(err.Error(), sendKey) {
			t.Errorf("want %q, got %v", want, err)
		}
	}
}

func TestEventsScopeReadsTheFeedOnly(t *testing.T) {
	ts, _ := newTestAPIWithStorage(t, func(cfg *testConfig) { cfg.Apps["shop"][1].Scopes = []string{"events"} })
	key := "Authorization: Bearer " + readKey
	if w := ts.request("HEAD", feedPath, "", key); w.Code != 200 {
		t.Errorf("%d %s", w.Code, w.Body)
	}
	for _, path := range []string{singlePath + "/019b4c5d-77b0-7d3e-9a51-3f0e6b1c2d4a", "/v1/status", "/v1/apps/shop/channels"} {
		if p := ts.wantProblem(ts.request("GET", path, "", key), 403, "missing-scope"); !strings.Contains(p.Detail, "scope read") {
			t.Error(p.Detail)
		}
	}
	ts.wantProblem(ts.request("GET", feedPath, ""), 403, "missing-scope")
}

func TestBroadcastsScopeSendsToTopicsOnly(t *testing.T) {
	ts := newTestAPI(t, func(cfg *testConfig) { cfg.Apps["shop"][1].Scopes = []string{"broadcasts"} })
	key := "Authorization: Bearer " + readKey
	allowed := []string{
		`{"platform":"fcm","topic":"news","title":"Hi"}`, `{"platform":"fcm","condition":"'a' in topics","title":"Hi"}`, `{"platform":"apns","channel":"AAAA","title":"Hi"}`,
	}
	for _, body := range allowed {
		if w := ts.request("POST", singlePath, body, key); w.Code != 200 {
			t.Errorf("%s: %d %s", body, w.Code, w.Body)
		}
	}
	refused := []string{validBody, `{"platform":"apns","tokens":["00ff","00fe"],"title":"Hi"}`}
	for _, body := range refused {
		if p := ts.wantProblem(ts.request("POST", singlePath, body, key), 403, "missing-scope"); !strings.HasSuffix(p.Detail, "scope send") {
			t.Error(p.Detail)
		}
	}
	got := receipts(t, ts.request("POST", batchPath, strings.Join(append(refused, allowed...), "\n"), key, ndjson).Body)
	if len(got) != 5 || got[0].Reason != "MissingScope" || got[1].Reason != "MissingScope" || got[2].Status != "accepted" || got[4].Status != "accepted" || ts.count() != 6 {
		t.Errorf("%+v, %d sent", got, ts.count())
	}
	ts.wantProblem(ts.request("DELETE", singlePath+"/019b4c5d-77b0-7d3e-9a51-3f0e6b1c2d4a", "", key), 403, "missing-scope")
}

func TestClientCertificateIsACaller(t *testing.T) {
	auth, err := identity.New(identity.Config{
		Apps: []string{"shop"}, Certificates: []identity.CertificateRule{{Name: "orders", Apps: []string{"shop"}, Scopes: identity.Send}},
	})
	if err != nil {
		t.Fatal(err)
	}
	handler, err := api.New(api.Config{Sender: &sender{}, Auth: auth})
	if err != nil {
		t.Fatal(err)
	}
	post := func(name string) int {
		cert := &x509.Certificate{Subject: pkix.Name{CommonName: name}, NotAfter: time.Now().Add(time.Hour)}
		r := httptest.NewRequest("POST", singlePath, strings.NewReader(validBody))
		r.TLS = &tls.ConnectionState{PeerCertificates: []*x509.Certificate{cert}, VerifiedChains: [][]*x509.Certificate{{cert}}}
		w := httptest.NewRecorder()
		handler.ServeHTTP(w, r)
		return w.Code
	}
	if post("orders") != 200 || post("order") != 401 {
		t.Error("the name in the certificate was not respected")
	}
}

func TestExpiredKeyEndsFeedAndBatch(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ts, store := newTestAPIWithStorage(t, func(cfg *testConfig) {
			for i := range cfg.Apps["shop"] {
				cfg.Apps["shop"][i].ExpiresAt = time.Now().Add(time.Hour)
			}
		})
		store.addEvent(push.Event{ID: "1", App: "shop", Status: push.StatusQueued})
		started := time.Now()
		if w := ts.request("GET", feedPath, "", "Authorization: Bearer "+readKey); !strings.Contains(w.Body.String(), "expired during this request") {
			t.Errorf("%d %s", w.Code, w.Body)
		}
		if took := time.Since(started); took < time.Hour || took > time.Hour+20*time.Second {
			t.Errorf("the feed ended after %s", took)
		}
		if p := ts.wantProblem(ts.request("POST", singlePath, validBody), 401, "unauthenticated"); !strings.Contains(p.Detail, "has expired on") {
			t.Error(p.Detail)
		}
	})
	synctest.Test(t, func(t *testing.T) {
		ts := newTestAPI(t, func(cfg *testConfig) { cfg.Apps["shop"][0].ExpiresAt = time.Now().Add(10 * time.Second) })
		body, client := io.Pipe()
		go func() {
			for range 2 {
				_, _ = io.WriteString(client, validBody+"\n")
				time.Sleep(10 * time.Second)
			}
			_ = client.Close()
		}()
		got := receipts(t, ts.requestWith(t.Context(), "POST", batchPath, body, ndjson).Body)
		if len(got) != 2 || got[0].Status != "accepted" || got[1].Reason != "Unauthenticated" {
			t.Errorf("%+v", got)
		}
	})
}

// limitedAPI returns an API where sendKey and readKey have a limit.
func limitedAPI(t testing.TB, limit identity.Limit, change ...func(*testConfig)) (*testAPI, *fakeStorage) {
	return newTestAPIWithStorage(t, append(change, func(cfg *testConfig) {
		for i := range cfg.Apps["shop"] {
			cfg.Apps["shop"][i].Limit = limit
		}
	})...)
}

func TestCallerRateIs429(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var refused []string
		ts, _ := limitedAPI(t, identity.Limit{Rate: 3, RatePer: time.Second}, func(cfg *testConfig) {
			cfg.Refused = func(kind identity.Kind, reason string) { refused = append(refused, string(kind)+" "+reason) }
		})
		for range 3 {
			if w := ts.request("POST", singlePath, validBody); w.Code != 200 {
				t.Fatalf("%d %s", w.Code, w.Body)
			}
		}
		w := ts.request("POST", singlePath, validBody)
		if p := ts.wantProblem(w, 429, "caller-limit"); !strings.Contains(p.Detail, "its rate is 3/s") || w.Header().Get("Retry-After") != "1" {
			t.Errorf("%s, Retry-After %q", p.Detail, w.Header().Get("Retry-After"))
		}
		// Other keys, and requests of other kinds, have a limit of their own.
		for range 3 {
			if w := ts.request("GET", "/v1/status", "", "Authorization: Bearer "+readKey); w.Code != 200 {
				t.Fatalf("%d %s", w.Code, w.Body)
			}
		}
		for _, path := range []string{"/v1/status", feedPath, singlePath + "/019b4c5d-77b0-7d3e-9a51-3f0e6b1c2d4a"} {
			ts.wantProblem(ts.request("GET", path, "", "Authorization: Bearer "+readKey), 429, "caller-limit")
		}
		time.Sleep(time.Second)
		targets := `{"platform":"apns","tokens":["` + strings.Repeat(`aa","`, 29) + `bb"],"title":"Hi"}`
		if w := ts.request("POST", singlePath, targets); w.Code != 200 {
			t.Errorf("%d %s", w.Code, w.Body)
		}
		if w := ts.request("POST", singlePath, validBody); w.Code != 429 || w.Header().Get("Retry-After") != "10" {
			t.Errorf("%d, Retry-After %s", w.Code, w.Header().Get("Retry-After"))
		}
		if len(refused) != 5 || refused[0] != "key rate" {
			t.Errorf("%v", refused)
		}
	})
}

func TestCallerRateSlowsBatch(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ts, _ := limitedAPI(t, identity.Limit{Rate: 10, RatePer: time.Second})
		started := time.Now()
		got := receipts(t, ts.request("POST", batchPath, strings.Repeat(validBody+"\n", 50), ndjson).Body)
		if len(got) != 50 || got[49].Status != "accepted" {
			t.Errorf("%d receipts", len(got))
		}
		if took := time.Since(started); took < 3900*time.Millisecond || took > 4200*time.Millisecond {
			t.Errorf("50 items at 10/s took %s", took)
		}
	})
}

func TestCallerConcurrency(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ts := newTestAPI(t, func(cfg *testConfig) { cfg.Apps["shop"][0].Limit.Concurrency = 5 })
		inFlight, most := 0, 0
		var mu sync.Mutex
		ts.respond = func(_ context.Context, n *push.Notification) push.Receipt {
			mu.Lock()
			inFlight++
			most = max(most, inFlight)
			mu.Unlock()
			time.Sleep(time.Second)
			mu.Lock()
			inFlight--
			mu.Unlock()
			return accepted(n)
		}
		codes := map[int]int{}
		var requests sync.WaitGroup
		for range 8 {
			requests.Go(func() {
				w := ts.request("POST", singlePath, validBody)
				mu.Lock()
				defer mu.Unlock()
				if codes[w.Code]++; w.Code == 429 && (w.Header().Get("Retry-After") != "1" || !strings.Contains(w.Body.String(), "its concurrency is 5")) {
					t.Errorf("%v %s", w.Header(), w.Body)
				}
			})
		}
		requests.Wait()
		if codes[200] != 5 || codes[429] != 3 {
			t.Errorf("%v", codes)
		}
		// Two batches share the limit and wait for it.
		for range 2 {
			requests.Go(func() {
				if got := receipts(t, ts.request("POST", batchPath, strings.Repeat(validBody+"\n", 20), ndjson).Body); len(got) != 20 || got[19].Status != "accepted" {
					t.Errorf("%d receipts", len(got))
				}
			})
		}
		requests.Wait()
		if most != 5 {
			t.Errorf("%d in flight", most)
		}
		if w := ts.request("POST", singlePath, validBody); w.Code != 200 { // all places were returned
			t.Errorf("%d %s", w.Code, w.Body)
		}
	})
}
