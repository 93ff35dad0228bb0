// SPDX-License-Identifier: Apache-2.0

package push

import (
	"context"
	"errors"
	"time"
)

// Verdict is the classification of one attempt. Only the provider makes it, from its table of
// errors; no other package reads a status code.
type Verdict uint8

// The verdicts. The zero value, Unsent, is safe to retry.
const (
	Unsent       Verdict = iota // provably not processed by the provider: safe to retry
	Accepted                    // the provider accepted it
	Unregistered                // the token is no longer registered at the provider
	Refused                     // the provider will never accept this notification as it is
	Throttled                   // a rate limit or quota of Scope is exceeded
	Unauthorized                // the credential is invalid, or not valid for this notification
	Unavailable                 // the provider answered that it cannot process the notification now
	Unknown                     // sent, but no response: a retry may cause a duplicate
	Abandoned                   // the caller cancelled before it was sent; nothing failed
	Expired                     // its TTL expired before it was sent
)

var verdictNames = [...]string{
	Unsent: "unsent", Accepted: "accepted", Unregistered: "unregistered", Refused: "refused", Throttled: "throttled",
	Unauthorized: "unauthorized", Unavailable: "unavailable", Unknown: "unknown", Abandoned: "abandoned", Expired: "expired",
}

// String returns the verdict in lower case, as in logs, metrics and JSON.
func (v Verdict) String() string {
	if int(v) < len(verdictNames) {
		return verdictNames[v]
	}
	return "invalid"
}

// Scope is what an error affects, and so what must slow down or stop.
type Scope uint8

// The scopes, from the narrowest to the widest.
const (
	ScopeNone       Scope = iota
	ScopeDevice           // one token
	ScopeTopic            // one topic or channel
	ScopeConnection       // one connection; its endpoint may be healthy
	ScopeEndpoint         // one address of the service
	ScopeProject          // one FCM project
	ScopeCredential       // everything that is sent with this key or certificate
)

var scopeNames = [...]string{
	ScopeNone: "none", ScopeDevice: "device", ScopeTopic: "topic", ScopeConnection: "connection",
	ScopeEndpoint: "endpoint", ScopeProject: "project", ScopeCredential: "credential",
}

// String returns the scope in lower case.
func (s Scope) String() string {
	if int(s) < len(scopeNames) {
		return scopeNames[s]
	}
	return "invalid"
}

// Outcome is the result of one attempt. It contains no secret.
type Outcome struct {
	Verdict Verdict
	// Reason is the provider's error code (BadDeviceToken) or, for an attempt without a response,
	// one of this module's (RESPONSE_TIMEOUT). It comes from a closed set and never holds free text
	// from a provider.
	Reason string
	// Scope is what the error affects.
	Scope Scope
	// RetryAfter is the minimum time to wait before the next attempt in Scope; zero if neither the
	// response nor the provider's documentation gives one.
	RetryAfter time.Duration
	// HTTP is the response's status code, or zero without a response. It is for receipts and logs;
	// do not base decisions on it.
	HTTP int
	// ProviderID is the provider's ID of an accepted notification (apns-id, FCM's message name).
	ProviderID string
	// DeadSince is when an Unregistered token became invalid, according to the provider (APNs
	// status 410), or zero. A token that was registered again later is valid.
	DeadSince time.Time
	// ForgetToken is set if the token can be deleted without further checks.
	ForgetToken bool
	// TokenMayReturn is set with Unregistered if the app can register again with the same token.
	TokenMayReturn bool
	// WrongEnvironment is set with Refused if the token may belong to the provider's other
	// environment.
	WrongEnvironment bool
	// Renewed is set with Unauthorized if a retry can succeed, usually with a renewed credential.
	Renewed bool
	// CloseConnection is set if the connection cannot be used for further requests.
	CloseConnection bool
	// Field is the invalid field of a notification that was never sent, and Detail says what is
	// allowed there. Other outcomes can have a Detail too, which says how to fix the cause.
	Field, Detail string
}

// Retryable reports whether another attempt can succeed. After Unknown, check
// Notification.MayRetryUnknown too.
func (o Outcome) Retryable() bool {
	switch o.Verdict {
	case Unsent, Throttled, Unavailable, Unknown:
		return true
	case Unauthorized:
		return o.Renewed
	default:
		return false
	}
}

// EndpointFault reports whether the endpoint caused the failure. Its breaker counts such attempts.
func (o Outcome) EndpointFault() bool {
	return o.Scope == ScopeEndpoint && (o.Verdict == Unavailable || o.Verdict == Unknown)
}

// EndpointOK reports whether the attempt shows that the endpoint works: it responded, and the
// error, if any, is not its fault. An attempt without a response can be neither EndpointFault nor
// EndpointOK.
func (o Outcome) EndpointOK() bool {
	return o.HTTP != 0 && !o.EndpointFault()
}

// InvalidNotification returns the outcome of a notification that failed validation and was not
// sent. If err is a FieldError, it sets the reason and the field, and the verdict Unregistered if
// the target is known to be no longer registered.
func InvalidNotification(err error) Outcome {
	o := Outcome{Verdict: Refused, Reason: "InvalidNotification", Detail: err.Error()}
	if field, ok := errors.AsType[*FieldError](err); ok {
		o.Reason, o.Field = field.Reason, field.Field
		if field.Unregistered {
			o.Verdict, o.ForgetToken = Unregistered, true
		}
	}
	return o
}

// IntermediaryResponse is the reason of an attempt whose response did not come from the push service.
const IntermediaryResponse = "INTERMEDIARY_RESPONSE"

// Intermediary returns the outcome of a response that is not in the format of the push service: a
// proxy, a firewall or a captive portal responded in its place. Its status says nothing about the
// notification or its target, so a retry can succeed. Every provider uses it.
func Intermediary(status int, retryAfter time.Duration) Outcome {
	return Outcome{
		Verdict: Unavailable, Reason: IntermediaryResponse, Scope: ScopeEndpoint, HTTP: status, RetryAfter: retryAfter,
		Detail: "the response is not from the push service, but from a proxy, firewall or other intermediary: check the network between the gateway and the service",
	}
}

// responseTooLarge is the Code of a response that exceeds the connection's limit. No push service
// sends one.
const responseTooLarge = "RESPONSE_TOO_LARGE"

// TransportError describes a request without a response. *wire.Error and *pool.Error implement it.
type TransportError interface {
	error
	Unprocessed() bool   // the peer provably did not process the request
	EndpointFault() bool // the endpoint failed, rather than its connection or the caller
	Code() string        // the reason, from a closed set
}

// NoResponse returns the outcome of an attempt that ended with err instead of a response. Every
// provider uses it, so that all treat transport errors the same way. An error that does not wrap a
// TransportError gives Unknown.
func NoResponse(err error) Outcome {
	o := Outcome{Verdict: Unknown, Reason: "NO_ANSWER"}
	if l, ok := errors.AsType[TransportError](err); ok {
		o.Reason = l.Code()
		switch {
		case l.Unprocessed():
			o.Verdict = Unsent
		case l.Code() == responseTooLarge:
			return Intermediary(0, 0)
		}
		if l.EndpointFault() {
			o.Scope = ScopeEndpoint
		}
	}
	if errors.Is(err, context.Canceled) {
		o.Scope = ScopeNone
		if o.Verdict == Unsent {
			o.Verdict = Abandoned
		}
	}
	return o
}
