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

// exchangeTimeout limits an exchange, which can consist of several requests.
const exchangeTimeout = 10 * time.Second

// tokenSource fetches an access token in one exchange.
type tokenSource func(context.Context) (*oauth2.Token, error)

// withTransport returns a tokenSource that runs fetch with a timeout, sends its requests through
// next, and returns an error of this package's own for a failure.
func withTransport(fetch tokenSource, next http.RoundTripper) tokenSource {
	return func(ctx context.Context) (*oauth2.Token, error) {
		ctx, cancel := context.WithTimeout(ctx, exchangeTimeout)
		defer cancel()
		transport := &exchangeTransport{ctx: ctx, next: next}
		token, err := fetch(context.WithValue(ctx, oauth2.HTTPClient, &http.Client{Transport: transport}))
		switch {
		case transport.err != nil:
			return nil, transport.err
		case err != nil && !transport.responded:
			return nil, errNoSubject
		case err != nil || token.AccessToken == "":
			return nil, errNoToken
		}
		return token, nil
	}
}

// The errors of an exchange that no endpoint refused. An error of the oauth2 package would contain
// what it read.
var (
	errNoToken   = errors.New("the response contains no access token")
	errNoSubject = errors.New("cannot read the account's subject token (credential_source in its file)")
)

// exchangeTransport is the transport of one exchange. It sets the context on requests and records
// the cause of a failure, because the oauth2 package does neither. It returns an error for any
// response other than 2xx, against the contract of http.RoundTripper. So a redirect cannot send a
// credential elsewhere, and a refusal is the same for every type of account.
type exchangeTransport struct {
	ctx       context.Context
	next      http.RoundTripper
	responded bool
	err       error
}

func (c *exchangeTransport) RoundTrip(r *http.Request) (*http.Response, error) {
	response, err := c.next.RoundTrip(r.WithContext(c.ctx))
	if err != nil {
		c.err = err
		return nil, err
	}
	c.responded = true
	if response.StatusCode/100 == 2 {
		return response, nil
	}
	body, _ := io.ReadAll(io.LimitReader(response.Body, 64<<10)) // a truncated body only costs the error code
	_ = response.Body.Close()
	c.err = &refusedError{status: response.StatusCode, header: response.Header, code: parseOAuthError(body)}
	return nil, c.err
}

// refusedError is a response other than 2xx.
type refusedError struct {
	status int
	header http.Header
	code   string
}

func (r *refusedError) Error() string { return "refused" }
