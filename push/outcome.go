// SPDX-License-Identifier: Apache-2.0

package push

import (
	"context"
	"errors"
	"time"
)

// Verdict is the one judgement of an attempt. A provider makes it, in its
// reason table; everybody else only asks.
type Verdict uint8

// The verdicts. The zero value is the one that is safe to repeat.
const (
	Unsent       Verdict = iota // provably not processed by the provider: repeat it elsewhere at will
	Accepted                    // the provider took it
	Unregistered                // the provider knows nobody by this token any more
	Refused                     // the provider will never take this notification as it is
	Throttled                   // too much, too fast; Scope says of what
	Unauthorized                // the credential is bad, or bad for this
	Unavailable                 // the provider said that it could not
	Unknown                     // sent, no answer: a repeat may double it
	Abandoned                   // the caller left; nobody is to blame
	Expired                     // its TTL ran out before it could be sent
)

var verdictNames = [...]string{
	Unsent: "unsent", Accepted: "accepted", Unregistered: "unregistered", Refused: "refused", Throttled: "throttled",
	Unauthorized: "unauthorized", Unavailable: "unavailable", Unknown: "unknown", Abandoned: "abandoned", Expired: "expired",
}

// String returns the verdict in lower case, as logs, metrics and JSON spell it.
func (v Verdict) String() string {
	if int(v) < len(verdictNames) {
		return verdictNames[v]
	}
	return "invalid"
}

// Scope is what a trouble reaches, and so what has to slow down or stop: the
// rest goes on.
type Scope uint8

// The scopes, from nothing to everything that shares a credential.
const (
	ScopeNone       Scope = iota
	ScopeDevice           // one token
	ScopeTopic            // one topic or channel
	ScopeConnection       // one connection; its endpoint may be well
	ScopeEndpoint         // one address of the service
	ScopeProject          // one FCM project
	ScopeCredential       // everything sent with this key or certificate
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

// Outcome is what came of one attempt, judged once. Nothing in it is secret.
type Outcome struct {
	Verdict Verdict
	// Reason is the provider's own word (BadDeviceToken) or ours for an
	// attempt without an answer (RESPONSE_TIMEOUT). It comes from a closed
	// set: a provider's free text never gets here.
	Reason string
	// Scope is what the trouble reaches.
	Scope Scope
	// RetryAfter is the least time that the provider wants to be left alone
	// with this Scope; zero when it named none and its documents name none.
	RetryAfter time.Duration
	// HTTP is the provider's status code, for receipts and logs only; nobody
	// decides by it. Zero when there was no answer.
	HTTP int
	// ProviderID is the provider's name for an accepted notification
	// (apns-id, FCM's message name).
	ProviderID string
	// DeadSince is the provider's time of an Unregistered token (APNs 410),
	// or zero. A registration that is newer wins.
	DeadSince time.Time
	// ForgetToken is set where the token may be deleted without knowing more.
	ForgetToken bool
	// Misplaced is set with Refused where the token may be one of the provider's
	// other environment.
	WrongEnvironment bool
	// Renewed is set with Unauthorized when the credential has been renewed
	// since the attempt, so that one more makes sense.
	Renewed bool
	// CloseConnection is set where the connection is spoilt for what follows.
	CloseConnection bool
	// Field is the refused field of a notification that was never sent, and
	// Detail says what is allowed there; both empty otherwise. The refusal of
	// a call about channels may have a Detail, too: what to do about it.
	Field, Detail string
}

// Retryable reports whether another attempt can end better. Whether one is
// allowed after Unknown is the sender's choice, Notification.MayRepeat.
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

// EndpointFault reports whether the endpoint is to blame, so that its breaker
// counts a failure.
func (o Outcome) EndpointFault() bool {
	return o.Scope == ScopeEndpoint && (o.Verdict == Unavailable || o.Verdict == Unknown)
}

// EndpointOK reports whether the endpoint has shown that it works: it
// gave an answer, and the trouble, if any, was not its own. Unsent and
// Abandoned prove nothing either way.
func (o Outcome) EndpointOK() bool {
	return o.HTTP != 0 && !o.EndpointFault()
}

// InvalidNotification is the outcome of a notification that was refused before it was sent.
func InvalidNotification(err error) Outcome {
	o := Outcome{Verdict: Refused, Reason: "InvalidNotification", Detail: err.Error()}
	if field, ok := errors.AsType[*FieldError](err); ok {
		o.Reason, o.Field = field.Reason, field.Field
	}
	return o
}

// transportError is what a transport tells of a request that got no answer; *wire.Error
// is one.
type transportError interface {
	error
	Unprocessed() bool   // provably never processed
	EndpointFault() bool // the endpoint did this, not its connection or the caller
	Code() string        // the reason, from a closed set
}

// NoResponse is the outcome of an attempt that ended in err instead of an
// answer. It is here so that every provider judges silence alike.
func NoResponse(err error) Outcome {
	o := Outcome{Verdict: Unknown, Reason: "NO_ANSWER"}
	if l, ok := errors.AsType[transportError](err); ok {
		o.Reason = l.Code()
		if l.Unprocessed() {
			o.Verdict = Unsent
		}
		if l.EndpointFault() {
			o.Scope = ScopeEndpoint
		}
	}
	if errors.Is(err, context.Canceled) {
		o.Verdict, o.Scope = Abandoned, ScopeNone
	}
	return o
}
