// SPDX-License-Identifier: Apache-2.0

package api_test

import (
	"context"
	"io"
	"net/http/httptest"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/sluice-push/sluice/internal/api"
	"github.com/sluice-push/sluice/push"
)

// replace makes a handler with the changed configuration responsible, as a reload does.
func (ts *testAPI) replace(change func(*testConfig)) {
	next := newTestAPI(ts.t, change).Handler.(*api.Handler)
	ts.Handler.(*api.Handler).Replace(next)
	ts.Handler = next
}

// revocations are changes of the configuration after which readKey may not read the app shop.
var revocations = map[string]func(*testConfig){
	"the key is removed": func(cfg *testConfig) {
		cfg.Apps["shop"] = cfg.Apps["shop"][:1]
	},
	"the scope is removed": func(cfg *testConfig) {
		cfg.Apps["shop"][1].Scopes = []string{"send"}
	},
	"the app is removed": func(cfg *testConfig) { delete(cfg.Apps, "shop") },
	"the key moves to another app": func(cfg *testConfig) {
		cfg.Apps["bank"] = cfg.Apps["shop"]
		delete(cfg.Apps, "shop")
	},
}

func TestRevokedKeyEndsOpenFeed(t *testing.T) {
	for name, revoke := range revocations {
		synctest.Test(t, func(t *testing.T) {
			ts, store := newTestAPIWithStorage(t)
			store.addEvent(push.Event{ID: "1", App: "shop", Status: push.StatusQueued})
			var w *httptest.ResponseRecorder
			ended := make(chan struct{})
			handler := *ts
			go func() {
				defer close(ended)
				w = handler.request("GET", feedPath+"?after=oldest", "", "Authorization: Bearer "+readKey)
			}()
			synctest.Wait()
			ts.replace(func(*testConfig) {}) // a reload that leaves the key
			store.addEvent(push.Event{ID: "1", App: "shop", Status: push.StatusAccepted})
			time.Sleep(time.Second)
			ts.replace(revoke)
			<-ended
			store.addEvent(push.Event{ID: "2", App: "shop", Status: push.StatusQueued})
			messages := strings.Split(strings.TrimSpace(w.Body.String()), "\n\n")
			last := messages[len(messages)-1]
			if len(eventIDs(w.Body.String())) != 2 || !strings.HasPrefix(last, "event: problem\n") || !strings.Contains(last, "/unauthenticated") {
				t.Errorf("%s: %q", name, messages)
			}
			again := ts.request("GET", feedPath, "", "Authorization: Bearer "+readKey)
			if w.Code != 200 || again.Code != 401 && again.Code != 403 {
				t.Errorf("%s: %d, then %d", name, w.Code, again.Code)
			}
		})
	}
}

// TestFeedSendsNoEventAfterRevocation checks events that are ready when the key is revoked.
func TestFeedSendsNoEventAfterRevocation(t *testing.T) {
	for range 100 {
		synctest.Test(t, func(t *testing.T) {
			ts, store := newTestAPIWithStorage(t)
			handler := *ts
			var w *httptest.ResponseRecorder
			ended := make(chan struct{})
			go func() {
				defer close(ended)
				w = handler.request("GET", feedPath, "", "Authorization: Bearer "+readKey)
			}()
			time.Sleep(time.Second)
			ts.replace(revocations["the key is removed"])
			store.addEvent(push.Event{ID: "2", App: "shop", Status: push.StatusQueued})
			<-ended
			if ids := eventIDs(w.Body.String()); len(ids) != 0 {
				t.Errorf("events after the revocation: %v", ids)
			}
		})
	}
}

func TestRevokedKeyEndsBatch(t *testing.T) {
	for _, async := range []bool{false, true} {
		synctest.Test(t, func(t *testing.T) {
			ts, store := newTestAPIWithStorage(t)
			headers := []string{ndjson}
			if async {
				headers = append(headers, respondAsyncHeader)
			}
			body, client := io.Pipe()
			handler := *ts
			var w *httptest.ResponseRecorder
			ended := make(chan struct{})
			go func() {
				defer close(ended)
				w = handler.requestWith(context.Background(), "POST", batchPath, body, headers...)
			}()
			write := func() { _, _ = io.WriteString(client, validBody+"\n") }
			write()
			synctest.Wait()
			ts.replace(func(*testConfig) {})
			write()
			synctest.Wait()
			ts.replace(func(cfg *testConfig) { cfg.Apps["shop"] = cfg.Apps["shop"][1:] })
			write()
			_ = client.Close()
			<-ended
			got := receipts(t, w.Body)
			if len(got) != 3 || got[1].Reason != "" || got[2].Status != "refused" || got[2].Reason != "Unauthenticated" || !strings.Contains(got[2].Detail, "were not read") {
				t.Errorf("async %v: %+v", async, got)
			}
			if sent := store.count() + handler.count(); sent != 2 {
				t.Errorf("async %v: %d sent", async, sent)
			}
		})
	}
}

func TestRevocationAtTheEndOfABatchChangesNothing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ts := newTestAPI(t)
		body, client := io.Pipe()
		handler := *ts
		var w *httptest.ResponseRecorder
		ended := make(chan struct{})
		go func() {
			defer close(ended)
			w = handler.requestWith(context.Background(), "POST", batchPath, body, ndjson)
		}()
		_, _ = io.WriteString(client, validBody+"\n")
		synctest.Wait()
		ts.replace(func(cfg *testConfig) { delete(cfg.Apps, "shop") })
		_ = client.Close()
		<-ended
		if got := receipts(t, w.Body); len(got) != 1 || got[0].Status != "accepted" {
			t.Errorf("%+v", got)
		}
	})
}

func TestStatusGetsTheAppsOfTheKey(t *testing.T) {
	ts := newTestAPI(t, func(cfg *testConfig) {
		cfg.Apps["bank"] = []testKey{{Name: "dashboard", Hash: readHash, Scopes: []string{"read", "send"}}}
		cfg.Apps["lab"] = []testKey{{Name: "dashboard", Hash: readHash, Scopes: []string{"send"}}}
		cfg.Status = func(apps []string) any { return apps }
	})
	if w := ts.request("GET", "/v1/status", "", "Authorization: Bearer "+readKey); strings.TrimSpace(w.Body.String()) != `["bank","shop"]` {
		t.Errorf("%d %s", w.Code, w.Body)
	}
}
