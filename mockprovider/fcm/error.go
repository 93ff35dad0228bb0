// SPDX-License-Identifier: Apache-2.0

package fcm

import (
	"cmp"
	"encoding/json"
	"fmt"
	"strings"

	"github.com/sluice-push/sluice/mockprovider/h2"
	"github.com/sluice-push/sluice/mockprovider/script"
)

// fcmError is the body of an error response, google.rpc.Status in its HTTP form.
type fcmError struct {
	Code    int           `json:"code"`
	Message string        `json:"message"`
	Status  string        `json:"status"`
	Details []errorDetail `json:"details,omitempty"`

	challenge string // value of www-authenticate
}

// errorDetail is a detail of any type. Only the fields of its type are set.
type errorDetail struct {
	Type       string            `json:"@type"`
	ErrorCode  string            `json:"errorCode,omitempty"`       // FcmError
	StatusCode int               `json:"statusCode,omitempty"`      // ApnsError
	Reason     string            `json:"reason,omitempty"`          // ApnsError, ErrorInfo
	Domain     string            `json:"domain,omitempty"`          // ErrorInfo
	Metadata   map[string]string `json:"metadata,omitempty"`        // ErrorInfo
	Violations []quotaViolation  `json:"violations,omitempty"`      // QuotaFailure
	Fields     []fieldViolation  `json:"fieldViolations,omitempty"` // BadRequest
}

type quotaViolation struct {
	Subject     string `json:"subject"`
	Description string `json:"description"`
}

type fieldViolation struct {
	Field       string `json:"field,omitempty"`
	Description string `json:"description"`
}

const (
	typeFcmError     = "type.googleapis.com/google.firebase.fcm.v1.FcmError"
	typeApnsError    = "type.googleapis.com/google.firebase.fcm.v1.ApnsError"
	typeBadRequest   = "type.googleapis.com/google.rpc.BadRequest"
	typeQuotaFailure = "type.googleapis.com/google.rpc.QuotaFailure"
	typeErrorInfo    = "type.googleapis.com/google.rpc.ErrorInfo"
)

// errorCodes holds FCM's error codes with the HTTP status, google.rpc code and message of each, from
// "FCM Error Codes" and captures (read 2026-11).
var errorCodes = map[string]fcmError{
	"INVALID_ARGUMENT":       {Code: 400, Status: "INVALID_ARGUMENT", Message: "Request contains an invalid argument."},
	"UNREGISTERED":           {Code: 404, Status: "NOT_FOUND", Message: "Requested entity was not found."},
	"SENDER_ID_MISMATCH":     {Code: 403, Status: "PERMISSION_DENIED", Message: "SenderId mismatch"},
	"QUOTA_EXCEEDED":         {Code: 429, Status: "RESOURCE_EXHAUSTED", Message: "Quota exceeded."},
	"UNAVAILABLE":            {Code: 503, Status: "UNAVAILABLE", Message: "The service is currently unavailable."},
	"INTERNAL":               {Code: 500, Status: "INTERNAL", Message: "Internal error encountered."},
	"THIRD_PARTY_AUTH_ERROR": {Code: 401, Status: "UNAUTHENTICATED", Message: authMessage},
	"UNSPECIFIED_ERROR":      {Code: 500, Status: "INTERNAL", Message: "Internal error encountered."},
}

const authMessage = "Request had invalid authentication credentials. Expected OAuth 2 access token, login cookie or " +
	"other valid authentication credential. See https://developers.google.com/identity/sign-in/web/devconsole-project."

// invalidToken is the challenge for an access token that is not valid.
const invalidToken = `Bearer realm="https://accounts.google.com/", error="invalid_token"`

// newError returns the error with that code. Its first detail is the FcmError.
func newError(code string, more ...errorDetail) *fcmError {
	e := errorCodes[code]
	e.Details = append([]errorDetail{{Type: typeFcmError, ErrorCode: code}}, more...)
	return &e
}

// newInfoError returns an error of Google's API layer in front of FCM: it has an ErrorInfo and no
// FcmError.
func newInfoError(code int, status, message, reason string) *fcmError {
	return &fcmError{Code: code, Status: status, Message: message, Details: []errorDetail{{
		Type: typeErrorInfo, Reason: reason, Domain: "googleapis.com",
		Metadata: map[string]string{"service": "fcm.googleapis.com", "method": "google.firebase.fcm.v1.FcmService.SendMessage"},
	}}}
}

// newParseError returns an error of the JSON parser: it has a BadRequest and no FcmError.
func newParseError(text, field string) *fcmError {
	return &fcmError{Code: 400, Status: "INVALID_ARGUMENT", Message: text, Details: []errorDetail{
		{Type: typeBadRequest, Fields: []fieldViolation{{Field: field, Description: text}}},
	}}
}

