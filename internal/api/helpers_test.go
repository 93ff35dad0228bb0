// SPDX-License-Identifier: Apache-2.0

package api_test

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/sluice-push/sluice/internal/api"
	"github.com/sluice-push/sluice/internal/identity"
	"github.com/sluice-push/sluice/push"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// sender is a Sender that returns what the test wants and records the notifications.
type sender struct {
	respond func(ctx context.Context, n *push.Notification) push.Receipt // nil accepts all

	mu       sync.Mutex
	sent     []*push.Notification
	canQueue []bool
}

func (s *sender) Send(ctx context.Context, c *push.Call) *push.Receipt {
	s.mu.Lock()
	s.sent, s.canQueue = append(s.sent, c.Notification), append(s.canQueue, c.CanQueue)
	s.mu.Unlock()
	if s.respond != nil {
		c.Receipt = s.respond(ctx, c.Notification)
	} else {
		c.Receipt = accepted(c.Notification)
	}
	return &c.Receipt
}

func (s *sender) SendAll(ctx context.Context, calls []*push.Call, ended func([]*push.Call)) {
	push.SendEach(ctx, calls, ended, s.Send)
}

func (s *sender) count() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.sent)
}

func accepted(n *push.Notification) push.Receipt {
	return ended(n, push.Outcome{Verdict: push.Accepted, HTTP: 200, ProviderID: n.ID})
}

// ended returns the receipt of a notification with one attempt.
func ended(n *push.Notification, o push.Outcome) push.Receipt {
	attempt := push.Attempt{Endpoint: "127.0.0.1:443", Started: time.Now(), Took: time.Millisecond, Outcome: o}
	return push.Receipt{ID: n.ID, Outcome: o, Attempts: []push.Attempt{attempt}}
}

// The API keys of the tests. sendKey and readKey belong to the app shop, and otherKey to the app
// bank.
var (
	sendKey, sendHash   = identity.NewKey()
	readKey, readHash   = identity.NewKey()
	otherKey, otherHash = identity.NewKey()
)

// testConfig is the configuration of an API and the keys of its apps.
type testConfig struct {
	api.Config
	Apps map[string][]testKey
}

// testKey is an API key of an app. No scopes means send.
type testKey struct {
	Name, Hash string
	Scopes     []string
	ExpiresAt  time.Time
	Limit      identity.Limit
}

// newAuth returns an authenticator for the keys of apps.
func newAuth(t testing.TB, apps map[string][]testKey) *identity.Authenticator {
	t.Helper()
	auth, err := authFor(apps)
	if err != nil {
		t.Fatal(err)
	}
	return auth
}

func authFor(apps map[string][]testKey) (*identity.Authenticator, error) {
	cfg := identity.Config{Apps: slices.Sorted(maps.Keys(apps))}
	for _, app := range cfg.Apps {
		for i, k := range apps[app] {
			path, scopes := fmt.Sprintf("apps.%s.keys[%d]", app, i), k.Scopes
			if scopes == nil {
				scopes = []string{"send"}
			}
			parsed, err := identity.ParseScopes(scopes)
			if err != nil {
				return nil, fmt.Errorf("%s.scopes: %w", path, err)
			}
			cfg.Keys = append(cfg.Keys, identity.Key{
				Path: path, Name: k.Name, Hash: k.Hash, Apps: []string{app}, Scopes: parsed, ExpiresAt: k.ExpiresAt, Limit: k.Limit,
			})
		}
	}
	return identity.New(cfg)
}

// testAPI is an API with a sender.
type testAPI struct {
	t testing.TB
	*sender
	http.Handler
}

func newTestAPI(t testing.TB, change ...func(*testConfig)) *testAPI {
	t.Helper()
	s := &sender{}
	cfg := testConfig{Config: api.Config{Sender: s}, Apps: map[string][]testKey{
		"shop": {
			{Name: "backend", Hash: sendHash, Scopes: []string{"send"}},
			{Name: "dashboard", Hash: readHash, Scopes: []string{"read"}},
		},
		"bank": {{Name: "bank", Hash: otherHash}},
	}}
	for _, f := range change {
		f(&cfg)
	}
	cfg.Auth = newAuth(t, cfg.Apps)
	h, err := api.New(cfg.Config)
	if err != nil {
		t.Fatal(err)
	}
	return &testAPI{t: t, sender: s, Handler: h}
}

// request makes a request. Each header is "Name: value". It authenticates with sendKey unless the
// headers contain another key.
func (ts *testAPI) request(method, path, body string, headers ...string) *httptest.ResponseRecorder {
	ts.t.Helper()
	return ts.requestWith(ts.t.Context(), method, path, strings.NewReader(body), headers...)
}

