// SPDX-License-Identifier: Apache-2.0

package mockprovider

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"encoding/base64"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/google/uuid"
)

// webPush plays the push services of RFC 8030 with VAPID (RFC 8292) and aes128gcm (RFC 8291), in the flavours of Google,
// Mozilla and Apple. The name that the client calls decides the flavour, else the path. Every path under /push/ is a
// live subscription, whose messages nobody can decrypt; all others must have been made by Mock.Subscribe.
type webPush struct{ subscribers *subscribers }

var _ service = (*webPush)(nil)

const openPath = "/push/"

// subscriptionPaths are where each service keeps its subscriptions.
var subscriptionPaths = map[Flavour]string{Google: "/fcm/send/", Mozilla: "/wpush/v2/", Apple: "/"}

// tokenBeginnings make a subscription look like the real ones.
var tokenBeginnings = map[Flavour]string{Google: "mock:APA91b", Mozilla: "gAAAAA", Apple: "Q"}

// flavourOfName knows the real services by name.
var flavourOfName = map[string]Flavour{
	"fcm.googleapis.com": Google, "updates.push.services.mozilla.com": Mozilla, "web.push.apple.com": Apple,
}

// subscriptionOf says whose a path is, and the token in it; the token is empty where there is none.
func subscriptionOf(authority, path string) (Flavour, string) {
	flavour := flavourOfName[authority]
	for _, known := range []struct {
		flavour Flavour
		path    string
	}{{Mozilla, openPath}, {Google, "/fcm/send/"}, {Google, "/wp/"}, {Mozilla, "/wpush/v2/"}, {Mozilla, "/wpush/v1/"}, {Apple, "/"}} {
		token, ok := strings.CutPrefix(path, known.path)
		if !ok {
			continue
		}
		if known.path == "/" && (strings.Contains(token, "/") || flavour == "" && !strings.HasPrefix(token, "Q")) {
			break
		}
		return or(flavour, known.flavour), token
	}
	return or(flavour, Mozilla), ""
}

func (*webPush) find(r *request) { _, r.token = subscriptionOf(r.authority, r.path) }

func (w *webPush) judge(_ *peer, r *request) answer {
	var flavour Flavour
	flavour, r.token = subscriptionOf(r.authority, r.path)
	to, known := w.subscribers.lookUp(r.token)
	if fault := badPush(r, to, known); fault != "" {
		return webPushAnswers[flavour](fault)
	}
	if known && len(r.body) > 0 {
		r.opened = to.open(r.body)
	}
	ttl, _ := strconv.ParseUint(r.get("ttl"), 10, 31)
	return w.accept(r, flavour, ttl)
}

// badPush finds the first fault of r. The order of the real services' checks is not documented.
func badPush(r *request, to subscriber, known bool) webPushFault {
	switch {
	case r.token == "":
		return badPath
	case r.method != "POST":
		return badMethod
	case !known && !strings.HasPrefix(r.path, openPath):
		return noSubscription
	case to.gone:
		return gone
	case !r.has("ttl"):
		return noTTL
	case !isSeconds(r.get("ttl")):
		return badTTL
	case !knownUrgency(r):
		return badUrgency
	case len(r.get("topic")) > 32 || !isBase64URL("x"+r.get("topic")):
		return badTopicHeader
	case len(r.body) > 4096 || r.tooLong:
		return tooLarge
	}
	if fault := badSealing(r); fault != "" {
		return fault
	}
	return badVAPID(r, to.serverKey)
}

// badSealing checks the body's encryption as far as a service can that has no key.
func badSealing(r *request) webPushFault {
	if len(r.body) == 0 {
		return ""
	}
	if r.get("content-encoding") != "aes128gcm" {
		return badEncoding
	}
	if _, err := readSealed(r.body); err != nil {
		return badEncoding
	}
	return ""
}

// opened is what the browser made of a body.
type opened struct{ plaintext, fault string }

// open decrypts a body whose header is good.
func (s subscriber) open(body []byte) *opened {
	read, err := readSealed(body)
	if err != nil {
		return &opened{fault: err.Error()}
	}
	text, err := read.open(s.private, s.auth)
	if err != nil {
		return &opened{fault: err.Error()}
	}
	return &opened{plaintext: string(text)}
}

func (w *webPush) scripted(r *request, f *Fault) answer {
	flavour, _ := subscriptionOf(r.authority, r.path)
	if f.Status >= 200 && f.Status < 300 {
		return w.accept(r, flavour, 0)
	}
	reply := scriptedPush(flavour, f)
	reply.status = f.Status
	reply.retryAfter(f.RetryAfter)
	return reply
}

func (w *webPush) accept(r *request, flavour Flavour, ttl uint64) answer {
	r.id = uuid.NewString()
	a := answer{status: 201, accepted: true}
	a.header = append(a.header,
		passing("location", "https://"+r.authority+"/message/"+r.id), field("ttl", strconv.FormatUint(ttl, 10)))
	if flavour == Apple {
		a.header = append(a.header, passing("apns-id", r.id))
	}
	return a
}

// isSeconds wants a TTL in seconds, RFC 8030 5.2; a service may keep a message for less.
func isSeconds(s string) bool {
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

func knownUrgency(r *request) bool {
	return slices.Contains([]string{"", "very-low", "low", "normal", "high"}, r.get("urgency"))
}

// badVAPID checks the proof of RFC 8292 3: signature by the key beside it, audience, at most 24 hours to live, and the
// key that the subscription is bound to, if it is.
func badVAPID(r *request, serverKey string) webPushFault {
	proof, ok := bearer(r.get("authorization"), "vapid")
	if !ok {
		return noVAPID
	}
	token, key := vapidParts(proof)
	if token == "" || key == "" {
		return noVAPID
	}
	point, err := base64.RawURLEncoding.DecodeString(key)
	if err != nil {
		return badVAPIDKey
	}
	public, err := ecdsa.ParseUncompressedPublicKey(elliptic.P256(), point)
	if err != nil {
		return badVAPIDKey
	}
	t, err := parseJWT(token)
	if err != nil || !t.signedES256(public) || !t.vouches("https://"+r.authority) {
		return badVAPIDToken
	}
	if serverKey != "" && key != serverKey {
		return otherVAPIDKey
	}
	return ""
}

// vapidParts reads t=…, k=… in either order.
func vapidParts(proof string) (token, key string) {
	for part := range strings.SplitSeq(proof, ",") {
		name, value, _ := strings.Cut(strings.TrimSpace(part), "=")
		switch name {
		case "t":
			token = value
		case "k":
			key = strings.TrimRight(value, "=")
		}
	}
	return token, key
}

// vouches checks the claims of a VAPID token.
func (t *jwt) vouches(origin string) bool {
	left := time.Until(time.Unix(int64(t.Claims.Exp), 0))
	contact := strings.HasPrefix(t.Claims.Sub, "mailto:") || strings.HasPrefix(t.Claims.Sub, "https:")
	return t.Claims.Aud == origin && left > 0 && left <= 24*time.Hour && contact
}
