// SPDX-License-Identifier: Apache-2.0

package api_test

import (
	"encoding/json"
	"strings"
	"testing"
	"unicode/utf8"
)

// FuzzSingle checks for any body that the response is a receipt or a client error, is not an
// internal error, does not repeat data of the request, and has the same verdict as in a batch.
func FuzzSingle(f *testing.F) {
	f.Add(validBody)
	f.Add(typical)
	f.Add(`{"platform":"apns","tokens":["00","11","","00"],"title":"Hi"}`)
	for _, c := range refusals {
		if len(c.body) < 4<<10 {
			f.Add(c.body)
		}
	}
	f.Fuzz(func(t *testing.T, body string) {
		ts := newTestAPI(t)
		w := ts.request("POST", singlePath, body)
		if w.Code >= 500 && w.Code != 501 {
			t.Fatalf("%d %s", w.Code, w.Body)
		}
		res := w.Body.String()
		if !json.Valid([]byte(res)) || !utf8.ValidString(res) {
			t.Fatalf("not JSON: %q", res)
		}
		if strings.Contains(res, canary) {
			t.Fatalf("the response repeats the request: %s", res)
		}
		if strings.ContainsAny(body, "\n") || strings.TrimSpace(body) == "" || strings.Contains(body, "idempotency_key") || strings.HasPrefix(res, `{"receipts":`) {
			return
		}
		got := receipts(t, ts.request("POST", batchPath, body, ndjson).Body)
		if len(got) != 1 || (got[0].Status == "accepted") != (w.Code == 200) {
			t.Fatalf("single %d, in a batch %+v", w.Code, got)
		}
	})
}

// FuzzBatch checks for any array that there is no internal error, that the response does not repeat
// data of the request, and that no receipt is missing.
func FuzzBatch(f *testing.F) {
	f.Add("[" + validBody + "," + validBody + "]")
	f.Add(`[{"platform":"apns","tokens":["00","11","","00"],"title":"Hi"},` + validBody + "]")
	f.Add(`[{},[],"` + canary + `",1,null,` + validBody + `]`)
	f.Add("[" + validBody + "," + validBody + `,{"`)
	f.Fuzz(func(t *testing.T, body string) {
		ts := newTestAPI(t)
		w := ts.request("POST", batchPath, body)
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
