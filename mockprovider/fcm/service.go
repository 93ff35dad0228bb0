// SPDX-License-Identifier: Apache-2.0

// Package fcm mocks the HTTP v1 API of Firebase Cloud Messaging: projects.messages:send and
// projects.registrations.topicSubscriptions. It checks access tokens, messages and registration tokens,
// and responds with FCM's errors.
package fcm

import (
	"cmp"
	"fmt"
	"math/rand/v2"
	"strings"
	"sync/atomic"
	"time"

	"github.com/sluice-push/sluice/mockprovider/h2"
	"github.com/sluice-push/sluice/mockprovider/script"
)

// AccessTokens holds the access tokens that the token endpoint issued.
type AccessTokens interface {
	// Lookup returns when a token expires and whether its scope allows sending; ok is false for an
	// unknown token.
	Lookup(token string) (expires time.Time, messaging, ok bool)
}

// Service is the API for one project. It is safe for concurrent use.
type Service struct {
	project string
	access  AccessTokens
	sent    atomic.Uint64
	topics  subscriptions
}

var _ script.Service = (*Service)(nil)

// New returns a service for the project.
func New(project string, access AccessTokens) *Service {
	return &Service{project: project, access: access}
}

// tokenErrors holds the errors of registration tokens, by the prefix of the part after the colon, and
// of Firebase installation IDs, by their own prefix. All other well-formed tokens, <id>:<rest>, and
// IDs are registered. Real tokens continue with APA91b.
var tokenErrors = []struct {
	prefix string
	err    func() *fcmError
}{
	{"dead-ios", func() *fcmError {
		return newError("UNREGISTERED", errorDetail{Type: typeApnsError, StatusCode: 410, Reason: "Unregistered"})
	}},
	{"dead", func() *fcmError { return newError("UNREGISTERED") }},
	{"bad", errBadToken},
	{"mismatch", func() *fcmError { return newError("SENDER_ID_MISMATCH") }},
	{"thirdparty", func() *fcmError {
		return newError("THIRD_PARTY_AUTH_ERROR", errorDetail{Type: typeApnsError, StatusCode: 403, Reason: "InvalidProviderToken"})
	}},
	{"quota", func() *fcmError { return errQuotaExceeded("device") }},
	{"ratelimit", errRateLimit},
	{"internal", func() *fcmError { return newError("INTERNAL") }},
	{"unavailable", func() *fcmError { return newError("UNAVAILABLE") }},
}

// Find sets r.Token to the target of the message. Respond parses the message itself, so that without
// a script each message is parsed once.
func (s *Service) Find(r *h2.Request) {
	if call, ok := parseTopicPath(r.Path); ok {
		r.Token = call.registration
		return
	}
	m, _ := parseMessage(r.Body)
	r.Token, r.Multicast, r.Collapsible = m.value, m.target == "topic" || m.target == "condition", m.collapsible
}

// Respond responds to a message. Every topic exists.
func (s *Service) Respond(r *h2.Request) h2.Response {
	if err := s.authenticate(r); err != nil {
		return err.response()
	}
	if call, ok := parseTopicPath(r.Path); ok {
		return s.respondTopic(r, call)
	}
	m, err := s.read(r)
	if err != nil {
		return err.response()
	}
	r.Token = m.value
	if err := checkToken(m); err != nil {
		return err.response()
	}
	return s.accept(r, m.validateOnly)
}

// RespondFault responds as the fault specifies.
func (s *Service) RespondFault(r *h2.Request, f *script.Fault) h2.Response {
	if call, ok := parseTopicPath(r.Path); ok && f.Status == 200 {
		return s.respondTopic(r, call)
	} else if f.Status == 200 {
		return s.accept(r, false)
	}
	resp := s.faultError(f).response()
	resp.Status = f.Status
	resp.AddRetryAfter(f.RetryAfter)
	return resp
}

// faultError returns the error for the reason of a fault or, without one, the most common error for
// its status.
func (s *Service) faultError(f *script.Fault) *fcmError {
	if f.Quota != nil && f.Reason == "" {
		return errOverQuota(f.Quota.Scope)
	}
	reason := cmp.Or(f.Reason, commonReasons[f.Status])
	switch reason {
	case "RATE_LIMIT_EXCEEDED":
		return errRateLimit()
	case "QUOTA_EXCEEDED":
		return errQuotaExceeded("topic")
	case "ACCESS_TOKEN_EXPIRED":
		return errAccessTokenExpired()
	case "SERVICE_DISABLED":
		return errServiceDisabled()
	case "IAM_PERMISSION_DENIED":
		return errNoPermission(s.project)
	}
	if _, known := errorCodes[reason]; known {
		return newError(reason)
	}
	return &fcmError{Code: f.Status, Status: cmp.Or(reason, "UNKNOWN"), Message: "Scripted answer."}
}

