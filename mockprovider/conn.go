// SPDX-License-Identifier: Apache-2.0

package mockprovider

import (
	"cmp"
	"crypto/x509"
	"net"
	"net/http"
	"sync/atomic"
	"time"

	"github.com/sluice-push/sluice/mockprovider/h2"
	"github.com/sluice-push/sluice/mockprovider/ledger"
	"github.com/sluice-push/sluice/mockprovider/script"
)

// conn is one connection of a client. It connects the parts: h2 reads the requests, the script
// decides, the service responds, and the ledger records.
type conn struct {
	endpoint *endpoint
	number   uint64 // counts the connections of the endpoint from 1
	wire     *h2.Conn
	script   *script.Conn
	service  script.Service // set after the handshake
}

var _ h2.Handler = (*conn)(nil)

func newConn(e *endpoint, nc *net.TCPConn, number uint64) *conn {
	c := &conn{endpoint: e, number: number}
	c.wire = h2.NewConn(nc, e.http2, c)
	c.script = script.NewConn(&e.script, number, c.wire)
	return c
}

// run serves the connection until it ends.
func (c *conn) run() {
	defer c.wire.Close()
	m := c.endpoint.mock
	m.applyTo(c)
	acceptDelay, tlsDelay := m.injector.HandshakeDelays(c.script)
	nc, err := c.wire.Handshake(c.endpoint.tls, acceptDelay, tlsDelay)
	if err != nil {
		m.cfg.Logger.Debug("handshake failed", "service", c.endpoint.script.Service, "endpoint", c.endpoint.script.Addr, "err", err)
		return
	}
	state := nc.ConnectionState()
	var cert *x509.Certificate
	if len(state.PeerCertificates) > 0 {
		cert = state.PeerCertificates[0]
	}
	c.service = c.endpoint.serve(cert)
	if c.endpoint.http1 != nil && state.NegotiatedProtocol != "h2" {
		c.endpoint.http1.serve(c, nc)
		return
	}
	c.wire.Serve()
}

// Decide implements h2.Handler.
func (c *conn) Decide(r *h2.Request) h2.Decision {
	m, service := c.endpoint.mock, c.endpoint.script.Service
	d := m.injector.Decide(c.script, c.service, r)
	if d.Fault != "body" && service != APNs && service != APNsManage { // APNs sends no Date
		d.Response.Header = append(d.Response.Header, h2.Field("date", c.endpoint.dates.format(m.injector.Now(service))))
	}
	return d
}

// dates formats the Date of responses, once a second.
type dates struct{ last atomic.Pointer[date] }

type date struct {
	unix int64
	text string
}

func (d *dates) format(now time.Time) string {
	last := d.last.Load()
	if last == nil || last.unix != now.Unix() {
		last = &date{now.Unix(), now.UTC().Format(http.TimeFormat)}
		d.last.Store(last)
	}
	return last.text
}

// Record implements h2.Handler. For an unanswered request it first lets the service find the token.
func (c *conn) Record(stream uint32, r *h2.Request, d *h2.Decision, answered bool) {
	if !answered && r.Token == "" {
		c.service.Find(r)
	}
	c.record(stream, r, d, answered)
}

// record adds a request to the ledger.
func (c *conn) record(stream uint32, r *h2.Request, d *h2.Decision, answered bool) {
	m := c.endpoint.mock
	rec := ledger.Record{
		Endpoint: &c.endpoint.ledger, Conn: c.number, Stream: stream, Path: r.Path, Token: r.Token, ID: r.ID,
		Topic: r.Get("apns-topic"), PushType: r.Get("apns-push-type"), Answered: answered, Fault: d.Fault,
		Content: contentOf(r, m.cfg.KeepContent),
	}
	if d.Processed {
		rec.Status, rec.Reason, rec.Accepted = uint16(d.Response.Status), d.Response.Reason, d.Response.Accepted
	}
	if service := c.endpoint.script.Service; service == APNs || service == APNsManage {
		rec.ID = cmp.Or(rec.ID, r.Get("apns-id"), r.Get("apns-request-id"))
	}
	m.ledger.Add(rec)
}

// Silent implements h2.Handler.
func (c *conn) Silent() bool { return c.endpoint.mock.injector.Silent(c.script) }

// StreamsInFlight implements h2.Handler.
func (c *conn) StreamsInFlight(n int) { c.endpoint.mock.ledger.StreamsInFlight(&c.endpoint.ledger, n) }

// StreamRefused implements h2.Handler.
func (c *conn) StreamRefused(violation bool) {
	c.endpoint.mock.ledger.StreamRefused(&c.endpoint.ledger, violation)
}

// contentOf copies the content of a request without its credentials. If content is not kept, it
// copies only the reason why a Web Push message could not be decrypted.
func contentOf(r *h2.Request, keep bool) *ledger.Content {
	if !keep {
		if r.Undecryptable == "" {
			return nil
		}
		return &ledger.Content{Undecryptable: r.Undecryptable}
	}
	c := &ledger.Content{Body: string(r.Body), Plaintext: r.Plaintext, Undecryptable: r.Undecryptable}
	for _, f := range r.Header {
		if f.Name != "authorization" && f.Name != "cookie" {
			c.Header = append(c.Header, [2]string{f.Name, f.Value})
		}
	}
	return c
}
