// SPDX-License-Identifier: Apache-2.0

// Package apns mocks Apple's service: pushes, broadcasts and channel management. It makes the checks
// that Apple documents, and responds with APNs' reasons. Pushes follow "Sending notification requests
// to APNs" and "Handling notification responses from APNs" (read 2026-11).
package apns

import (
	"cmp"
	"crypto/x509"
	"strings"
	"time"

	"github.com/sluice-push/sluice/mockprovider/h2"
	"github.com/sluice-push/sluice/mockprovider/script"
)

// Service is the state that all connections share.
type Service struct {
	credentials []Credential
	now         func() time.Time
	updates     *tokenUpdates
	channels    *channels
	started     time.Time
}

// New returns a service that accepts the credentials, which must be complete. now is the clock of the
// service. tokenUpdateEvery is how long a provider token must be used before another one of the same
// key is accepted; 0 for no limit.
func New(credentials []Credential, tokenUpdateEvery time.Duration, now func() time.Time) *Service {
	return &Service{
		credentials: credentials, now: now, updates: newTokenUpdates(tokenUpdateEvery), channels: newChannels(), started: time.Now(),
	}
}

// Conn is one connection for pushes and broadcasts. It is not safe for concurrent use.
type Conn struct {
	*Service
	cert *x509.Certificate // verified client certificate, or nil

	// Set by the first valid provider token.
	key      *Credential
	verified string // value of the authorization field that was verified last
	issued   time.Time
}

var _ script.Service = (*Conn)(nil)

// Conn returns a new connection of a client. cert is its verified certificate, nil for none.
func (s *Service) Conn(cert *x509.Certificate) *Conn { return &Conn{Service: s, cert: cert} }

// rejection is a status with APNs' reason. The zero value means that there is none.
type rejection struct {
	status int
	reason string
}

const devicePath = "/3/device/"

// Find sets r.Token to the device token, in lower case, or, for a broadcast, to the channel ID.
func (c *Conn) Find(r *h2.Request) {
	token, _ := strings.CutPrefix(r.Path, devicePath)
	if len(token) == len(r.Path) {
		token = ""
	}
	r.Token = strings.ToLower(token)
	if isBroadcast(r) {
		r.Token, r.Multicast = r.Get("apns-channel-id"), true
	}
}

// Respond responds to a push or a broadcast.
func (c *Conn) Respond(r *h2.Request) h2.Response {
	c.Find(r)
	if isBroadcast(r) {
		return c.respondBroadcast(r)
	}
	if rejected := c.checkPush(r); rejected.status != 0 {
		return c.reject(r, rejected, 0)
	}
	return accept(r)
}

// RespondFault responds as the fault specifies, in the format of the request's API.
func (c *Conn) RespondFault(r *h2.Request, f *script.Fault) h2.Response {
	if isBroadcast(r) {
		return broadcastFault(r, f)
	}
	if f.Status == 200 {
		return accept(r)
	}
	resp := c.reject(r, rejection{f.Status, cmp.Or(f.Reason, commonReasons[f.Status])}, f.Timestamp)
	resp.AddRetryAfter(f.RetryAfter)
	return resp
}

// commonReasons holds the most common reason for each status.
var commonReasons = map[int]string{
	400: "BadDeviceToken", 403: "InvalidProviderToken", 404: "BadPath", 405: "MethodNotAllowed", 410: "Unregistered",
	413: "PayloadTooLarge", 429: "TooManyRequests", 500: "InternalServerError", 503: "ServiceUnavailable",
}

// isSandbox reports whether the client calls Apple's sandbox, by the host name of the request.
func isSandbox(r *h2.Request) bool {
	return strings.Contains(r.Authority, ".sandbox.") || strings.HasPrefix(r.Authority, "api.development.")
}