// commonReasons holds the most common error code for each status.
var commonReasons = map[int]string{
	400: "INVALID_ARGUMENT", 401: "ACCESS_TOKEN_EXPIRED", 403: "SENDER_ID_MISMATCH", 404: "UNREGISTERED",
	429: "QUOTA_EXCEEDED", 500: "INTERNAL", 503: "UNAVAILABLE",
}

// authenticate checks the access token.
func (s *Service) authenticate(r *h2.Request) *fcmError {
	token, ok := r.Credential("Bearer")
	if !ok {
		e := newInfoError(401, "UNAUTHENTICATED", "Request is missing required authentication credential. Expected OAuth 2 access "+
			"token, login cookie or other valid authentication credential.", "CREDENTIALS_MISSING")
		e.challenge = `Bearer realm="https://accounts.google.com/"`
		return e
	}
	expires, messaging, ok := s.access.Lookup(token)
	if !ok {
		e := newInfoError(401, "UNAUTHENTICATED", authMessage, "ACCESS_TOKEN_TYPE_UNSUPPORTED")
		e.challenge = invalidToken
		return e
	}
	if time.Now().After(expires) {
		return errAccessTokenExpired()
	}
	if !messaging {
		return newInfoError(403, "PERMISSION_DENIED", "Request had insufficient authentication scopes.", "ACCESS_TOKEN_SCOPE_INSUFFICIENT")
	}
	return nil
}

// read checks the method, the path and the project, and parses the message.
func (s *Service) read(r *h2.Request) (message, *fcmError) {
	project, ok := strings.CutPrefix(r.Path, "/v1/projects/")
	project, send := strings.CutSuffix(project, "/messages:send")
	if r.Method != "POST" || !ok || !send || strings.Contains(project, "/") {
		return message{}, &fcmError{Code: 404, Status: "NOT_FOUND", Message: "Requested entity was not found."}
	}
	if project != s.project {
		return message{}, errNoPermission(project)
	}
	if r.TooLong {
		return message{}, errTooBig()
	}
	return parseMessage(r.Body)
}

// lenInstallationID is the length of a Firebase installation ID: 17 bytes in base64url, without the
// last character.
const lenInstallationID = 22

// checkToken checks the format of a registration token or a Firebase installation ID, and whether it
// is registered. The field token accepts an ID too ("During the transition period, this field also
// accepts a Firebase Installation ID", REST reference).
func checkToken(m message) *fcmError {
	if m.target != "token" && m.target != "fid" {
		return nil
	}
	id, rest, colon := strings.Cut(m.value, ":")
	switch {
	case len(m.value) > 4096 || !hasTokenChars(m.value) || colon && (m.target == "fid" || id == "" || rest == ""):
		return errBadToken()
	case !colon && m.target == "token" && len(m.value) != lenInstallationID:
		return errBadToken()
	case !colon:
		rest = m.value
	}
	for _, known := range tokenErrors {
		if strings.HasPrefix(rest, known.prefix) {
			return known.err()
		}
	}
	return nil
}

// hasTokenChars reports whether s consists of base64url characters and colons.
func hasTokenChars(s string) bool {
	for i := range len(s) {
		c := s[i]
		if (c|0x20 < 'a' || c|0x20 > 'z') && (c < '0' || c > '9') && c != ':' && c != '-' && c != '_' {
			return false
		}
	}
	return s != ""
}

// accept responds with the name of the message, whose last part is opaque and looks like
// 0:<µs>%<16 hex digits>.
func (s *Service) accept(r *h2.Request, validateOnly bool) h2.Response {
	id := "fake_message_id"
	if !validateOnly {
		id = fmt.Sprintf("0:%d%%%016x", time.Now().UnixMicro(), rand.Uint64()^s.sent.Add(1))
	}
	r.ID = "projects/" + s.project + "/messages/" + id
	resp := h2.Response{Status: 200, Accepted: true, Body: []byte("{\n  \"name\": \"" + r.ID + "\"\n}\n")}
	resp.Header = append(resp.Header, h2.Field("content-type", "application/json; charset=UTF-8"))
	return resp
}