// requestWith is request with a context, for a client that disconnects, and with a body of unknown
// length.
func (ts *testAPI) requestWith(ctx context.Context, method, path string, body io.Reader, headers ...string) *httptest.ResponseRecorder {
	r := httptest.NewRequestWithContext(ctx, method, path, body)
	r.Header.Set("Authorization", "Bearer "+sendKey)
	for _, h := range headers {
		name, value, _ := strings.Cut(h, ": ")
		r.Header.Set(name, value)
	}
	w := httptest.NewRecorder()
	ts.ServeHTTP(w, r)
	return w
}

const (
	singlePath = "/v1/apps/shop/notifications"
	batchPath  = "/v1/apps/shop/notifications/batch"
	validBody  = `{"platform":"apns","token":"00ff","title":"Hi"}`
	ndjson     = "Content-Type: application/x-ndjson"
)

// document is a problem document as clients see it.
type document struct {
	Type, Title, Detail, Field string
	Status                     int
	RequestID                  string `json:"request_id"`
	Receipt                    *receipt
}

type receipt struct {
	ID, Status, Reason, Field, Detail string
	Index                             *int
	TargetIndex                       *int `json:"target_index"`
	Replayed                          bool
	Attempts                          []struct{ Endpoint, Status string }
}

// wantProblem checks that the response is a problem document with this status and slug, and returns
// it.
func (ts *testAPI) wantProblem(w *httptest.ResponseRecorder, status int, slug string) document {
	ts.t.Helper()
	var p document
	if err := json.Unmarshal(w.Body.Bytes(), &p); err != nil {
		ts.t.Fatalf("%d %q: %v", w.Code, w.Body, err)
	}
	if w.Code != status || p.Status != status || !strings.HasSuffix(p.Type, "/problems/"+slug) {
		ts.t.Fatalf("got %d, want %d %s: %s", w.Code, status, slug, w.Body)
	}
	if got := w.Header().Get("Content-Type"); got != "application/problem+json" {
		ts.t.Fatalf("Content-Type %q", got)
	}
	if p.RequestID != w.Header().Get("X-Request-ID") || p.RequestID == "" || p.Title == "" {
		ts.t.Fatalf("incomplete: %s", w.Body)
	}
	return p
}

// receipts returns the receipts of a batch response by index.
func receipts(t testing.TB, from io.Reader) map[int]receipt {
	t.Helper()
	got := map[int]receipt{}
	for lines := json.NewDecoder(from); ; {
		var r receipt
		if err := lines.Decode(&r); err == io.EOF {
			return got
		} else if err != nil {
			t.Fatal(err)
		}
		if r.Index == nil {
			t.Fatalf("no index: %+v", r)
		}
		if _, twice := got[*r.Index]; twice && r.TargetIndex == nil {
			t.Fatalf("two receipts for %d", *r.Index)
		}
		got[*r.Index] = r
	}
}

func TestSend(t *testing.T) {
	ts := newTestAPI(t)
	w := ts.request("POST", singlePath, validBody)
	var r receipt
	if err := json.Unmarshal(w.Body.Bytes(), &r); err != nil || w.Code != 200 || r.Status != "accepted" {
		t.Fatalf("%d %s (%v)", w.Code, w.Body, err)
	}
	n := ts.sent[0]
	if r.ID != n.ID || len(n.ID) != 36 || n.App != "shop" || n.AcceptedAt.IsZero() || n.Token != "00ff" || n.Title != "Hi" {
		t.Fatalf("%+v", n)
	}
}

func TestBatchReceiptsHaveIndexes(t *testing.T) {
	for media, body := range map[string]string{
		"application/json":     "[" + validBody + "," + validBody + ", " + validBody + "]",
		"application/x-ndjson": validBody + "\n\r\n" + validBody + "\r\n" + validBody,
	} {
		ts := newTestAPI(t)
		w := ts.request("POST", batchPath, body, "Content-Type: "+media)
		got := receipts(t, w.Body)
		if w.Code != 200 || len(got) != 3 || got[2].Status != "accepted" || ts.count() != 3 {
			t.Fatalf("%s: %d %v", media, w.Code, got)
		}
		if got := w.Header().Get("Content-Type"); got != "application/x-ndjson" {
			t.Fatalf("Content-Type %q", got)
		}
	}
}

func throttledReceipt(_ context.Context, n *push.Notification) push.Receipt {
	return ended(n, push.Outcome{Verdict: push.Throttled, Reason: "QUOTA_EXCEEDED", HTTP: 429, RetryAfter: 1500 * time.Millisecond})
}
