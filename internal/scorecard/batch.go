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
func mixedBatch(s *scenario) {
	m := s.startMock(mockprovider.Config{Endpoints: poolSize})
	g := s.startAPNsGateway(m, "")
	for _, media := range []string{"application/x-ndjson", "application/json"} {
		m.Ledger().Clear()
		s.checkBatch(m, media, s.sendBatch(g, media, s.batchBody(media)))
	}
}

// batchReceipt is one receipt of a batch.
type batchReceipt struct {
	ID     string
	Index  *int
	Status string
	Reason string
}

// batchToken is whom the batch's item is for.
func batchToken(i int) string {
	if i == unregistered {
		return "dead0000" + apnsNotification(i).Token[8:]
	}
	return apnsNotification(i).Token
}

// batchBody writes the batch. What is no JSON at all would end an array, so there the malformed item is one of the wrong
// type.
func (s *scenario) batchBody(media string) []byte {
	var items []string
	for i := range batchSize {
		n := apnsNotification(i)
		n.Token = batchToken(i)
		if i == huge {
			n.Data = oneMiBData()
		}
		text, err := json.Marshal(n)
		s.noError(err)
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

// oneMiBData is as much data, in texts of a kibibyte each: a single text that is longer than an item may be ends an array, and
// its last receipt says so. Lines have no such weakness.
func oneMiBData() map[string]string {
	data := map[string]string{}
	for i := range 1024 {
		data[fmt.Sprint(i)] = strings.Repeat("x", 1024)
	}
	return data
}

// sendBatch makes the call, and returns its receipts.
func (s *scenario) sendBatch(g *gateway, media string, body []byte) (receipts []batchReceipt) {
	answer, err := g.postBody("/v1/apps/"+shopApp+"/notifications/batch", media, body)
	s.noError(err)
	defer func() { _ = answer.Body.Close() }()
	if answer.StatusCode != http.StatusOK {
		s.Fatalf("the batch was answered %s", answer.Status)
	}
	for decoder := json.NewDecoder(answer.Body); decoder.More(); {
		var one batchReceipt
		s.noError(decoder.Decode(&one))
		receipts = append(receipts, one)
	}
	return receipts
}

func (s *scenario) checkBatch(m *mockprovider.Mock, media string, receipts []batchReceipt) {
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
		if token, sent := went[r.ID]; sent && token != batchToken(*r.Index) {
			astray++
		}
		ends[*r.Index] = strings.TrimSpace(r.Status + " " + r.Reason)
	}
	_, form, _ := strings.Cut(media, "/")
	delivered := len(m.Ledger().AcceptedByID())
	s.expect(form+": delivered", fmt.Sprintf("%d (== %d)", delivered, batchSize-3), delivered == batchSize-3 && accepted == delivered)
	s.expect("receipts", fmt.Sprintf("%d (== %d)", len(receipts), batchSize), len(receipts) == batchSize)
	s.expectZero("receipts of another item", astray)
	s.expect("malformed", ends[malformed], strings.HasPrefix(ends[malformed], "refused Inv"))
	s.expect("huge", ends[huge], ends[huge] == "refused BodyTooLarge" || ends[huge] == "refused PayloadTooLarge")
	s.expect("expired token", ends[unregistered], ends[unregistered] == "unregistered Unregistered")
}
