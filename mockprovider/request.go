// SPDX-License-Identifier: Apache-2.0

package mockprovider

import (
	"crypto/x509"
	"slices"
	"strconv"
	"strings"
	"time"

	"golang.org/x/net/http2/hpack"
)

// request is one whole request, whatever protocol carried it.
type request struct {
	method, path, authority string
	header                  []hpack.HeaderField
	body                    []byte
	tooLong                 bool          // the body went on beyond maxBody and was cut
	token                   string        // what Fault.Token and the ledger call the device token, once the service has found it
	toMany                  bool          // it goes to a topic, a condition or a channel
	collapsible             bool          // FCM: it has a collapse_key
	wait                    time.Duration // until the quota that it went beyond has room
	opened                  *opened       // Web Push: what the browser made of the body, if it is known
	id                      string        // the caller's or the generated apns-id, or FCM's message name
}

// maxBody is the longest body kept: more than any service takes.
const maxBody = 64 << 10

// get returns the first field of that name, or "".
func (r *request) get(name string) string {
	for i := range r.header {
		if r.header[i].Name == name {
			return r.header[i].Value
		}
	}
	return ""
}

// has tells a field that is absent from an empty one.
func (r *request) has(name string) bool {
	return slices.ContainsFunc(r.header, func(f hpack.HeaderField) bool { return f.Name == name })
}

// sandbox says whether the client speaks to Apple's sandbox, by the name it calls.
func (r *request) sandbox() bool {
	return strings.Contains(r.authority, ".sandbox.") || strings.HasPrefix(r.authority, "api.development.")
}

// peer is what a service knows about the connection that a request came by.
type peer struct {
	number uint64            // counts the connections of an endpoint, from 1
	cert   *x509.Certificate // the client's, verified; nil without
	bound  *Credential       // APNs: the key that the connection belongs to since its first good token
	known  string            // APNs: the authorization that was verified last
	issued time.Time         // APNs: when that was issued
}

// answer is what a service replies, before faults have their say.
type answer struct {
	status   int
	reason   string // the service's own word, for the ledger
	header   []hpack.HeaderField
	body     []byte
	accepted bool
}

// service judges requests of one kind.
type service interface {
	// find sets r.token, if there is one to find, for faults can name it.
	find(r *request)
	// judge answers r as the real service would.
	judge(p *peer, r *request) answer
	// scripted is the answer in the service's own shape for the status and reason of a fault.
	scripted(r *request, f *Fault) answer
}

func field(name, value string) hpack.HeaderField { return hpack.HeaderField{Name: name, Value: value} }

// passing is a field whose value will not come again and is kept out of the compression table.
func passing(name, value string) hpack.HeaderField {
	return hpack.HeaderField{Name: name, Value: value, Sensitive: true}
}

// retryAfter adds the header that a fault asks for.
func (a *answer) retryAfter(d time.Duration) {
	if d > 0 {
		a.header = append(a.header, field("retry-after", strconv.Itoa(int(d.Round(time.Second)/time.Second))))
	}
}

// bearer returns the credential of an authorization value, whose scheme is case-insensitive.
func bearer(authorization, scheme string) (string, bool) {
	if len(authorization) <= len(scheme)+1 || !strings.EqualFold(authorization[:len(scheme)], scheme) {
		return "", false
	}
	if authorization[len(scheme)] != ' ' {
		return "", false
	}
	return strings.TrimSpace(authorization[len(scheme)+1:]), true
}
