// SPDX-License-Identifier: Apache-2.0

package scorecard

import (
	"bytes"
	"encoding/json"
	"fmt"
	"net/http"
	"strings"

	"github.com/sluice-push/sluice/mockprovider"
)

// Indexes of the invalid items in a batch of 500.
const (
	batchSize       = 500
	malformed, huge = 100, 200
	unregistered    = 300
)

// mixedBatch is S20. A batch of 500 notifications has one malformed item, one huge item and one
// expired token. It is sent once as lines and once as an array. The row checks that the index in
// each receipt is the index of its item: the ledger shows the device of each notification.
func mixedBatch(s *scenario) {
	m := s.startMock(mockprovider.Config{Endpoints: poolSize})
	g := s.startAPNsGateway(m, "")
	for _, contentType := range []string{"application/x-ndjson", "application/json"} {
		m.Ledger().Clear()
		s.checkBatch(m, contentType, s.sendBatch(g, contentType, s.batchBody(contentType)))
	}
}

// batchToken returns the device token of item i.
func batchToken(i int) string {
	if i == unregistered {
		return "dead0000" + apnsNotification(i).Token[8:]
	}
	return apnsNotification(i).Token
}

// batchBody returns the body of the batch. Invalid JSON would end an array, so in an array the
// malformed item has the wrong type instead.
func (s *scenario) batchBody(contentType string) []byte {
	var items []string
	for i := range batchSize {
		n := apnsNotification(i)
		n.Token = batchToken(i)
		if i == huge {
			n.Data = oneMiBData()
		}
		text := encode(n)
		if i == malformed {
			text = map[string][]byte{"application/x-ndjson": text[:len(text)/2], "application/json": []byte(`"a text"`)}[contentType]
		}
		items = append(items, string(text))
	}
	if contentType == "application/json" {
		return []byte("[" + strings.Join(items, ",\n") + "]")
	}
	return []byte(strings.Join(items, "\n") + "\n")
}

// oneMiBData returns 1 MiB of data in strings of 1 KiB. In an array, a single string longer than
// limits.batch_item ends the batch, as its last receipt says. This does not apply to lines.
func oneMiBData() map[string]string {
	data := map[string]string{}
	for i := range 1024 {
		data[fmt.Sprint(i)] = strings.Repeat("x", 1024)
	}
	return data
}

// sendBatch makes the call and returns its receipts.
func (s *scenario) sendBatch(g *gateway, contentType string, body []byte) (receipts []receipt) {
	resp, err := s.do(s.request(http.MethodPost, g.baseURL()+notificationsPath(shopApp)+"/batch", body, "Content-Type", contentType))
	s.noError(err)
	if resp.code != http.StatusOK {
		s.Fatalf("the response to the batch is %d", resp.code)
	}
	for decoder := json.NewDecoder(bytes.NewReader(resp.body)); decoder.More(); {
		var receipt receipt
		s.noError(decoder.Decode(&receipt))
		receipts = append(receipts, receipt)
	}
	return receipts
}

func (s *scenario) checkBatch(m *mockprovider.Mock, contentType string, receipts []receipt) {
	sentTo := map[string]string{}
	for _, e := range m.Ledger().Entries(mockprovider.Query{Service: mockprovider.APNs}) {
		sentTo[strings.ToLower(e.ID)] = e.Token
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
		if token, sent := sentTo[r.ID]; sent && token != batchToken(*r.Index) {
			astray++
		}
		ends[*r.Index] = strings.TrimSpace(r.Status + " " + r.Reason)
	}
	_, form, _ := strings.Cut(contentType, "/")
	delivered := len(m.Ledger().AcceptedByID())
	s.expect(form+": delivered", fmt.Sprintf("%d (== %d)", delivered, batchSize-3), delivered == batchSize-3 && accepted == delivered)
	s.expect("receipts", fmt.Sprintf("%d (== %d)", len(receipts), batchSize), len(receipts) == batchSize)
	s.expectZero("receipts of another item", astray)
	s.expect("malformed", ends[malformed], strings.HasPrefix(ends[malformed], "refused Inv"))
	s.expect("huge", ends[huge], ends[huge] == "refused BodyTooLarge" || ends[huge] == "refused PayloadTooLarge")
	s.expect("expired token", ends[unregistered], ends[unregistered] == "unregistered Unregistered")
}
