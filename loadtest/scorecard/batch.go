// SPDX-License-Identifier: Apache-2.0

package main

import (
	"encoding/json"
	"fmt"
	"net/http"
	"strings"

	"github.com/sluice-push/sluice/mockprovider"
)

// The bad items of a batch of 500, by their place in it.
const (
	batchSize       = 500
	malformed, huge = 100, 200
	unregistered    = 300
)

// mixedBatch is S20: of 500 notifications in one call one is malformed, one is huge, and one is for a dead token; once as
// lines and once as an array. A receipt's index is its item's place: the service knows which device each receipt's
// notification went to.
func mixedBatch(s *stage) {
	m := s.mock(mockprovider.Config{Endpoints: size})
	g := s.gateway(m, "")
	for _, media := range []string{"application/x-ndjson", "application/json"} {
		m.Ledger().Clear()
		s.judgeBatch(m, media, s.send(g, media, s.batchBody(media)))
	}
}

// line is one receipt of a batch.
type line struct {
	ID     string
	Index  *int
	Status string
	Reason string
}

// device is whom the batch's item is for.
func device(i int) string {
	if i == unregistered {
		return "dead0000" + toDevice(i).Token[8:]
	}
	return toDevice(i).Token
}

// batchBody writes the batch. What is no JSON at all would end an array, so there the malformed item is one of the wrong
// type.
func (s *stage) batchBody(media string) []byte {
	var items []string
	for i := range batchSize {
		n := toDevice(i)
		n.Token = device(i)
		if i == huge {
			n.Data = mebibyte()
		}
		text, err := json.Marshal(n)
		s.need(err)
		if i == malformed {
			text = map[string][]byte{"application/x-ndjson": text[:len(text)/2], "application/json": []byte(`"a text"`)}[media]
		}
		items = append(items, string(text))
	}
	if media == "application/json" {
		return []byte("[" + strings.Join(items, ",\n") + "]")
	}
	return []byte(strings.Join(items, "\n") + "\n")
}

// mebibyte is as much data, in texts of a kibibyte each: a single text that is longer than an item may be ends an array, and
// its last receipt says so. Lines have no such weakness.
func mebibyte() map[string]string {
	data := map[string]string{}
	for i := range 1024 {
		data[fmt.Sprint(i)] = strings.Repeat("x", 1024)
	}
	return data
}

// send makes the call, and returns its receipts.
func (s *stage) send(g *gateway, media string, body []byte) (receipts []line) {
	answer, err := g.call("/v1/apps/"+shop+"/notifications/batch", media, body)
	s.need(err)
	defer func() { _ = answer.Body.Close() }()
	if answer.StatusCode != http.StatusOK {
		s.Fatalf("the batch was answered %s", answer.Status)
	}
	for decoder := json.NewDecoder(answer.Body); decoder.More(); {
		var one line
		s.need(decoder.Decode(&one))
		receipts = append(receipts, one)
	}
	return receipts
}

func (s *stage) judgeBatch(m *mockprovider.Mock, media string, receipts []line) {
	went := map[string]string{}
	for _, e := range m.Ledger().Entries(mockprovider.Query{Service: mockprovider.APNs}) {
		went[strings.ToLower(e.ID)] = e.Token
	}
	accepted, astray, ends := 0, 0, map[int]string{}
	for _, r := range receipts {
		switch {
		case r.Index == nil || *r.Index < 0 || *r.Index >= batchSize || ends[*r.Index] != "":
			astray++
			continue
		case r.Status == "accepted":
			accepted++
		}
		if token, sent := went[r.ID]; sent && token != device(*r.Index) {
			astray++
		}
		ends[*r.Index] = strings.TrimSpace(r.Status + " " + r.Reason)
	}
	_, form, _ := strings.Cut(media, "/")
	delivered := len(m.Ledger().AcceptedByID())
	s.must(form+": delivered", fmt.Sprintf("%d (== %d)", delivered, batchSize-3), delivered == batchSize-3 && accepted == delivered)
	s.must("receipts", fmt.Sprintf("%d (== %d)", len(receipts), batchSize), len(receipts) == batchSize)
	s.none("of another item", astray)
	s.must("malformed", ends[malformed], strings.HasPrefix(ends[malformed], "refused Inv"))
	s.must("huge", ends[huge], ends[huge] == "refused BodyTooLarge" || ends[huge] == "refused PayloadTooLarge")
	s.must("dead", ends[unregistered], ends[unregistered] == "unregistered Unregistered")
}
