// SPDX-License-Identifier: Apache-2.0

package mockprovider

import (
	"fmt"
	"math/rand/v2"
	"strings"
	"sync/atomic"
	"time"
)

// fcm plays Google's HTTP v1 API, projects.messages:send.
//
// A registration token is any text of the shape <id>:<rest>, and is registered, unless its part after the colon begins
// with a word of fcmTokens. Every topic exists.
type fcm struct {
	project string
	access  *accessTokens
	sent    atomic.Uint64
}

var _ service = (*fcm)(nil)

// fcmTokens says which tokens are not what they seem, by what follows the colon. Real ones go on with APA91b.
var fcmTokens = []struct {
	word  string
	fault func() *fcmError
}{
	{"dead-ios", func() *fcmError {
		return fcmCode("UNREGISTERED", fcmDetail{Type: typeApnsError, StatusCode: 410, Reason: "Unregistered"})
	}},
	{"dead", func() *fcmError { return fcmCode("UNREGISTERED") }},
	{"bad", fcmBadToken},
	{"mismatch", func() *fcmError { return fcmCode("SENDER_ID_MISMATCH") }},
	{"thirdparty", func() *fcmError {
		return fcmCode("THIRD_PARTY_AUTH_ERROR", fcmDetail{Type: typeApnsError, StatusCode: 403, Reason: "InvalidProviderToken"})
	}},
	{"quota", func() *fcmError { return fcmQuotaExceeded("device") }},
	{"ratelimit", fcmRateLimit},
	{"internal", func() *fcmError { return fcmCode("INTERNAL") }},
	{"unavailable", func() *fcmError { return fcmCode("UNAVAILABLE") }},
}

// find leaves faults by token to judge's reading of the message, for it is read only once.
func (f *fcm) find(r *request) {
	m, _ := readMessage(r.body)
	r.token, r.toMany, r.collapsible = m.value, m.target == "topic" || m.target == "condition", m.collapsible
}

func (f *fcm) judge(_ *peer, r *request) answer {
	if refused := f.authenticate(r); refused != nil {
		return refused.answer()
	}
	message, refused := f.read(r)
	if refused != nil {
		return refused.answer()
	}
	r.token = message.value
	if refused := badRegistration(message); refused != nil {
		return refused.answer()
	}
	return f.accept(r, message.validateOnly)
}

func (f *fcm) scripted(r *request, fault *Fault) answer {
	if fault.Status == 200 {
		return f.accept(r, false)
	}
	reply := f.named(fault).answer()
	reply.status = fault.Status
	reply.retryAfter(fault.RetryAfter)
	return reply
}

// named is the error that a fault asks for: by its reason, or else by what its status most often comes with.
func (f *fcm) named(fault *Fault) *fcmError {
	reason := or(fault.Reason, fcmReasons[fault.Status])
	if fault.Quota != nil && fault.Reason == "" {
		return fcmOverQuota(fault.Quota.Scope)
	}
	switch reason {
	case "RATE_LIMIT_EXCEEDED":
		return fcmRateLimit()
	case "QUOTA_EXCEEDED":
		return fcmQuotaExceeded("topic")
	case "ACCESS_TOKEN_EXPIRED":
		return fcmTokenExpired()
	}
	if _, known := fcmCodes[reason]; known {
		return fcmCode(reason)
	}
	return &fcmError{Code: fault.Status, Status: or(reason, "UNKNOWN"), Message: "Scripted answer."}
}

var fcmReasons = map[int]string{
	400: "INVALID_ARGUMENT", 401: "ACCESS_TOKEN_EXPIRED", 403: "SENDER_ID_MISMATCH", 404: "UNREGISTERED",
	429: "QUOTA_EXCEEDED", 500: "INTERNAL", 503: "UNAVAILABLE",
}

// authenticate wants an access token of the mock's OAuth2 endpoint that allows messaging.
func (f *fcm) authenticate(r *request) *fcmError {
	token, ok := bearer(r.get("authorization"), "Bearer")
	if !ok {
		e := fcmInfo(401, "UNAUTHENTICATED", "Request is missing required authentication credential. Expected OAuth 2 access "+
			"token, login cookie or other valid authentication credential.", "CREDENTIALS_MISSING")
		e.challenge = `Bearer realm="https://accounts.google.com/"`
		return e
	}
	grant, ok := f.access.lookUp(token)
	if !ok {
		e := fcmInfo(401, "UNAUTHENTICATED", authMessage, "ACCESS_TOKEN_TYPE_UNSUPPORTED")
		e.challenge = invalidToken
		return e
	}
	if time.Now().After(grant.expires) {
		return fcmTokenExpired()
	}
	if !grant.messaging {
		return fcmInfo(403, "PERMISSION_DENIED", "Request had insufficient authentication scopes.", "ACCESS_TOKEN_SCOPE_INSUFFICIENT")
	}
	return nil
}

const invalidToken = `Bearer realm="https://accounts.google.com/", error="invalid_token"`

func fcmTokenExpired() *fcmError {
	e := fcmInfo(401, "UNAUTHENTICATED", authMessage, "ACCESS_TOKEN_EXPIRED")
	e.challenge = invalidToken
	return e
}

// read checks method, path, project and message.
func (f *fcm) read(r *request) (fcmMessage, *fcmError) {
	project, ok := strings.CutPrefix(r.path, "/v1/projects/")
	project, send := strings.CutSuffix(project, "/messages:send")
	if r.method != "POST" || !ok || !send || strings.Contains(project, "/") {
		return fcmMessage{}, &fcmError{Code: 404, Status: "NOT_FOUND", Message: "Requested entity was not found."}
	}
	if project != f.project {
		return fcmMessage{}, fcmInfo(403, "PERMISSION_DENIED", "Permission 'cloudmessaging.messages.create' denied on resource "+
			"'//cloudresourcemanager.googleapis.com/projects/"+project+"' (or it may not exist).", "IAM_PERMISSION_DENIED")
	}
	if r.tooLong {
		return fcmMessage{}, fcmTooBig()
	}
	return readMessage(r.body)
}

// badRegistration checks the grammar of a registration token, and the registry.
func badRegistration(m fcmMessage) *fcmError {
	if m.target != "token" && m.target != "fid" {
		return nil
	}
	id, rest, colon := strings.Cut(m.value, ":")
	if m.target == "token" && (!colon || id == "" || rest == "") || len(m.value) > 4096 || !isTokenText(m.value) {
		return fcmBadToken()
	}
	for _, known := range fcmTokens {
		if strings.HasPrefix(rest, known.word) {
			return known.fault()
		}
	}
	return nil
}

// isTokenText wants base64url and colons.
func isTokenText(s string) bool {
	for i := range len(s) {
		c := s[i]
		if (c|0x20 < 'a' || c|0x20 > 'z') && (c < '0' || c > '9') && c != ':' && c != '-' && c != '_' {
			return false
		}
	}
	return s != ""
}

// accept answers with the message's name, which is opaque and looks like 0:<µs>%<16 hex digits>.
func (f *fcm) accept(r *request, validateOnly bool) answer {
	id := "fake_message_id"
	if !validateOnly {
		id = fmt.Sprintf("0:%d%%%016x", time.Now().UnixMicro(), rand.Uint64()^f.sent.Add(1))
	}
	r.id = "projects/" + f.project + "/messages/" + id
	a := answer{status: 200, accepted: true, body: []byte("{\n  \"name\": \"" + r.id + "\"\n}\n")}
	a.header = append(a.header, field("content-type", "application/json; charset=UTF-8"))
	return a
}
