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

// tokenError is why there is no access token. As an error it says no more than the
// reason.
type tokenError struct {
	outcome push.Outcome
	until   time.Time // no exchange before then
}

func (d *tokenError) Error() string {
	return "fcm: no access token: " + d.outcome.Reason
}

// The reasons of ours for an exchange that brought no access token and gave no
// word of its own.
const (
	oauthUnavailable = "OAUTH_UNAVAILABLE"
	oauthThrottled   = "OAUTH_THROTTLED"
	oauthRefused     = "OAUTH_REFUSED"
)

// oauthErrors are the errors of RFC 6749, sections 4.1.2.1 and 5.2, that Google's
// token endpoint answers with. All of them condemn the service account or what
// we ask for it, and none gets better by being asked again.
var oauthErrors = map[string]bool{
	"invalid_grant": true, "invalid_scope": true, "invalid_request": true, "unsupported_grant_type": true,
	"invalid_client": true, "unauthorized_client": true, "access_denied": true,
}

// judgeExchangeError is the outcome of every attempt that an exchange fails. Its
// HTTP is zero and its scope the credential, whatever the token endpoint
// answered: no endpoint of FCM had a part in it.
func judgeExchangeError(err error) push.Outcome {
	down := push.Outcome{Verdict: push.Unavailable, Scope: push.ScopeCredential, Reason: oauthUnavailable}
	answer, ok := errors.AsType[*refusedError](err)
	if !ok {
		return down
	}
	asked := (&wire.Response{Header: []wire.Field{
		{Name: "retry-after", Value: answer.header.Get("Retry-After")},
		{Name: "date", Value: answer.header.Get("Date")},
	}}).RetryAfter()
	switch {
	case answer.status == http.StatusTooManyRequests:
		wait := max(asked, 10*time.Second)
		return push.Outcome{Verdict: push.Throttled, Scope: push.ScopeCredential, Reason: oauthThrottled, RetryAfter: wait}
	case answer.status/100 == 4:
		return push.Outcome{Verdict: push.Unauthorized, Scope: push.ScopeCredential, Reason: answer.code}
	}
	down.RetryAfter = asked
	return down
}

// parseOAuthError returns the error in the body of a refusal, if it is one we know.
func parseOAuthError(body []byte) string {
	var in struct {
		Error string `json:"error"`
	}
	if json.Unmarshal(body, &in) != nil || !oauthErrors[in.Error] {
		return oauthRefused
	}
	return in.Error
}

// noTokenOutcome is the outcome of an attempt that found no access token.
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
