// SPDX-License-Identifier: Apache-2.0

// Package pager is how a provider is added, in a hundred lines: one for a pager service that does not exist, whose whole
// protocol is POST /page with a token in the path and a text in the body. It opens no connection and repeats nothing.
//
// To add a real one: make a room below providers, write what is written here, pass the conformance suite, give the room
// its row in architecture_test.go and docs/design.md, the configuration a block, and gateway/routes.go a function that
// makes the route.
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

// Provider translates notifications for the pager service and judges its answers.
type Provider struct {
	// Key is what the service knows us by.
	Key string
}

var _ delivery.Provider = (*Provider)(nil)

const maxBytes = 240 // of a page

// Translate checks n and writes it as a request: all but the credential.
func (p *Provider) Translate(n *push.Notification) (*wire.Request, error) {
	text := n.Title
	if n.Body != "" {
		text += ": " + n.Body
	}
	switch {
	case n.Kind() != push.ToToken || !utf8.ValidString(n.Token) || !isNumber(n.Token):
		return nil, invalid("token", "InvalidTarget", "a pager's number, 1 to 20 digits, and the only target")
	case text == "":
		return nil, invalid("body", "PayloadEmpty", "given, or title: a pager shows text and nothing else")
	case !utf8.ValidString(text) || len(n.Data) > 0 || n.Badge != nil || n.Image != "":
		return nil, invalid("body", "InvalidField", "text in UTF-8, and title beside it at most: a pager shows nothing else")
	case len(text) > maxBytes:
		return nil, invalid("body", "PayloadTooLarge", "so short that it has at most "+strconv.Itoa(maxBytes)+" bytes with the title")
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

// Send makes one attempt with r on conn and judges the answer, once. All attempts share r, so it is copied.
func (p *Provider) Send(ctx context.Context, conn wire.Doer, _ *push.Notification, r *wire.Request) push.Outcome {
	signed := *r
	signed.Header = append(r.Header[:len(r.Header):len(r.Header)], wire.Field{Name: "authorization", Value: "Bearer " + p.Key, NeverIndexed: true})
	answer, err := conn.Do(ctx, &signed)
	if err != nil {
		return push.NoResponse(err)
	}
	o := judge(answer.Status)
	o.HTTP = answer.Status
	if asked := answer.RetryAfter(); asked > 0 && o.Retryable() {
		o.RetryAfter = asked
	}
	return o
}

// judge is the service's document, line by line. Its answers have no body.
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
