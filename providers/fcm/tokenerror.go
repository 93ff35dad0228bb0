// SPDX-License-Identifier: Apache-2.0

package fcm

import (
	"errors"
	"net/http"
	"time"

	"github.com/go-json-experiment/json"

	"github.com/sluice-push/sluice/push"
	"github.com/sluice-push/sluice/wire"
)

// tokenError says why there is no access token. Its text contains only the reason.
type tokenError struct {
	outcome push.Outcome
	until   time.Time // no exchange before this time
}

func (e *tokenError) Error() string {
	return "fcm: no access token: " + e.outcome.Reason
}

// The reasons for a failed exchange whose response has no known error code.
const (
	oauthUnavailable = "OAUTH_UNAVAILABLE"
	oauthThrottled   = "OAUTH_THROTTLED"
	oauthRefused     = "OAUTH_REFUSED"
)

// oauthErrors are the error codes of RFC 6749, sections 4.1.2.1 and 5.2, that Google's token
// endpoint returns. All mean that the service account or the request for it is invalid, so a retry
// cannot succeed.
var oauthErrors = map[string]bool{
	"invalid_grant": true, "invalid_scope": true, "invalid_request": true, "unsupported_grant_type": true,
	"invalid_client": true, "unauthorized_client": true, "access_denied": true,
}

// judgeExchangeError returns the outcome of every attempt that needs the failed exchange. Its HTTP
// is zero and its scope the credential, whatever the token endpoint responded: no FCM endpoint was
// involved.
func judgeExchangeError(err error) push.Outcome {
	outcome := push.Outcome{Verdict: push.Unavailable, Scope: push.ScopeCredential, Reason: oauthUnavailable}
	refusal, ok := errors.AsType[*refusedError](err)
	if !ok {
		return outcome
	}
	retryAfter := (&wire.Response{Header: []wire.Field{
		{Name: "retry-after", Value: refusal.header.Get("Retry-After")},
		{Name: "date", Value: refusal.header.Get("Date")},
	}}).RetryAfter()
	switch {
	case refusal.status == http.StatusTooManyRequests:
		wait := max(retryAfter, 10*time.Second)
		return push.Outcome{Verdict: push.Throttled, Scope: push.ScopeCredential, Reason: oauthThrottled, RetryAfter: wait}
	case refusal.status/100 == 4:
		return push.Outcome{Verdict: push.Unauthorized, Scope: push.ScopeCredential, Reason: refusal.code}
	}
	outcome.RetryAfter = retryAfter
	return outcome
}

// parseOAuthError returns the error code in the body of a refusal, if it is a known one.
func parseOAuthError(body []byte) string {
	var in struct {
		Error string `json:"error"`
	}
	if json.Unmarshal(body, &in) != nil || !oauthErrors[in.Error] {
		return oauthRefused
	}
	return in.Error
}

// noTokenOutcome returns the outcome of an attempt without an access token.
func noTokenOutcome(err error) push.Outcome {
	d, ok := errors.AsType[*tokenError](err)
	if !ok {
		return push.NoResponse(err)
	}
	o := d.outcome
	if o.Retryable() {
		o.RetryAfter = max(time.Until(d.until), 0)
	}
	return o
}
