// SPDX-License-Identifier: Apache-2.0

package mockprovider

import (
	"encoding/json"
	"fmt"
	"strings"
)

// fcmError is the body of an answer that is not 200, in the shape of google.rpc.Status over HTTP.
type fcmError struct {
	Code    int         `json:"code"`
	Message string      `json:"message"`
	Status  string      `json:"status"`
	Details []fcmDetail `json:"details,omitempty"`

	challenge string // www-authenticate
}

// fcmDetail is one detail of any type: only the members of its type are set.
type fcmDetail struct {
	Type       string            `json:"@type"`
	ErrorCode  string            `json:"errorCode,omitempty"`       // FcmError
	StatusCode int               `json:"statusCode,omitempty"`      // ApnsError
	Reason     string            `json:"reason,omitempty"`          // ApnsError, ErrorInfo
	Domain     string            `json:"domain,omitempty"`          // ErrorInfo
	Metadata   map[string]string `json:"metadata,omitempty"`        // ErrorInfo
	Violations []fcmQuota        `json:"violations,omitempty"`      // QuotaFailure
	Fields     []fcmFieldFault   `json:"fieldViolations,omitempty"` // BadRequest
}

type fcmQuota struct {
	Subject     string `json:"subject"`
	Description string `json:"description"`
}

type fcmFieldFault struct {
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

// fcmCodes are FCM's error codes with the HTTP status, google.rpc code and message that each comes with, from "FCM
// Error Codes" and captures (read 2026-11).
var fcmCodes = map[string]fcmError{
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

// fcmCode is the error with that code, and its FcmError detail first.
func fcmCode(code string, more ...fcmDetail) *fcmError {
	e := fcmCodes[code]
	e.Details = append([]fcmDetail{{Type: typeFcmError, ErrorCode: code}}, more...)
	return &e
}

// fcmInfo is an error of the machinery before FCM proper, with an ErrorInfo and no FcmError.
func fcmInfo(code int, status, message, reason string) *fcmError {
	return &fcmError{Code: code, Status: status, Message: message, Details: []fcmDetail{{
		Type: typeErrorInfo, Reason: reason, Domain: "googleapis.com",
		Metadata: map[string]string{"service": "fcm.googleapis.com", "method": "google.firebase.fcm.v1.FcmService.SendMessage"},
	}}}
}

// fcmViolation is an error of the JSON parser: a BadRequest and no FcmError.
func fcmViolation(text, field string) *fcmError {
	return &fcmError{Code: 400, Status: "INVALID_ARGUMENT", Message: text, Details: []fcmDetail{
		{Type: typeBadRequest, Fields: []fcmFieldFault{{Field: field, Description: text}}},
	}}
}

// fcmInvalid is FCM's own refusal of a field.
func fcmInvalid(text, field string) *fcmError {
	e := fcmCode("INVALID_ARGUMENT", fcmDetail{
		Type: typeBadRequest, Fields: []fcmFieldFault{{Field: field, Description: text}},
	})
	e.Message = text
	return e
}

func fcmSyntax() *fcmError {
	return fcmViolation("Invalid JSON payload received. Unexpected token.", "")
}

func fcmBadValue(path, kind, value string) *fcmError {
	return fcmViolation(fmt.Sprintf("Invalid value at '%s' (%s), %s", path, kind, value), path)
}

func fcmOneof(name string) *fcmError {
	return fcmViolation(fmt.Sprintf("Invalid value at 'message' (oneof), oneof field 'target' is already set. Cannot set '%s'", name), "message")
}

// fcmTooBig comes as 400 with an empty BadRequest, never as 413.
func fcmTooBig() *fcmError {
	e := fcmCode("INVALID_ARGUMENT", fcmDetail{Type: typeBadRequest})
	e.Message = "Android message is too big"
	return e
}

func fcmBadToken() *fcmError {
	e := fcmCode("INVALID_ARGUMENT")
	e.Message = "The registration token is not a valid FCM registration token"
	return e
}

// fcmQuotaExceeded is what a device's or topic's message rate ends in.
func fcmQuotaExceeded(subject string) *fcmError {
	e := fcmCode("QUOTA_EXCEEDED", fcmDetail{Type: typeQuotaFailure, Violations: []fcmQuota{
		{Subject: subject, Description: "Message rate quota exceeded for the " + subject + "."},
	}})
	e.Message = strings.ToUpper(subject[:1]) + subject[1:] + " quota exceeded."
	return e
}

// fcmRateLimit is what a project's quota ends in: no FcmError.
func fcmRateLimit() *fcmError {
	return fcmInfo(429, "RESOURCE_EXHAUSTED", "Quota exceeded for quota metric 'Send requests' and limit 'Send requests per minute'.", "RATE_LIMIT_EXCEEDED")
}

// fcmOverQuota is the error of a scope: the project's has no FcmError.
func fcmOverQuota(scope string) *fcmError {
	switch scope {
	case perProject:
		return fcmRateLimit()
	case perTopic:
		return fcmQuotaExceeded("topic")
	}
	return fcmQuotaExceeded("device")
}

// answer writes the error as Google does: pretty, with the reason that a client would extract for the ledger.
func (e *fcmError) answer() answer {
	body, _ := json.MarshalIndent(struct {
		Error *fcmError `json:"error"`
	}{e}, "", "  ")
	a := answer{status: e.Code, reason: e.reason(), body: append(body, '\n')}
	a.header = append(a.header, field("content-type", "application/json; charset=UTF-8"))
	if e.challenge != "" {
		a.header = append(a.header, field("www-authenticate", e.challenge))
	}
	return a
}

func (e *fcmError) reason() string {
	if len(e.Details) == 0 {
		return e.Status
	}
	return or(or(e.Details[0].ErrorCode, e.Details[0].Reason), e.Status)
}
