// SPDX-License-Identifier: Apache-2.0

package fcm

import (
	"context"
	"errors"
	"io"
	"net/http"
	"time"

	"golang.org/x/oauth2"
)

// exchangeTimeout bounds an exchange, however many requests it takes.
const exchangeTimeout = 10 * time.Second

// tokenSource fetches an access token: one exchange.
type tokenSource func(context.Context) (*oauth2.Token, error)

// withTransport returns a source that lets ask talk to its endpoints in our way: within the caller's time, through next, and
// with our own word for what came of it.
func withTransport(ask tokenSource, next http.RoundTripper) tokenSource {
	return func(ctx context.Context) (*oauth2.Token, error) {
		ctx, cancel := context.WithTimeout(ctx, exchangeTimeout)
		defer cancel()
		line := &exchangeTransport{ctx: ctx, next: next}
		token, err := ask(context.WithValue(ctx, oauth2.HTTPClient, &http.Client{Transport: line}))
		switch {
		case line.err != nil:
			return nil, line.err
		case err != nil && !line.responded:
			return nil, errNoSubject
		case err != nil || token.AccessToken == "":
			return nil, errNoToken
		}
		return token, nil
	}
}

// What can be said of an exchange that no endpoint refused. What the oauth2 package says holds what it read.
var (
	errNoToken   = errors.New("the answer holds no access token")
	errNoSubject = errors.New("the account's own proof could not be read (credential_source in its file)")
)

// exchangeTransport is the transport of one exchange. The oauth2 package leaves the context out of its requests and the cause out
// of its errors; here are both. Any answer that is not a success ends the exchange as an error, against the letter of
// http.RoundTripper: so no redirect takes a credential to another place, and a refusal reads the same whoever asked.
type exchangeTransport struct {
	ctx       context.Context
	next      http.RoundTripper
	responded bool
	err       error
}

func (c *exchangeTransport) RoundTrip(r *http.Request) (*http.Response, error) {
	answer, err := c.next.RoundTrip(r.WithContext(c.ctx))
	if err != nil {
		c.err = err
		return nil, err
	}
	c.responded = true
	if answer.StatusCode/100 == 2 {
		return answer, nil
	}
	body, _ := io.ReadAll(io.LimitReader(answer.Body, 64<<10)) // what is missing is a word at most
	_ = answer.Body.Close()
	c.err = &refusedError{status: answer.StatusCode, header: answer.Header, code: parseOAuthError(body)}
	return nil, c.err
}

// refusedError is an endpoint's answer that brings no token.
type refusedError struct {
	status int
	header http.Header
	code   string
}

func (r *refusedError) Error() string { return "refused" }
