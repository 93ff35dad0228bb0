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

// receipt is what is read of a receipt's JSON.
type receipt struct {
	ID       string    `json:"id"`
	Index    int       `json:"index"`
	Status   string    `json:"status"`
	Reason   string    `json:"reason"`
	Attempts []Attempt `json:"attempts"`
}

// readReceipts makes the request and books every receipt at the moment that it comes.
func (r *run) readReceipts(request *http.Request) error {
	transport := http.DefaultTransport.(*http.Transport).Clone()
	transport.DisableCompression = true
	defer transport.CloseIdleConnections()
	answer, err := transport.RoundTrip(request)
	if err != nil {
		return fmt.Errorf("loadtest: %w", err)
	}
	defer func() { _ = answer.Body.Close() }()
	if answer.StatusCode != http.StatusOK {
		text, _ := io.ReadAll(io.LimitReader(answer.Body, 4<<10))
		return fmt.Errorf("loadtest: the gateway refused the batch: %s %s", answer.Status, strings.TrimSpace(string(text)))
	}
	lines := bufio.NewReaderSize(answer.Body, 64<<10)
	for missing := r.Count; missing > 0; missing-- {
		line, err := lines.ReadSlice('\n')
		if err != nil {
			return fmt.Errorf("loadtest: %d receipts are missing: %w", missing, errors.Join(err, request.Context().Err()))
		}
		if err := r.record(line, time.Since(r.results.Started)); err != nil {
			return err
		}
	}
	return nil
}

// record enters one receipt.
func (r *run) record(line []byte, now time.Duration) error {
	var got receipt
	if err := json.Unmarshal(line, &got); err != nil {
		return fmt.Errorf("loadtest: a line is no receipt: %w", err)
	}
	if got.Index < 0 || got.Index >= r.Count {
		return fmt.Errorf("loadtest: a receipt has the index %d of %d notifications", got.Index, r.Count)
	}
	s := &r.results.Samples[got.Index]
	if s.Status != "" {
		return fmt.Errorf("loadtest: the notification %d has two receipts", got.Index)
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

// intern keeps one copy of each word, for there are few words and many receipts.
func (r *run) intern(word string) string {
	known, ok := r.interned[word]
	if !ok {
		known = strings.Clone(word)
		r.interned[known] = known
	}
	return known
}

// markLost marks what got no receipt.
func (r *run) markLost() {
	for i := range r.results.Samples {
		if s := &r.results.Samples[i]; s.Status == "" {
			s.Due, s.Latency, s.Status = time.Duration(r.due[i].Load()), Never, Lost
		}
	}
}
