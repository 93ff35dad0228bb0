// SPDX-License-Identifier: Apache-2.0

package api_test

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"runtime"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/sluice-push/sluice/push"
)

const feedPath = "/v1/apps/shop/events"

// readFeed reads a feed and disconnects after one second of synctest time.
func (ts *testAPI) readFeed(query string, headers ...string) *httptest.ResponseRecorder {
	ctx, cancel := context.WithTimeout(ts.t.Context(), time.Second)
	defer cancel()
	return ts.requestWith(ctx, "GET", feedPath+query, http.NoBody, append([]string{"Authorization: Bearer " + readKey}, headers...)...)
}

// eventIDs returns the IDs of the events in a feed's text, in order.
func eventIDs(text string) (ids []string) {
	for message := range strings.SplitSeq(text, "\n\n") {
		if id, rest, _ := strings.Cut(message, "\n"); strings.HasPrefix(id, "id: ") && strings.Contains(rest, "data: ") {
			ids = append(ids, strings.TrimPrefix(id, "id: "))
		}
	}
	return ids
}

func TestFeedFormat(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ts, store := newTestAPIWithStorage(t)
		store.addEvent(push.Event{ID: "1", App: "shop", Status: push.StatusQueued, KeyHash: []byte("k")})
		store.addEvent(push.Event{ID: "2", App: "bank", Status: push.StatusQueued})
		target := push.Target{Token: "00ff"}
		receipt := push.Receipt{ID: "1", Outcome: push.Outcome{Verdict: push.Unregistered, DeadSince: time.Now()}}
		store.addEvent(push.Event{ID: "1", App: "shop", Status: push.StatusUnregistered, Target: &target, Receipt: &receipt})
		w := ts.readFeed("?after=oldest")
		if h := w.Header(); w.Code != 200 || h.Get("Content-Type") != "text/event-stream" || h.Get("X-Accel-Buffering") != "no" {
			t.Errorf("%d %v", w.Code, h)
		}
		messages := strings.Split(strings.TrimSuffix(w.Body.String(), "\n\n"), "\n\n")
		if len(messages) != 3 || messages[0] != "retry: 1000" || !strings.HasPrefix(messages[2], "id: 3\nevent: unregistered\ndata: {") {
			t.Fatalf("%q", messages)
		}
		var e push.Event
		_, data, _ := strings.Cut(messages[2], "data: ")
		if err := json.Unmarshal([]byte(data), &e); err != nil || e.Target.Token != "00ff" || e.Receipt.DeadSince.IsZero() {
			t.Errorf("%s %v", data, err)
		}
		if strings.Contains(w.Body.String(), "key_hash") {
			t.Error(w.Body)
		}
	})
}

func TestFeedResumesAfterCursor(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ts, store := newTestAPIWithStorage(t)
		for i := range 5 {
			store.addEvent(push.Event{ID: fmt.Sprint(i), App: "shop", Status: push.StatusQueued})
		}
		for _, c := range []struct{ query, header, want string }{
			{"", "X: y", "[]"}, {"?after=2", "X: y", "[3 4 5]"}, {"?after=1", "Last-Event-ID: 4", "[5]"}, {"", "Last-Event-ID: 5", "[]"},
			{"?after=oldest", "X: y", "[1 2 3 4 5]"},
		} {
			if got := fmt.Sprint(eventIDs(ts.readFeed(c.query, c.header).Body.String())); got != c.want {
				t.Errorf("%v: %s", c, got)
			}
		}
	})
}

func TestFeedTypeFilterStillAdvancesCursor(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ts, store := newTestAPIWithStorage(t)
		for _, status := range []push.Status{push.StatusQueued, push.StatusUnregistered, push.StatusExpired, push.StatusAccepted} {
			store.addEvent(push.Event{ID: "1", App: "shop", Status: status})
		}
		for query, want := range map[string]string{
			"type=unregistered": "[2]", "type=unregistered,expired": "[2 3]", "type=expired&type=accepted": "[3 4]",
		} {
			text := ts.readFeed("?after=oldest&" + query).Body.String()
			if got := fmt.Sprint(eventIDs(text)); got != want {
				t.Errorf("%s: %s", query, got)
			}
			if query == "type=unregistered" && !strings.HasSuffix(text, "id: 4\n\n") {
				t.Errorf("the last id does not advance past filtered events: %q", text)
			}
		}
		p := ts.wantProblem(ts.readFeed("?type=dead"), 400, "invalid-parameter")
		if p.Field != "type" || !strings.Contains(p.Detail, "unregistered") || strings.Contains(p.Detail, "dead") {
			t.Errorf("%+v", p)
		}
	})
}

