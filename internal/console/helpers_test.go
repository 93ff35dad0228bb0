// SPDX-License-Identifier: Apache-2.0

package console_test

import (
	"context"
	"encoding/json"
	"io"
	"net/http"
	"net/http/httptest"
	"net/url"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/sluice-push/sluice/internal/console"
	"github.com/sluice-push/sluice/internal/identity"
	"github.com/sluice-push/sluice/internal/queue"
	"github.com/sluice-push/sluice/pool"
	"github.com/sluice-push/sluice/push"
)

// The keys of the tests, and what they may do.
var (
	shopKey, shopHash   = identity.NewKey() // send and read in shop
	readKey, readHash   = identity.NewKey() // read in shop
	sendKey, sendHash   = identity.NewKey() // send in shop
	otherKey, otherHash = identity.NewKey() // send and read in bank
	adminKey, adminHash = identity.NewKey() // admin
)

// hostile is a text that would do something if it were not escaped.
const hostile = `"><script>alert(1)</script><img src=x onerror=alert(1)>'`

const (
	deviceToken = "00fc13adff785122b4ad28809a3420982341241421348097878e577c991de8f0"
	knownID     = "01a20286-0ae1-7e05-8dcc-78654e4789e5"
)

// testConsole is a console with a fake gateway.
type testConsole struct {
	*testing.T
	*console.Console
	mu        sync.Mutex
	keys      []identity.Key
	snapshots atomic.Int32
	calls     []string // to the API: method, path and body
	cookie    *http.Cookie
}

func newTestConsole(t *testing.T, change ...func(*console.Config)) *testConsole {
	admin, err := identity.ParseScopes([]string{"admin"})
	if err != nil {
		t.Fatal(err)
	}
	ts := &testConsole{T: t, keys: []identity.Key{
		{Path: "apps.shop.keys[0]", Name: "shop-key", Hash: shopHash, Apps: []string{"shop"}, Scopes: identity.Send | identity.Read},
		{Path: "apps.shop.keys[1]", Name: "read-key", Hash: readHash, Apps: []string{"shop"}, Scopes: identity.Read},
		{Path: "apps.shop.keys[2]", Name: "send-key", Hash: sendHash, Apps: []string{"shop"}, Scopes: identity.Send},
		{Path: "apps.bank.keys[0]", Name: "other-key", Hash: otherHash, Apps: []string{"bank"}, Scopes: identity.Send | identity.Read},
		{Path: "keys[0]", Name: "admin-key", Hash: adminHash, Scopes: admin},
	}}
	cfg := console.Config{
		API:        http.HandlerFunc(ts.serveAPI),
		WithCaller: func(r *http.Request, _ *identity.Caller) *http.Request { return r }, Authenticator: ts.authenticator,
		Snapshot: ts.snapshot, Translate: translate, Platforms: func(string) []push.Platform { return []push.Platform{push.APNs, push.WebPush} },
		Lifetime: func() time.Duration { return time.Hour }, History: fakeHistory{}, Address: func(r *http.Request) string { return r.RemoteAddr },
	}
	for _, f := range change {
		f(&cfg)
	}
	ts.Console = console.New(cfg)
	return ts
}

// authenticator returns the authenticator of the current configuration.
func (ts *testConsole) authenticator() *identity.Authenticator {
	ts.mu.Lock()
	defer ts.mu.Unlock()
	a, err := identity.New(identity.Config{Apps: []string{"bank", "shop"}, Keys: ts.keys})
	if err != nil {
		ts.Fatal(err)
	}
	return a
}

// revoke removes a key from the configuration.
func (ts *testConsole) revoke(hash string) {
	ts.mu.Lock()
	defer ts.mu.Unlock()
	ts.keys = slices.DeleteFunc(ts.keys, func(k identity.Key) bool { return k.Hash == hash })
}

func (ts *testConsole) serveAPI(w http.ResponseWriter, r *http.Request) {
	body, err := io.ReadAll(r.Body)
	if err != nil {
		ts.Error(err)
	}
	ts.mu.Lock()
	ts.calls = append(ts.calls, r.Method+" "+r.URL.RequestURI()+" "+string(body))
	ts.mu.Unlock()
	if !strings.HasPrefix(r.URL.Path, "/v1/apps/shop/") {
		w.WriteHeader(http.StatusForbidden)
		_, _ = io.WriteString(w, `{"title":"The API key belongs to another app","detail":"no"}`)
		return
	}
	if strings.HasSuffix(r.URL.Path, "/stats") {
		_, _ = io.WriteString(w, `{"since":"2026-11-30T12:00:00Z","total":4321,"counts":[{"status":"accepted","count":4321}],"latency_ms":{"p50":1,"p95":2,"p99":3}}`)
		return
	}
	if r.Method == http.MethodGet {
		page := push.Page{Notifications: []push.Summary{{ID: knownID, Status: push.StatusUnregistered, Platform: push.APNs, Reason: hostile, Tags: []string{hostile}}}, NextCursor: "a&b"}
		if err := json.NewEncoder(w).Encode(page); err != nil {
			ts.Error(err)
		}
		return
	}
	_, _ = io.WriteString(w, `{"id":"`+knownID+`","status":"refused","reason":"`+strings.ReplaceAll(hostile, `"`, `\"`)+`","attempts":[]}`)
}

