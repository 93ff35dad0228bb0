// SPDX-License-Identifier: Apache-2.0

package api_test

import (
	"encoding/json"
	"strings"
	"testing"
	"unicode/utf8"
)

// FuzzSingle holds any body to four promises: the answer is a receipt or a problem of the caller's, it is never
// a fault of ours, it does not repeat what was sent, and it is the same verdict alone and in a batch.
func FuzzSingle(f *testing.F) {
	f.Add(validBody)
	f.Add(typical)
	for _, c := range refusals {
		if len(c.body) < 4<<10 {
			f.Add(c.body)
		}
	}
	f.Fuzz(func(t *testing.T, body string) {
		d := newTestAPI(t)
		w := d.request("POST", singlePath, body)
		if w.Code >= 500 && w.Code != 501 {
			t.Fatalf("%d %s", w.Code, w.Body)
		}
		answer := w.Body.String()
		if !json.Valid([]byte(answer)) || !utf8.ValidString(answer) {
			t.Fatalf("no JSON: %q", answer)
		}
		if strings.Contains(answer, canary) {
			t.Fatalf("it repeats what was sent: %s", answer)
		}
		if strings.ContainsAny(body, "\n") || strings.TrimSpace(body) == "" || strings.Contains(body, "idempotency_key") {
			return
		}
		got := receipts(t, d.request("POST", batch, body, ndjson).Body)
		if len(got) != 1 || (got[0].Status == "accepted") != (w.Code == 200) {
			t.Fatalf("alone %d, in a batch %+v", w.Code, got)
		}
	})
}

// FuzzBatch holds any array to three: no fault, no repetition, and receipts without gaps.
func FuzzBatch(f *testing.F) {
	f.Add("[" + validBody + "," + validBody + "]")
	f.Add(`[{},[],"` + canary + `",1,null,` + validBody + `]`)
	f.Add("[" + validBody + "," + validBody + `,{"`)
	f.Fuzz(func(t *testing.T, body string) {
		d := newTestAPI(t)
		w := d.request("POST", batch, body)
		if w.Code != 200 && w.Code != 400 && w.Code != 413 || strings.Contains(w.Body.String(), canary) {
			t.Fatalf("%d %s", w.Code, w.Body)
		}
		if w.Code != 200 {
			return
		}
		got := receipts(t, w.Body)
		for i := range len(got) {
			if _, ok := got[i]; !ok {
				t.Fatalf("no receipt for %d of %d", i, len(got))
			}
		}
	})
}
