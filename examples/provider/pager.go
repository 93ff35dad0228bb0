// SPDX-License-Identifier: Apache-2.0

// Package pager is an example of a provider in a hundred lines. The pager service is fictional: its
// protocol is POST /page/NUMBER with a text in the body. A provider does not open connections and
// does not retry.
//
// To add a real provider, create a package below providers with the three methods shown here, run the
// conformance suite of providertest in its tests, add the package to architecture_test.go and
// docs/design.md, add a block to the configuration, and build its route in
// internal/gateway/routes.go.
package pager

import (
	"context"
	"net/url"
	"strconv"
	"time"
	"unicode/utf8"

	"github.com/sluice-push/sluice/internal/delivery"
	"github.com/sluice-push/sluice/push"
	"github.com/sluice-push/sluice/wire"
)

// Provider translates notifications for the pager service and classifies its responses.
type Provider struct {
	// Key is the API key of the service.
	Key string
}

var _ delivery.Provider = (*Provider)(nil)

const maxBytes = 240 // length limit of a page

// Translate validates n and returns the request for it, without the credential.
func (p *Provider) Translate(n *push.Notification) (*wire.Request, error) {
	text := n.Title
	if n.Body != "" {
		text += ": " + n.Body
	}
	switch {
	case n.Kind() != push.ToToken || !utf8.ValidString(n.Token) || !isNumber(n.Token):
		return nil, invalid("token", "InvalidTarget", "a pager number of 1 to 20 digits, without another target")
	case text == "":
		return nil, invalid("body", "PayloadEmpty", "not empty if title is empty: a pager shows only text")
	case !utf8.ValidString(text) || len(n.Data) > 0 || n.Badge != nil || n.Image != "":
		return nil, invalid("body", "InvalidField", "UTF-8 text, and the only content besides title")
	case len(text) > maxBytes:
		return nil, invalid("body", "PayloadTooLarge", "at most "+strconv.Itoa(maxBytes)+" bytes, including the title")
	}
	return &wire.Request{Method: "POST", Path: "/page/" + url.PathEscape(n.Token), Body: []byte(text)}, nil
}

func invalid(field, reason, allowed string) error {
	return &push.FieldError{Field: field, Reason: reason, Allowed: allowed}
}

func isNumber(s string) bool {
	_, err := strconv.ParseUint(s, 10, 64)
	return err == nil && len(s) <= 20
}

// Sign returns the header field with the API key.
func (p *Provider) Sign(context.Context, *push.Notification) (field wire.Field, used any, failed *push.Outcome) {
	return wire.Field{Name: "authorization", Value: "Bearer " + p.Key, NeverIndexed: true}, nil, nil
}

// Judge classifies the response to one attempt.
func (p *Provider) Judge(_ *push.Notification, _ any, response *wire.Response, err error) push.Outcome {
	if err != nil {
		return push.NoResponse(err)
	}
	o := judge(response.Status)
	o.HTTP = response.Status
	if wait := response.RetryAfter(); wait > 0 && o.Retryable() {
		o.RetryAfter = wait
	}
	return o
}

// judge maps the documented status codes of the service to outcomes. Its responses have no body.
func judge(status int) push.Outcome {
	switch {
	case status/100 == 2:
		return push.Outcome{Verdict: push.Accepted}
	case status == 401:
		return push.Outcome{Verdict: push.Unauthorized, Reason: "BadKey", Scope: push.ScopeCredential}
	case status == 410:
		return push.Outcome{Verdict: push.Unregistered, Reason: "PagerReturned", ForgetToken: true}
	case status == 429:
		return push.Outcome{Verdict: push.Throttled, Reason: "TooManyPages", Scope: push.ScopeDevice, RetryAfter: time.Minute}
	case status/100 == 4:
		return push.Outcome{Verdict: push.Refused, Reason: "Refused"}
	}
	return push.Outcome{Verdict: push.Unavailable, Reason: "Unavailable", Scope: push.ScopeEndpoint}
}
