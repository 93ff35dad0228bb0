// SPDX-License-Identifier: Apache-2.0

package load

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"time"
)

// receipt holds the members of a receipt that the generator reads.
type receipt struct {
	ID       string    `json:"id"`
	Index    int       `json:"index"`
	Status   string    `json:"status"`
	Reason   string    `json:"reason"`
	Attempts []Attempt `json:"attempts"`
}

// readReceipts sends the request and records each receipt as it arrives.
func (r *run) readReceipts(request *http.Request) error {
	transport := http.DefaultTransport.(*http.Transport).Clone()
	transport.DisableCompression = true
	defer transport.CloseIdleConnections()
	response, err := transport.RoundTrip(request)
	if err != nil {
		return fmt.Errorf("load: %w", err)
	}
	defer func() { _ = response.Body.Close() }()
	if response.StatusCode != http.StatusOK {
		body, _ := io.ReadAll(io.LimitReader(response.Body, 4<<10))
		return fmt.Errorf("load: the gateway rejected the batch: %s %s", response.Status, strings.TrimSpace(string(body)))
	}
	lines := bufio.NewReaderSize(response.Body, 64<<10)
	for missing := r.Count; missing > 0; missing-- {
		line, err := lines.ReadSlice('\n')
		if err != nil {
			return fmt.Errorf("load: %d receipts are missing: %w", missing, errors.Join(err, request.Context().Err()))
		}
		if err := r.record(line, time.Since(r.results.Started)); err != nil {
			return err
		}
	}
	return nil
}

// record stores one receipt that arrived at now, counted from the start.
func (r *run) record(line []byte, now time.Duration) error {
	var got receipt
	if err := json.Unmarshal(line, &got); err != nil {
		return fmt.Errorf("load: invalid receipt: %w", err)
	}
	if got.Index < 0 || got.Index >= r.Count {
		return fmt.Errorf("load: receipt index %d is out of range for %d notifications", got.Index, r.Count)
	}
	s := &r.results.Samples[got.Index]
	if s.Status != "" {
		return fmt.Errorf("load: notification %d has two receipts", got.Index)
	}
	s.Due = time.Duration(r.due[got.Index].Load())
	s.ID, s.Status, s.Reason, s.Latency = got.ID, r.intern(got.Status), r.intern(got.Reason), now-s.Due
	for _, a := range got.Attempts {
		s.Attempts = append(s.Attempts, Attempt{Endpoint: r.intern(a.Endpoint), Status: r.intern(a.Status)})
	}
	if r.slots != nil {
		<-r.slots
	}
	return nil
}

// intern returns a shared copy of word. Receipts are many, but their distinct words are few.
func (r *run) intern(word string) string {
	shared, ok := r.interned[word]
	if !ok {
		shared = strings.Clone(word)
		r.interned[shared] = shared
	}
	return shared
}

// markLost sets the status of notifications without a receipt to Lost.
func (r *run) markLost() {
	for i := range r.results.Samples {
		if s := &r.results.Samples[i]; s.Status == "" {
			s.Due, s.Latency, s.Status = time.Duration(r.due[i].Load()), Never, Lost
		}
	}
}
