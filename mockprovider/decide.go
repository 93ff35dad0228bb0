// SPDX-License-Identifier: Apache-2.0

package mockprovider

import (
	"context"
	"time"

	"golang.org/x/net/http2"

	"github.com/sluice-push/sluice/mockprovider/ledger"
)

// decision is what becomes of one request: the service's answer, and what the script makes of it.
type decision struct {
	answer         answer
	processed      bool          // false: the service never saw the request
	delay          time.Duration // before the answer
	silent         bool          // there will be no answer
	rst            bool          // RST_STREAM with code instead of an answer
	code           http2.ErrCode
	goAway         *GoAway // after this request
	reset          bool    // instead of an answer
	fault          string  // for the ledger
	processedShare float64 // of all that is in flight, when reset
}

// decide lets the service judge r, unless the script keeps it from doing so.
func (c *conn) decide(r *request) decision {
	m, e := c.ep.mock, c.ep
	c.heard()
	p := m.program.Load()
	if len(p.rules) == 0 {
		return decision{answer: e.does.judge(&c.peer, r), processed: true, delay: m.delay(e.service, nil)}
	}
	e.does.find(r)
	met := p.request(c, r)
	if met == nil {
		return decision{answer: e.does.judge(&c.peer, r), processed: true, delay: m.delay(e.service, nil)}
	}
	return c.meet(met, r)
}

// meet applies a fault to a request.
func (c *conn) meet(f *rule, r *request) decision {
	d := decision{delay: c.ep.mock.delay(c.ep.service, f)}
	switch {
	case f.Stall != nil:
		d.silent, d.fault = true, "stall"
	case f.RST != "":
		d.rst, d.code, d.fault = true, f.rst, "rst "+f.RST
	case f.Reset != nil:
		d.reset, d.fault, d.processedShare = true, "reset", f.Reset.Processed
	}
	if d.fault != "" && d.processedShare == 0 {
		return d
	}
	d.processed = true
	d.answer, d.fault = c.meetAnswer(f, r)
	d.delay += c.line(f.ServiceRate)
	if f.DropResponse {
		d.silent, d.fault = true, "drop_response"
	}
	if f.GoAway != nil && f.GoAway.Every > 0 {
		d.goAway, d.fault = f.GoAway, "goaway"
	}
	if d.fault == "" {
		d.fault = "delay"
	}
	return d
}

// meetAnswer is what a fault answers, and its name; the service's own answer if it leaves that alone.
func (c *conn) meetAnswer(f *rule, r *request) (a answer, fault string) {
	switch {
	case f.Quota != nil:
		return f.overQuota(c.ep, r), "quota"
	case f.Status != 0:
		return c.ep.does.scripted(r, &f.Fault), "status"
	case f.ServiceRate > 0:
		return c.ep.does.judge(&c.peer, r), "service_rate"
	}
	return c.ep.does.judge(&c.peer, r), ""
}

// heard notes for how long the connection had no request.
func (c *conn) heard() {
	now := time.Now()
	c.idled, c.heardAt = max(c.idled, now.Sub(c.heardAt)), now
}

// line is how long a request waits for those before it, if the connection works off rate requests a second.
func (c *conn) line(rate float64) time.Duration {
	if rate == 0 {
		return 0
	}
	begin := later(c.busyUntil, c.heardAt)
	c.busyUntil = begin.Add(time.Duration(float64(time.Second) / rate))
	return c.busyUntil.Sub(c.heardAt)
}

// note enters a request into the ledger.
func (c *conn) note(stream uint32, r *request, d decision, answered bool) {
	rec := ledger.Record{
		Endpoint: c.ep.entry, Conn: c.peer.number, Stream: stream, Path: r.path, Token: r.token, ID: r.id,
		Topic: r.get("apns-topic"), PushType: r.get("apns-push-type"), Answered: answered, Fault: d.fault,
	}
	if d.processed {
		rec.Status, rec.Reason, rec.Accepted = uint16(d.answer.status), d.answer.reason, d.answer.accepted
	}
	if c.ep.apple() && rec.ID == "" {
		rec.ID = or(r.get("apns-id"), r.get("apns-request-id"))
	}
	rec.Content = contentOf(r, c.ep.mock.cfg.KeepContent)
	c.ep.mock.ledger.Add(rec)
}

// contentOf copies the content of a request without its credentials. If content is not kept, it
// copies only the reason why a Web Push message could not be decrypted.
func contentOf(r *request, keep bool) *ledger.Content {
	if !keep && (r.opened == nil || r.opened.fault == "") {
		return nil
	}
	c := &ledger.Content{}
	if r.opened != nil {
		c.Plaintext, c.Undecryptable = r.opened.plaintext, r.opened.fault
	}
	if !keep {
		return c
	}
	c.Body = string(r.body)
	for _, f := range r.header {
		if f.Name != "authorization" && f.Name != "cookie" {
			c.Header = append(c.Header, [2]string{f.Name, f.Value})
		}
	}
	return c
}

// wait sleeps for d, and returns false if ctx ended first.
func wait(ctx context.Context, d time.Duration) bool {
	if d <= 0 {
		return ctx.Err() == nil
	}
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-ctx.Done():
		return false
	case <-timer.C:
		return true
	}
}