// snapshot returns a snapshot whose texts are hostile.
func (ts *testConsole) snapshot() console.Snapshot {
	n := ts.snapshots.Add(1)
	service := func(app, name string) console.Service {
		return console.Service{Blocks: []string{"apps." + app + ".apns"}, Pool: pool.Status{
			Name: "apns api.push.apple.com " + name, Ready: true, Size: 2, Dials: 2,
			Endpoints: []pool.EndpointStatus{
				{Address: "192.0.2.1:443", State: "closed", Successes: 75, LatencyMS: 12.5},
				{Address: "192.0.2.2:443", State: "open", Successes: 5, Failures: 20, Reason: hostile, EjectedUntil: new(time.Now().Add(time.Minute))},
			},
			Events: []pool.Event{{Time: time.Now(), Pool: name, Kind: pool.EventEjected, Endpoint: "192.0.2.2:443", Reason: hostile}},
		}}
	}
	return console.Snapshot{
		Zone: hostile, Services: []console.Service{service("shop", "SHOPKEY"), service("bank", "BANKKEY")},
		Queue:  &console.Queue{Status: queue.Status{Waiting: []queue.Depth{{App: "shop", Lane: push.LaneNormal, Tasks: 7}, {App: "bank", Lane: push.LaneBulk, Tasks: 1234}}, Oldest: time.Now().Add(-time.Minute)}, Reason: hostile},
		Routes: []*console.RouteTotals{{App: "shop", Platform: "apns", Ended: map[string]float64{"accepted": 100 * float64(n)}, Count: 100 * uint64(n), Bounds: []float64{0.01}, Counts: []uint64{100 * uint64(n)}}},
	}
}

func translate(n *push.Notification) (*console.Request, error) {
	if n.Title == "" {
		return nil, &push.FieldError{Field: "title", Reason: "PayloadEmpty", Allowed: "set"}
	}
	return &console.Request{Method: "POST", URL: "https://api.push.apple.com/3/device/" + n.Token, Header: []console.HeaderField{{Name: "apns-topic", Value: hostile}},
		Body: []byte(`{"aps":{"alert":"` + n.Title + `"},"token":"` + n.Token + `"}`)}, nil
}

// fakeHistory has one notification of shop.
type fakeHistory struct{}

func (fakeHistory) Find(_ context.Context, app, id string) (push.Receipt, []push.Event, error) {
	if id != knownID || app != "" && app != "shop" {
		return push.Receipt{}, nil, push.ErrNotFound
	}
	at := time.Date(2026, 11, 30, 12, 0, 0, 0, time.UTC)
	receipt := push.Receipt{ID: id, Outcome: push.Outcome{Verdict: push.Refused, Reason: hostile, Detail: hostile}, Attempts: []push.Attempt{
		{Endpoint: "192.0.2.2:443", Started: at.Add(time.Second), Took: 30 * time.Millisecond, Outcome: push.Outcome{Verdict: push.Refused, Reason: hostile, HTTP: 400}}}}
	return receipt, []push.Event{
		{ID: id, App: "shop", At: at, Status: push.StatusQueued, Platform: push.APNs},
		{ID: id, App: "shop", At: at.Add(time.Second), Status: push.StatusRefused, Receipt: &receipt, Target: &push.Target{Token: deviceToken}},
	}, nil
}

// do makes a request from the console's own pages. A form makes it a POST.
func (ts *testConsole) do(method, path string, form url.Values, header ...string) *httptest.ResponseRecorder {
	ts.Helper()
	r := httptest.NewRequestWithContext(ts.Context(), method, "http://127.0.0.1:9090"+path, strings.NewReader(form.Encode()))
	r.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	r.Header.Set("Sec-Fetch-Site", "same-origin")
	for _, h := range header {
		name, value, _ := strings.Cut(h, ": ")
		if r.Header.Set(name, value); name == "Host" {
			r.Host = value
		}
	}
	if ts.cookie != nil {
		r.AddCookie(ts.cookie)
	}
	w := httptest.NewRecorder()
	ts.ServeHTTP(w, r)
	return w
}

// get returns the body of a page.
func (ts *testConsole) get(path string, header ...string) string {
	ts.Helper()
	w := ts.do(http.MethodGet, path, nil, header...)
	if w.Code != http.StatusOK {
		ts.Errorf("%s: status %d", path, w.Code)
	}
	return w.Body.String()
}

// signIn signs in with a key and keeps the cookie.
func (ts *testConsole) signIn(key string) *httptest.ResponseRecorder {
	ts.Helper()
	w := ts.do(http.MethodPost, "/console/sign-in", url.Values{"key": {key}})
	cookies := w.Result().Cookies()
	if i := slices.IndexFunc(cookies, func(c *http.Cookie) bool { return c.Name == "sluice_console" }); i >= 0 {
		ts.cookie = cookies[i]
	}
	return w
}