func TestInvalidOrExpiredCursor(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ts, store := newTestAPIWithStorage(t)
		for range 5 {
			store.addEvent(push.Event{ID: "1", App: "shop", Status: push.StatusQueued})
		}
		store.oldest = 3
		if p := ts.wantProblem(ts.readFeed("?after=2"), 410, "cursor-expired"); !strings.Contains(p.Detail, "after=oldest") {
			t.Errorf("%+v", p)
		}
		ts.wantProblem(ts.readFeed("", "Last-Event-ID: SECRET"), 400, "invalid-parameter")
		if got := fmt.Sprint(eventIDs(ts.readFeed("?after=oldest").Body.String())); got != "[4 5]" {
			t.Error(got)
		}
	})
}

func TestFeedErrorIsSentAsProblemEvent(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ts, store := newTestAPIWithStorage(t)
		time.AfterFunc(500*time.Millisecond, func() {
			store.mu.Lock()
			store.err = errors.New("SECRET")
			store.mu.Unlock()
			store.addEvent(push.Event{ID: "1", App: "bank"})
		})
		text := ts.readFeed("").Body.String()
		if !strings.Contains(text, "event: problem\ndata: {\"type\":\"https://sluice-push.github.io/problems/queue-unavailable\"") || strings.Contains(text, "SECRET") {
			t.Errorf("%q", text)
		}
	})
}

func TestIdleFeedGetsHeartbeatsUntilDrain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		drain := make(chan struct{})
		ts, store := newTestAPIWithStorage(t, func(cfg *testConfig) { cfg.Draining = drain })
		time.AfterFunc(time.Minute+time.Second, func() { store.addEvent(push.Event{ID: "1", App: "shop", Status: push.StatusQueued}) })
		time.AfterFunc(2*time.Minute+time.Second, func() { close(drain) })
		start := time.Now()
		text := ts.requestWith(t.Context(), "GET", feedPath, http.NoBody, "Authorization: Bearer "+readKey).Body.String()
		if strings.Count(text, "\n:\n\n")+strings.Count(text, "\n\n:\n\n") < 8 || fmt.Sprint(eventIDs(text)) != "[1]" || time.Since(start) != 2*time.Minute+time.Second {
			t.Errorf("%v %q", time.Since(start), text)
		}
	})
}

func TestSlowFeedReaderIsDisconnected(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ts, store := newTestAPIWithStorage(t)
		c := ts.serve(t)
		c.write("GET " + feedPath + "?after=oldest HTTP/1.1\r\nHost: gateway\r\nAuthorization: Bearer " + readKey + "\r\n\r\n")
		for range 10_000 {
			store.addEvent(push.Event{ID: "1", App: "shop", Status: push.StatusQueued})
		}
		time.Sleep(29 * time.Second)
		if store.openFeeds() != 1 {
			t.Error("the feed is not open after 29 s")
		}
		time.Sleep(2 * time.Second)
		if store.openFeeds() != 0 {
			t.Error("the feed is still open after 31 s")
		}
	})
}

func TestFeedStreamsEvents(t *testing.T) {
	ts, store := newTestAPIWithStorage(t)
	server := httptest.NewServer(ts)
	defer server.Close()
	r, err := http.NewRequestWithContext(t.Context(), "GET", server.URL+feedPath, http.NoBody)
	if err != nil {
		t.Fatal(err)
	}
	r.Header.Set("Authorization", "Bearer "+readKey)
	res, err := server.Client().Do(r) // the response starts before there is an event
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = res.Body.Close() }()
	for store.openFeeds() == 0 { // the response may start before the feed is open
		runtime.Gosched()
	}
	lines := bufio.NewReader(res.Body)
	for i := range 3 {
		store.addEvent(push.Event{ID: "1", App: "shop", Status: push.StatusQueued})
		for {
			line, err := lines.ReadString('\n')
			if err != nil {
				t.Fatal(err)
			}
			if strings.HasPrefix(line, "id: ") {
				if line != fmt.Sprintf("id: %d\n", i+1) {
					t.Error(line)
				}
				break
			}
		}
	}
}

func TestFeedHeadRequestReturnsImmediately(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ts, _ := newTestAPIWithStorage(t)
		w := ts.requestWith(t.Context(), "HEAD", feedPath, http.NoBody, "Authorization: Bearer "+readKey)
		if text, err := io.ReadAll(w.Body); w.Code != 200 || len(text) != 0 || err != nil {
			t.Errorf("%d %q", w.Code, text)
		}
	})
}

// TestPanicEndsOnlyItsFeed panics while the history is read for a feed. The feed ends, and the next one
// has the events.
func TestPanicEndsOnlyItsFeed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ts, store := newTestAPIWithStorage(t)
		store.addEvent(push.Event{ID: "1", App: "shop", Status: push.StatusQueued})
		store.panicOnFeed = true
		if w := ts.readFeed("?after=oldest"); len(eventIDs(w.Body.String())) > 0 || strings.Contains(w.Body.String(), canary) {
			t.Errorf("%d %s", w.Code, w.Body)
		}
		store.panicOnFeed = false
		if got := fmt.Sprint(eventIDs(ts.readFeed("?after=oldest").Body.String())); got != "[1]" {
			t.Error(got)
		}
	})
}
