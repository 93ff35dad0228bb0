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

	"github.com/sluice-push/sluice/internal/api"
	"github.com/sluice-push/sluice/push"
)

const feedPath = "/v1/apps/shop/events"

// readFeed reads a feed that is cut after a second of the bubble's time.
func (d *testAPI) readFeed(query string, headers ...string) *httptest.ResponseRecorder {
	ctx, leave := context.WithTimeout(d.t.Context(), time.Second)
	defer leave()
	return d.requestWith(ctx, "GET", feedPath+query, http.NoBody, append([]string{"Authorization: Bearer " + readKey}, headers...)...)
}

// eventIDs are those of the events in a feed's text, in order.
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
		d, a := newTestAPIWithStorage(t)
		a.addEvent(push.Event{ID: "1", App: "shop", Status: push.StatusQueued, KeyHash: []byte("k")})
		a.addEvent(push.Event{ID: "2", App: "bank", Status: push.StatusQueued})
		target := push.Target{Token: "00ff"}
		dead := push.Receipt{ID: "1", Outcome: push.Outcome{Verdict: push.Unregistered, DeadSince: time.Now()}}
		a.addEvent(push.Event{ID: "1", App: "shop", Status: push.StatusUnregistered, Target: &target, Receipt: &dead})
		w := d.readFeed("?after=oldest")
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
		d, a := newTestAPIWithStorage(t)
		for i := range 5 {
			a.addEvent(push.Event{ID: fmt.Sprint(i), App: "shop", Status: push.StatusQueued})
		}
		for _, c := range []struct{ query, header, want string }{
			{"", "X: y", "[]"}, {"?after=2", "X: y", "[3 4 5]"}, {"?after=1", "Last-Event-ID: 4", "[5]"}, {"", "Last-Event-ID: 5", "[]"},
			{"?after=oldest", "X: y", "[1 2 3 4 5]"},
		} {
			if got := fmt.Sprint(eventIDs(d.readFeed(c.query, c.header).Body.String())); got != c.want {
				t.Errorf("%v: %s", c, got)
			}
		}
	})
}

func TestFeedTypeFilterStillAdvancesCursor(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d, a := newTestAPIWithStorage(t)
		for _, status := range []push.Status{push.StatusQueued, push.StatusUnregistered, push.StatusExpired, push.StatusAccepted} {
			a.addEvent(push.Event{ID: "1", App: "shop", Status: status})
		}
		for query, want := range map[string]string{
			"type=unregistered": "[2]", "type=unregistered,expired": "[2 3]", "type=expired&type=accepted": "[3 4]",
		} {
			text := d.readFeed("?after=oldest&" + query).Body.String()
			if got := fmt.Sprint(eventIDs(text)); got != want {
				t.Errorf("%s: %s", query, got)
			}
			if query == "type=unregistered" && !strings.HasSuffix(text, "id: 4\n\n") {
				t.Errorf("it would resume too early: %q", text)
			}
		}
		p := d.wantProblem(d.readFeed("?type=dead"), 400, "invalid-parameter")
		if p.Field != "type" || !strings.Contains(p.Detail, "unregistered") || strings.Contains(p.Detail, "dead") {
			t.Errorf("%+v", p)
		}
	})
}

func TestInvalidOrExpiredCursor(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d, a := newTestAPIWithStorage(t)
		for range 5 {
			a.addEvent(push.Event{ID: "1", App: "shop", Status: push.StatusQueued})
		}
		a.oldest = 3
		if p := d.wantProblem(d.readFeed("?after=2"), 410, "events-forgotten"); !strings.Contains(p.Detail, "after=oldest") {
			t.Errorf("%+v", p)
		}
		d.wantProblem(d.readFeed("", "Last-Event-ID: SECRET"), 400, "invalid-parameter")
		if got := fmt.Sprint(eventIDs(d.readFeed("?after=oldest").Body.String())); got != "[4 5]" {
			t.Error(got)
		}
	})
}

func TestFeedErrorIsSentAsProblemEvent(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d, a := newTestAPIWithStorage(t)
		time.AfterFunc(500*time.Millisecond, func() {
			a.mu.Lock()
			a.err = errors.New("SECRET")
			a.mu.Unlock()
			a.addEvent(push.Event{ID: "1", App: "bank"})
		})
		text := d.readFeed("").Body.String()
		if !strings.Contains(text, "event: problem\ndata: {\"type\":\"https://sluice-push.github.io/problems/queue-unavailable\"") || strings.Contains(text, "SECRET") {
			t.Errorf("%q", text)
		}
	})
}

func TestIdleFeedGetsHeartbeatsUntilDrain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		drain := make(chan struct{})
		d, a := newTestAPIWithStorage(t, func(cfg *api.Config) { cfg.Draining = drain })
		time.AfterFunc(time.Minute+time.Second, func() { a.addEvent(push.Event{ID: "1", App: "shop", Status: push.StatusQueued}) })
		time.AfterFunc(2*time.Minute+time.Second, func() { close(drain) })
		before := time.Now()
		text := d.requestWith(t.Context(), "GET", feedPath, http.NoBody, "Authorization: Bearer "+readKey).Body.String()
		if strings.Count(text, "\n:\n\n")+strings.Count(text, "\n\n:\n\n") < 8 || fmt.Sprint(eventIDs(text)) != "[1]" || time.Since(before) != 2*time.Minute+time.Second {
			t.Errorf("%v %q", time.Since(before), text)
		}
	})
}

func TestSlowFeedReaderIsDisconnected(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d, a := newTestAPIWithStorage(t)
		c := d.serve(t)
		c.write("GET " + feedPath + "?after=oldest HTTP/1.1\r\nHost: gateway\r\nAuthorization: Bearer " + readKey + "\r\n\r\n")
		for range 10_000 {
			a.addEvent(push.Event{ID: "1", App: "shop", Status: push.StatusQueued})
		}
		time.Sleep(29 * time.Second)
		if a.openFeeds() != 1 {
			t.Error("it was cut off too early, or never began")
		}
		time.Sleep(2 * time.Second)
		if a.openFeeds() != 0 {
			t.Error("it is still read for")
		}
	})
}

func TestFeedStreamsEvents(t *testing.T) {
	d, a := newTestAPIWithStorage(t)
	server := httptest.NewServer(d)
	defer server.Close()
	r, err := http.NewRequestWithContext(t.Context(), "GET", server.URL+feedPath, http.NoBody)
	if err != nil {
		t.Fatal(err)
	}
	r.Header.Set("Authorization", "Bearer "+readKey)
	answer, err := server.Client().Do(r) // it begins without an event
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = answer.Body.Close() }()
	for a.openFeeds() == 0 { // its answer may begin before it does
		runtime.Gosched()
	}
	lines := bufio.NewReader(answer.Body)
	for i := range 3 {
		a.addEvent(push.Event{ID: "1", App: "shop", Status: push.StatusQueued})
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
		d, _ := newTestAPIWithStorage(t)
		w := d.requestWith(t.Context(), "HEAD", feedPath, http.NoBody, "Authorization: Bearer "+readKey)
		if text, err := io.ReadAll(w.Body); w.Code != 200 || len(text) != 0 || err != nil {
			t.Errorf("%d %q", w.Code, text)
		}
	})
}
