// SPDX-License-Identifier: Apache-2.0

package mockprovider

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"encoding/base64"
	"encoding/json"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/google/uuid"
)

// webPush plays a push service of RFC 8030 with VAPID (RFC 8292), in the words of Mozilla's autopush. Every path under
// /push/ is a live subscription. It checks that a body claims to be encrypted, and does not decrypt it.
type webPush struct{}

var _ service = (*webPush)(nil)

// autopushFault is a status with Mozilla's errno and the name of the status.
type autopushFault struct {
	Code     int    `json:"code"`
	Errno    int    `json:"errno"`
	Error    string `json:"error"`
	Message  string `json:"message"`
	MoreInfo string `json:"more_info"`
}

// autopushErrno is the errno that a status most often comes with, from autopush's error codes (read 2026-11).
var autopushErrno = map[int]autopushFault{
	400: {Errno: 110, Error: "Bad Request"}, 401: {Errno: 109, Error: "Unauthorized"}, 404: {Errno: 102, Error: "Not Found"},
	410: {Errno: 106, Error: "Gone"}, 413: {Errno: 104, Error: "Payload Too Large"}, 500: {Errno: 999, Error: "Internal Server Error"},
	502: {Errno: 902, Error: "Bad Gateway"}, 503: {Errno: 201, Error: "Service Unavailable"},
}

const subscriptionPath = "/push/"

func (*webPush) find(r *request) {
	if token, ok := strings.CutPrefix(r.path, subscriptionPath); ok {
		r.token = token
	}
}

func (w *webPush) judge(_ *peer, r *request) answer {
	w.find(r)
	switch ttl, err := strconv.ParseUint(r.get("ttl"), 10, 31); {
	case r.token == "":
		return autopush(404, 102, "Endpoint not found")
	case r.method != "POST":
		return answer{status: 405, reason: "MethodNotAllowed"}
	case err != nil:
		return autopush(400, 111, "Missing or invalid TTL header")
	case !knownUrgency(r):
		return autopush(400, 110, "Invalid Urgency header")
	case len(r.get("topic")) > 32 || !isTokenText("x"+r.get("topic")):
		return autopush(400, 113, "Invalid Topic header")
	case len(r.body) > 4096 || r.tooLong:
		return autopush(413, 104, "Payload too large")
	case len(r.body) > 0 && r.get("content-encoding") != "aes128gcm":
		return autopush(400, 110, "Unknown Content-Encoding")
	case !isVAPID(r):
		return autopush(401, 109, "Invalid authorization")
	default:
		return w.accept(r, ttl)
	}
}

func (w *webPush) scripted(r *request, f *Fault) answer {
	if f.Status >= 200 && f.Status < 300 {
		return w.accept(r, 0)
	}
	known, ok := autopushErrno[f.Status]
	reply := answer{status: f.Status, reason: f.Reason}
	if ok {
		reply = autopush(f.Status, known.Errno, "Scripted answer")
		reply.reason = or(f.Reason, reply.reason)
	}
	reply.retryAfter(f.RetryAfter)
	return reply
}

func (w *webPush) accept(r *request, ttl uint64) answer {
	r.id = uuid.NewString()
	a := answer{status: 201, accepted: true}
	a.header = append(a.header,
		passing("location", "https://"+r.authority+"/message/"+r.id), field("ttl", strconv.FormatUint(ttl, 10)))
	return a
}

// autopush answers in Mozilla's shape.
func autopush(status, errno int, message string) answer {
	body, _ := json.Marshal(autopushFault{
		Code: status, Errno: errno, Error: autopushErrno[status].Error, Message: message,
		MoreInfo: "http://autopush.readthedocs.io/en/latest/http.html#error-codes",
	})
	a := answer{status: status, reason: "errno " + strconv.Itoa(errno), body: body}
	a.header = append(a.header, field("content-type", "application/json"))
	return a
}

func knownUrgency(r *request) bool {
	return slices.Contains([]string{"", "very-low", "low", "normal", "high"}, r.get("urgency"))
}

// isVAPID checks the proof of RFC 8292 3: signature by the key beside it, audience, and at most 24 hours to live.
func isVAPID(r *request) bool {
	proof, ok := bearer(r.get("authorization"), "vapid")
	if !ok {
		return false
	}
	var token, key string
	for part := range strings.SplitSeq(proof, ",") {
		name, value, _ := strings.Cut(strings.TrimSpace(part), "=")
		switch name {
		case "t":
			token = value
		case "k":
			key = value
		}
	}
	t, err := parseJWT(token)
	point, notBase64 := base64.RawURLEncoding.DecodeString(strings.TrimRight(key, "="))
	if err != nil || notBase64 != nil {
		return false
	}
	public, err := ecdsa.ParseUncompressedPublicKey(elliptic.P256(), point)
	if err != nil || !t.signedES256(public) {
		return false
	}
	left := time.Until(time.Unix(int64(t.Claims.Exp), 0))
	contact := strings.HasPrefix(t.Claims.Sub, "mailto:") || strings.HasPrefix(t.Claims.Sub, "https:")
	return t.Claims.Aud == "https://"+r.authority && left > 0 && left <= 24*time.Hour && contact
}