// newFieldError returns FCM's own error for the value of a field.
func newFieldError(text, field string) *fcmError {
	e := newError("INVALID_ARGUMENT", errorDetail{
		Type: typeBadRequest, Fields: []fieldViolation{{Field: field, Description: text}},
	})
	e.Message = text
	return e
}

func errSyntax() *fcmError {
	return newParseError("Invalid JSON payload received. Unexpected token.", "")
}

func errBadValue(path, kind, value string) *fcmError {
	return newParseError(fmt.Sprintf("Invalid value at '%s' (%s), %s", path, kind, value), path)
}

func errSecondTarget(name string) *fcmError {
	return newParseError(fmt.Sprintf("Invalid value at 'message' (oneof), oneof field 'target' is already set. Cannot set '%s'", name), "message")
}

func errUnknownField(name, path string) *fcmError {
	text := fmt.Sprintf("Invalid JSON payload received. Unknown name %q at '%s': Cannot find field.", name, path)
	if path == "" {
		text = fmt.Sprintf("Invalid JSON payload received. Unknown name %q: Cannot find field.", name)
	}
	return newParseError(text, path)
}

// errTooBig has status 400 and an empty BadRequest. FCM does not respond 413.
func errTooBig() *fcmError {
	e := newError("INVALID_ARGUMENT", errorDetail{Type: typeBadRequest})
	e.Message = "Android message is too big"
	return e
}

func errBadToken() *fcmError {
	e := newError("INVALID_ARGUMENT")
	e.Message = "The registration token is not a valid FCM registration token"
	return e
}

func errAccessTokenExpired() *fcmError {
	e := newInfoError(401, "UNAUTHENTICATED", authMessage, "ACCESS_TOKEN_EXPIRED")
	e.challenge = invalidToken
	return e
}

// errServiceDisabled is the error of a project in which the FCM API is not enabled.
func errServiceDisabled() *fcmError {
	return newInfoError(403, "PERMISSION_DENIED", "Firebase Cloud Messaging API has not been used in project 1 before or it is disabled. "+
		"Enable it by visiting https://console.developers.google.com/apis/api/fcm.googleapis.com/overview?project=1 then retry.", "SERVICE_DISABLED")
}

// errNoPermission is the error of an account that must not send in the project, and of a project that
// does not exist.
func errNoPermission(project string) *fcmError {
	return newInfoError(403, "PERMISSION_DENIED", "Permission 'cloudmessaging.messages.create' denied on resource "+
		"'//cloudresourcemanager.googleapis.com/projects/"+project+"' (or it may not exist).", "IAM_PERMISSION_DENIED")
}

// errQuotaExceeded is the error for the message rate of a device or topic.
func errQuotaExceeded(subject string) *fcmError {
	e := newError("QUOTA_EXCEEDED", errorDetail{Type: typeQuotaFailure, Violations: []quotaViolation{
		{Subject: subject, Description: "Message rate quota exceeded for the " + subject + "."},
	}})
	e.Message = strings.ToUpper(subject[:1]) + subject[1:] + " quota exceeded."
	return e
}

// errRateLimit is the error for the quota of a project. It has no FcmError.
func errRateLimit() *fcmError {
	return newInfoError(429, "RESOURCE_EXHAUSTED", "Quota exceeded for quota metric 'Send requests' and limit 'Send requests per minute'.",
		"RATE_LIMIT_EXCEEDED")
}

// errOverQuota returns the error for a quota of that scope.
func errOverQuota(scope string) *fcmError {
	switch scope {
	case script.ScopeProject:
		return errRateLimit()
	case script.ScopeTopic:
		return errQuotaExceeded("topic")
	}
	return errQuotaExceeded("device")
}

// response formats the error as Google does, with indentation. The reason in the ledger is the one
// that clients extract.
func (e *fcmError) response() h2.Response {
	body, _ := json.MarshalIndent(struct {
		Error *fcmError `json:"error"`
	}{e}, "", "  ")
	resp := h2.Response{Status: e.Code, Reason: e.reason(), Body: append(body, '\n')}
	resp.Header = append(resp.Header, h2.Field("content-type", "application/json; charset=UTF-8"))
	if e.challenge != "" {
		resp.Header = append(resp.Header, h2.Field("www-authenticate", e.challenge))
	}
	return resp
}

func (e *fcmError) reason() string {
	if len(e.Details) == 0 {
		return e.Status
	}
	return cmp.Or(e.Details[0].ErrorCode, e.Details[0].Reason, e.Status)
}
