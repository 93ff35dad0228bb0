// SPDX-License-Identifier: Apache-2.0

package console

import (
	"bytes"
	"encoding/json"
	"fmt"
	"net/http"
	"sync"
	"time"
)

const (
	maxStreams           = 32 // of all viewers
	maxStreamsPerSession = 6  // as many as a browser opens to one host
	streamWriteTimeout   = 10 * time.Second
)

// streamLimit limits the streams of events. Each holds a connection of the listener.
type streamLimit struct {
	mu        sync.Mutex
	count     int
	bySession map[string]int
}

// open counts a stream. It returns false at a limit.
func (l *streamLimit) open(session string) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.count >= maxStreams || l.bySession[session] >= maxStreamsPerSession {
		return false
	}
	if l.bySession == nil {
		l.bySession = map[string]int{}
	}
	l.count++
	l.bySession[session]++
	return true
}

func (l *streamLimit) close(session string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.count--
	if l.bySession[session]--; l.bySession[session] == 0 {
		delete(l.bySession, session)
	}
}

// point is what the plots get with each update.
type point struct {
	At        int64   `json:"at"` // in seconds since 1970
	Accepted  float64 `json:"accepted"`
	Retryable float64 `json:"retryable"`
	Refused   float64 `json:"refused"`
	Unsure    float64 `json:"unknown"`
	P50       float64 `json:"p50"`
	P99       float64 `json:"p99"`
}

// update is what a stream sends at once: the event view is HTML, and the event point a point of the plots.
type update struct {
	template string
	data     any
	point    *point // nil for none
}

// streamLive sends the live view.
func (c *Console) streamLive(w http.ResponseWriter, r *http.Request, v *viewer) {
	c.stream(w, r, v, func(v *viewer) (update, error) {
		_, shown, _ := visibleApps(r, v)
		view := c.view(shown)
		u := update{template: "live-view", data: view}
		if r := view.Rates; r.Known {
			u.point = &point{view.At.Unix(), r.Accepted, r.Retryable, r.Refused, r.Unsure, r.P50, r.P99}
		}
		return u, nil
	})
}

// stream sends updates as server-sent events (WHATWG HTML §9.2), once a second. It ends with the session,
// or if there is no update.
func (c *Console) stream(w http.ResponseWriter, r *http.Request, v *viewer, next func(*viewer) (update, error)) {
	session := sessionOf(r)
	if !c.streams.open(session) {
		w.Header().Set("Retry-After", "10")
		http.Error(w, "too many open pages; close some", http.StatusServiceUnavailable)
		return
	}
	defer c.streams.close(session)
	w.Header().Set("Content-Type", "text/event-stream")
	if r.Method == http.MethodHead { // asks only whether a stream is possible; the connection is used again
		return
	}
	control := http.NewResponseController(w)
	defer func() { _ = control.SetWriteDeadline(time.Time{}) }() // a server without deadlines needs none
	ticker := time.NewTicker(snapshotInterval)
	defer ticker.Stop()
	for {
		u, err := next(v)
		if err != nil || writeUpdate(w, control, &u) != nil {
			return
		}
		select {
		case <-ticker.C:
		case <-r.Context().Done():
			return
		}
		if v = c.current(r); v == nil {
			return // the browser reconnects and is told to sign in
		}
	}
}

// writeUpdate writes the events of one update.
func writeUpdate(w http.ResponseWriter, control *http.ResponseController, u *update) error {
	var html, out bytes.Buffer
	if err := templates.ExecuteTemplate(&html, u.template, u.data); err != nil {
		return fmt.Errorf("console: template %s: %w", u.template, err)
	}
	out.WriteString("event: view\n")
	for line := range bytes.Lines(html.Bytes()) {
		if line = bytes.TrimSpace(line); len(line) > 0 {
			out.WriteString("data: ")
			out.Write(line)
			out.WriteByte('\n')
		}
	}
	out.WriteByte('\n')
	if u.point != nil {
		text, err := json.Marshal(u.point)
		if err != nil {
			return err
		}
		fmt.Fprintf(&out, "event: point\ndata: %s\n\n", text)
	}
	_ = control.SetWriteDeadline(time.Now().Add(streamWriteTimeout)) // a server without deadlines needs none
	if _, err := w.Write(out.Bytes()); err != nil {
		return err
	}
	return control.Flush()
}
