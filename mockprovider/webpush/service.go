// SPDX-License-Identifier: Apache-2.0

// Package webpush mocks the Web Push services of Google, Mozilla, Apple and Windows: RFC 8030 with
// VAPID (RFC 8292) and aes128gcm (RFC 8291). It also mocks the browsers behind subscriptions, which
// decrypt the messages.
package webpush

import (
	"slices"
	"strconv"
	"strings"

	"github.com/google/uuid"

	"github.com/sluice-push/sluice/mockprovider/h2"
	"github.com/sluice-push/sluice/mockprovider/script"
)

// Flavour selects the Web Push service that is mocked. Paths, checks and error responses differ.
type Flavour string

// The flavours.
const (
	Google  Flavour = "google"
	Mozilla Flavour = "mozilla"
	Apple   Flavour = "apple"
	Windows Flavour = "windows" // WNS
)

// Service is all these services. The host name of a request selects the flavour or, if it is not the
// name of a real service, the path does. Every path under /push/ is an active subscription whose
// messages cannot be decrypted; all others must have been made by Subscribe. It is safe for
// concurrent use.
type Service struct{ subscribers *subscribers }

var _ script.Service = (*Service)(nil)

// New returns a service without subscriptions.
func New() *Service { return &Service{newSubscribers()} }

// openPath is the path under which every path is an active subscription.
const openPath = "/push/"

// subscriptionPaths holds the path of new subscriptions.
var subscriptionPaths = map[Flavour]string{Google: "/fcm/send/", Mozilla: "/wpush/v2/", Apple: "/", Windows: windowsPath}

const windowsPath = "/w/?token="

// tokenPrefixes holds the prefix of new subscription tokens, like that of the real services.
var tokenPrefixes = map[Flavour]string{Google: "mock:APA91b", Mozilla: "gAAAAA", Apple: "Q", Windows: "BQYAAA"}

// flavourOf returns the flavour of the host name of a real service, or "".
func flavourOf(host string) Flavour {
	switch {
	case host == "fcm.googleapis.com":
		return Google
	case host == "updates.push.services.mozilla.com":
		return Mozilla
	case host == "web.push.apple.com":
		return Apple
	case strings.HasSuffix(host, ".notify.windows.com"):
		return Windows
	}
	return ""
}

// parseEndpoint returns the flavour of a subscription's endpoint and the token in it, which is empty
// if the path is not that of a subscription.
func parseEndpoint(authority, path string) (Flavour, string) {
	flavour := flavourOf(authority)
	for _, known := range []struct {
		flavour Flavour
		path    string
	}{
		{Mozilla, openPath}, {Google, "/fcm/send/"}, {Google, "/wp/"}, {Mozilla, "/wpush/v2/"}, {Mozilla, "/wpush/v1/"}, {Windows, windowsPath},
		{Apple, "/"},
	} {
		token, ok := strings.CutPrefix(path, known.path)
		if !ok {
			continue
		}
		if known.path == "/" && (strings.Contains(token, "/") || flavour == "" && !strings.HasPrefix(token, "Q")) {
			break
		}
		if flavour == "" {
			flavour = known.flavour
		}
		return flavour, token
	}
	if flavour == "" {
		flavour = Mozilla
	}
	return flavour, ""
}

// Find sets r.Token to the token of the subscription, and r.Sender to the service and the VAPID key.
func (*Service) Find(r *h2.Request) {
	var flavour Flavour
	flavour, r.Token = parseEndpoint(r.Authority, r.Path)
	if credential, ok := r.Credential("vapid"); ok {
		_, key := splitVAPID(credential)
		r.Sender = string(flavour) + " " + key
	}
}

// Respond responds to a push. If it accepts a push to a subscription of Subscribe, it decrypts the
// message for the ledger.
func (s *Service) Respond(r *h2.Request) h2.Response {
	var flavour Flavour
	flavour, r.Token = parseEndpoint(r.Authority, r.Path)
	to, known := s.subscribers.lookup(r.Token)
	if cause := checkPush(r, flavour, to, known); cause != "" {
		return reject(flavour, cause)
	}
	if known && len(r.Body) > 0 {
		to.decrypt(r)
	}
	ttl, _ := strconv.ParseUint(r.Get("ttl"), 10, 31)
	return accept(r, flavour, ttl)
}

// RespondFault responds as the fault specifies.
func (s *Service) RespondFault(r *h2.Request, f *script.Fault) h2.Response {
	flavour, _ := parseEndpoint(r.Authority, r.Path)
	if f.Status >= 200 && f.Status < 300 {
		return accept(r, flavour, 0)
	}
	resp := faultResponse(flavour, f)
	resp.Status = f.Status
	resp.AddRetryAfter(f.RetryAfter)
	return resp
}

func accept(r *h2.Request, flavour Flavour, ttl uint64) h2.Response {
	r.ID = uuid.NewString()
	resp := h2.Response{Status: 201, Accepted: true}
	resp.Header = append(resp.Header,
		h2.UniqueField("location", "https://"+r.Authority+"/message/"+r.ID), h2.Field("ttl", strconv.FormatUint(ttl, 10)))
	switch flavour {
	case Apple:
		resp.Header = append(resp.Header, h2.UniqueField("apns-id", r.ID))
	case Windows:
		resp.Header = append(resp.Header, windowsHeader("received", "")...)
	}
	return resp
}

// checkPush returns the first cause to reject a push, or "". The order of the real services' checks
// is not documented.
func checkPush(r *h2.Request, flavour Flavour, to subscriber, known bool) cause {
	switch {
	case r.Token == "":
		return badPath
	case r.Method != "POST":
		return badMethod
	case !known && !strings.HasPrefix(r.Path, openPath):
		return noSubscription
	case to.gone:
		return gone
	case !r.Has("ttl"):
		return noTTL
	case !isTTL(r.Get("ttl")):
		return badTTL
	case !isUrgency(r.Get("urgency")):
		return badUrgency
	case flavour == Windows && (r.Get("ttl") == "0") != (r.Get("x-wns-cache-policy") == "no-cache"):
		return ttlConflict
	case len(r.Get("topic")) > 32 || !isBase64URL(r.Get("topic")), flavour == Apple && len(r.Get("topic"))%4 == 1:
		return badTopic
	case len(r.Body) > 4096 || r.TooLong:
		return tooLarge
	}
	if cause := checkEncryption(r); cause != "" {
		return cause
	}
	return checkVAPID(r, flavour, to.serverKey)
}

// checkEncryption checks the encryption of the body as far as that is possible without a key.
func checkEncryption(r *h2.Request) cause {
	if len(r.Body) == 0 {
		return ""
	}
	if r.Get("content-encoding") != "aes128gcm" {
		return badEncoding
	}
	if _, err := parseEncrypted(r.Body); err != nil {
		return badEncoding
	}
	return ""
}

// isTTL reports whether s is a TTL in seconds (RFC 8030, section 5.2).
func isTTL(s string) bool {
	_, err := strconv.ParseUint(s, 10, 31)
	return err == nil
}

func isBase64URL(s string) bool {
	for i := range len(s) {
		c := s[i]
		if (c|0x20 < 'a' || c|0x20 > 'z') && (c < '0' || c > '9') && c != '-' && c != '_' {
			return false
		}
	}
	return true
}

func isUrgency(s string) bool {
	return slices.Contains([]string{"", "very-low", "low", "normal", "high"}, s)
}
