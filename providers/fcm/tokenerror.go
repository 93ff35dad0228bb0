// SPDX-License-Identifier: Apache-2.0

package fcm

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"net/http"
	"regexp"
	"strings"
	"time"

	"github.com/go-json-experiment/json"

	"github.com/sluice-push/sluice/push"
	"github.com/sluice-push/sluice/wire"
)

// tokenError says why there is no access token. Its text contains only the reason and the detail.
type tokenError struct {
	outcome push.Outcome
	until   time.Time // no exchange before this time
}

func (e *tokenError) Error() string {
	text := "fcm: no access token: " + e.outcome.Reason
	if e.outcome.Detail != "" {
		text += ": " + e.outcome.Detail
	}
	return text
}

// The reasons for a failed exchange whose response has no known error code.
const (
	oauthUnavailable  = "OAUTH_UNAVAILABLE"
	oauthThrottled    = "OAUTH_THROTTLED"
	oauthRefused      = "OAUTH_REFUSED"
	oauthInvalidToken = "OAUTH_INVALID_TOKEN"
	oauthNoSubject    = "OAUTH_NO_SUBJECT_TOKEN"
	// oauthIntermediary is push.IntermediaryResponse for the token endpoint.
	oauthIntermediary = "OAUTH_INTERMEDIARY_RESPONSE"
)

// oauthErrors are the error codes of RFC 6749, sections 4.1.2.1 and 5.2, that Google's token
// endpoint returns. All mean that the service account or the request for it is invalid, so a retry
// cannot succeed. Other codes count only with a description: proxies write {"error":"forbidden"}.
var oauthErrors = map[string]bool{
	"invalid_grant": true, "invalid_scope": true, "invalid_request": true, "unsupported_grant_type": true,
	"invalid_client": true, "unauthorized_client": true, "access_denied": true,
}

// responseError is a response that is not a token.
type responseError struct {
	status int
	header http.Header
	code   string // as refusalCode returns it
	detail string // how to fix the cause, as refusalDetail returns it
	html   bool
}

// Error contains nothing of the response but its status.
func (e *responseError) Error() string {
	if e.fromIntermediary() {
		return fmt.Sprintf("the response (HTTP status %d) is not from the token endpoint: it has no OAuth2 error or token; "+
			"check the proxy and the firewall", e.status)
	}
	return fmt.Sprintf("the token endpoint refused with HTTP status %d", e.status)
}

// fromIntermediary reports whether the response came from a proxy, firewall or captive portal. A 429
// or a 5xx without an OAuth2 error can be from the token endpoint's own front end.
func (e *responseError) fromIntermediary() bool {
	switch {
	case e.status == http.StatusProxyAuthRequired, e.status == http.StatusUnavailableForLegalReasons:
		return true
	case e.code != "" && e.status/100 == 4:
		return false
	case e.status == http.StatusTooManyRequests, e.status >= 500:
		return e.html
	}
	return true
}

// judgeExchangeError returns the outcome of every attempt that needs the failed exchange. Its HTTP
// is zero and its scope the credential, whatever the token endpoint responded: no FCM endpoint was
// involved.
func judgeExchangeError(err error) push.Outcome {
	outcome := push.Outcome{Verdict: push.Unavailable, Scope: push.ScopeCredential, Reason: oauthUnavailable}
	response, ok := errors.AsType[*responseError](err)
	switch {
	case errors.Is(err, errInvalidToken):
		outcome.Reason, outcome.Detail = oauthInvalidToken, err.Error()
	case asSubjectError(err) != nil:
		outcome.Reason, outcome.Detail = oauthNoSubject, err.Error()
	case !ok:
		outcome.Detail = connectionFailure(err)
	case response.fromIntermediary():
		outcome.Reason, outcome.Detail, outcome.RetryAfter = oauthIntermediary, err.Error(), response.retryAfter()
	case response.status == http.StatusTooManyRequests:
		wait := max(response.retryAfter(), 10*time.Second)
		return push.Outcome{Verdict: push.Throttled, Scope: push.ScopeCredential, Reason: oauthThrottled, RetryAfter: wait}
	case response.status/100 == 4:
		return push.Outcome{Verdict: push.Unauthorized, Scope: push.ScopeCredential, Reason: response.code, Detail: response.detail}
	default:
		outcome.RetryAfter = response.retryAfter()
	}
	return outcome
}

// connectionFailure returns why there was no response, or "" for an error that is not one of the
// connection: its text could contain anything.
func connectionFailure(err error) string {
	_, isNetwork := errors.AsType[net.Error](err)
	_, isCertificate := errors.AsType[*tls.CertificateVerificationError](err)
	_, isTLS := errors.AsType[tls.RecordHeaderError](err)
	_, isAlert := errors.AsType[tls.AlertError](err)
	switch {
	case errors.Is(err, context.DeadlineExceeded):
		return "the token endpoint did not respond within " + exchangeTimeout.String()
	case isNetwork, isCertificate, isTLS, isAlert:
		return "the token endpoint cannot be reached: " + err.Error()
	}
	return ""
}

func (e *responseError) retryAfter() time.Duration {
	return (&wire.Response{Header: []wire.Field{
		{Name: "retry-after", Value: e.header.Get("Retry-After")},
		{Name: "date", Value: e.header.Get("Date")},
	}}).RetryAfter()
}

// isOAuthError matches the error codes of token endpoints. RFC 6749 allows more characters, but no
// endpoint uses them, and pages of proxies do.
var isOAuthError = regexp.MustCompile(`^[a-z][a-z0-9_]*$`).MatchString

// refusalCode returns the error code of a refusal: a known code of OAuth2, or oauthRefused for another
// error of OAuth2, Google's APIs or the metadata server. It returns "" if the response has no error
// in one of their formats.
func refusalCode(response *http.Response, body []byte) string {
	var oauth struct {
		Error       string `json:"error"`
		Description string `json:"error_description"`
		URI         string `json:"error_uri"`
	}
	var google struct {
		Error struct {
			Status string `json:"status"`
		} `json:"error"`
	}
	switch {
	case json.Unmarshal(body, &oauth, lenient) == nil && oauthErrors[oauth.Error]:
		return oauth.Error
	case isOAuthError(oauth.Error) && (oauth.Description != "" || oauth.URI != ""),
		json.Unmarshal(body, &google, lenient) == nil && isRPCCode(google.Error.Status),
		response.Header.Get("Metadata-Flavor") == "Google":
		return oauthRefused
	}
	return ""
}

// grantDetails says how to fix the causes of invalid_grant that Google describes, by a part of the
// description. The descriptions are not documented (observed, 2026-11).
var grantDetails = []struct{ description, detail string }{
	{"account not found", "the service account does not exist any more: create a key of another one (" + createKey + ")"},
	{"Invalid JWT Signature", "the key of the service account was deleted or revoked: create a new one (" + createKey + ")"},
	{"reasonable timeframe", "the clock of this machine is wrong: synchronize it, for example with chrony or systemd-timesyncd"},
}

// refusalDetail returns how to fix the cause of a refusal, or "" if it is not known. It contains
// nothing of the response.
func refusalDetail(body []byte) string {
	var oauth struct {
		Description string `json:"error_description"`
	}
	if json.Unmarshal(body, &oauth, lenient) != nil {
		return ""
	}
	for _, known := range grantDetails {
		if strings.Contains(oauth.Description, known.description) {
			return known.detail
		}
	}
	return ""
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
