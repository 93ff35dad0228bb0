// SPDX-License-Identifier: Apache-2.0

package console_test

import (
	"bytes"
	"context"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

// streamWriter is the response of a stream.
type streamWriter struct {
	header http.Header
	status int
	mu     sync.Mutex
	body   bytes.Buffer
}

func (s *streamWriter) Header() http.Header    { return s.header }
func (s *streamWriter) WriteHeader(status int) { s.status = status }
func (s *streamWriter) Flush()                 {}
func (s *streamWriter) Write(p []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.body.Write(p)
}
func (s *streamWriter) text() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.body.String()
}

// stream opens a stream, which ends with ctx.
func (ts *testConsole) stream(ctx context.Context) *streamWriter {
	r := httptest.NewRequestWithContext(ctx, http.MethodGet, "/console/live/events", nil)
	r.Header.Set("Accept", "text/event-stream")
	r.AddCookie(ts.cookie)
	w := &streamWriter{header: http.Header{}}
	go ts.ServeHTTP(w, r)
	return w
}

func TestStreamsShareOneSnapshotPerSecond(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ts := newTestConsole(t)
		ts.signIn(shopKey)
		shop := ts.stream(t.Context())
		ts.cookie = nil // another browser
		ts.signIn(otherKey)
		other := ts.stream(t.Context())
		synctest.Wait()
		for range 5 {
			time.Sleep(time.Second)
			synctest.Wait()
		}
		if n := ts.snapshots.Load(); n != 6 {
			t.Errorf("%d snapshots in 5 s, want 6", n)
		}
		if text := shop.text(); strings.Count(text, "event: view") != 6 || strings.Count(text, "event: point") != 5 || strings.Contains(text, "BANKKEY") {
			t.Error(text)
		}
		if text := shop.text(); !strings.Contains(text, `"accepted":100,`) || !strings.Contains(text, `"p50":5,`) {
			t.Error(text)
		}
		if text := other.text(); !strings.Contains(text, "BANKKEY") || strings.Contains(text, "SHOPKEY") || !strings.Contains(text, `"accepted":0,`) {
			t.Error(text)
		}
	})
}

func TestStreamsAreLimited(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ts := newTestConsole(t)
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		open, refused := 0, 0
		for range 8 { // sessions
			ts.cookie = nil
			ts.signIn(shopKey)
			for range 7 {
				w := ts.stream(ctx)
				synctest.Wait()
				if w.status == http.StatusServiceUnavailable && w.header.Get("Retry-After") != "" {
					refused++
				} else {
					open++
				}
			}
		}
		if open != 32 || refused != 8*7-32 {
			t.Errorf("%d streams are open and %d refused", open, refused)
		}
		cancel()
		synctest.Wait()
		count := ts.snapshots.Load()
		time.Sleep(time.Minute)
		if ts.snapshots.Load() != count {
			t.Error("snapshots are taken although nobody watches")
		}
		if w := ts.stream(t.Context()); w.status == http.StatusServiceUnavailable {
			t.Error("a stream is refused after the others have ended")
		}
	})
}

func TestStreamEndsWithSession(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ts := newTestConsole(t)
		ts.signIn(shopKey)
		w := ts.stream(t.Context())
		synctest.Wait()
		ts.revoke(shopHash)
		time.Sleep(time.Second)
		synctest.Wait()
		size := len(w.text())
		time.Sleep(time.Minute)
		synctest.Wait()
		if len(w.text()) != size {
			t.Error("the stream goes on without its key")
		}
	})
}

func TestHeadOfStreamReturns(t *testing.T) {
	ts := newTestConsole(t)
	if w := ts.do(http.MethodHead, "/console/live/events", nil, "Accept: text/event-stream"); w.Code != http.StatusUnauthorized {
		t.Errorf("without a session: %d", w.Code)
	}
	ts.signIn(shopKey)
	if w := ts.do(http.MethodHead, "/console/live/events", nil, "Accept: text/event-stream"); w.Code != http.StatusOK { // returns at once
		t.Error(w.Code)
	}
}
