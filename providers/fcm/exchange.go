// SPDX-License-Identifier: Apache-2.0

package fcm

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"io"
	"math"
	"net/http"
	"strconv"
	"strings"
	"time"

	"github.com/go-json-experiment/json"
	"github.com/go-json-experiment/json/jsontext"
	"golang.org/x/oauth2"
)

// exchangeTimeout limits an exchange, which can consist of several requests.
const exchangeTimeout = 10 * time.Second

// tokenSource fetches an access token in one exchange.
type tokenSource func(context.Context) (*oauth2.Token, error)

// maxTokenResponse and maxAccessToken are sizes in bytes. Google's access tokens have at most 12 KiB.
const maxTokenResponse, maxAccessToken = 64 << 10, 16 << 10

// withTransport returns a tokenSource that runs fetch with a timeout, sends its requests through
// next, and returns an error of this package's own for a failure or an invalid token.
func withTransport(fetch tokenSource, next http.RoundTripper) tokenSource {
	return func(ctx context.Context) (*oauth2.Token, error) {
		ctx, cancel := context.WithTimeout(ctx, exchangeTimeout)
		defer cancel()
		transport := &exchangeTransport{ctx: ctx, next: next}
		token, err := fetch(context.WithValue(ctx, oauth2.HTTPClient, &http.Client{Transport: transport}))
		switch {
		case transport.err != nil:
			return nil, transport.err
		case err != nil && transport.status == 0:
			return nil, cmp.Or(asSubjectError(err), errNoSubject)
		case err != nil && !transport.isJSON:
			return nil, &responseError{status: transport.status}
		case err != nil || !isAccessToken(token):
			return nil, errInvalidToken
		}
		return token, nil
	}
}

// The errors of an exchange that no endpoint refused. An error of the oauth2 package would contain
// what it read.
var (
	errInvalidToken = errors.New("the response contains no valid access token: 1 to 16384 visible ASCII characters and token type Bearer are allowed")
	errNoSubject    = &subjectError{"the subject token cannot be obtained as credential_source in the credential file says"}
)

// subjectError says why there is no subject token to exchange.
type subjectError struct{ cause string }

func (e *subjectError) Error() string { return e.cause }

func asSubjectError(err error) *subjectError {
	e, _ := errors.AsType[*subjectError](err)
	return e
}

// isAccessToken reports whether t can be sent in a header field.
func isAccessToken(t *oauth2.Token) bool {
	invisible := func(r rune) bool { return r <= ' ' || r > '~' }
	return t.AccessToken != "" && len(t.AccessToken) <= maxAccessToken && !strings.ContainsFunc(t.AccessToken, invisible) && t.Type() == "Bearer"
}

// exchangeTransport is the transport of one exchange. It sets the context on requests, limits and
// normalizes responses, and records the cause of a failure, because the oauth2 package does not. It
// returns an error for any response other than 2xx, against the contract of http.RoundTripper. So a
// redirect cannot send a credential elsewhere, and a refusal is the same for every type of account.
type exchangeTransport struct {
	ctx    context.Context
	next   http.RoundTripper
	status int  // of the last response; 0 without one
	isJSON bool // the last response is JSON
	err    error
}

func (c *exchangeTransport) RoundTrip(r *http.Request) (*http.Response, error) {
	response, body, err := c.roundTrip(r)
	if err != nil {
		c.err = err
		return nil, err
	}
	c.status, c.isJSON = response.StatusCode, jsontext.Value(body).IsValid()
	switch {
	case response.StatusCode/100 != 2, isHTML(body):
		c.err = &responseError{status: response.StatusCode, header: response.Header, code: refusalCode(response, body), detail: refusalDetail(body), html: isHTML(body)}
		return nil, c.err
	case len(body) > maxTokenResponse:
		c.err = errInvalidToken
		return nil, c.err
	}
	if r.Method == http.MethodPost { // to a token endpoint
		body = normalizeToken(body)
	}
	response.Body, response.ContentLength = io.NopCloser(bytes.NewReader(body)), int64(len(body))
	return response, nil
}

// roundTrip returns the response and the start of its body: up to one byte more than
// maxTokenResponse.
func (c *exchangeTransport) roundTrip(r *http.Request) (*http.Response, []byte, error) {
	response, err := c.next.RoundTrip(r.WithContext(c.ctx))
	if err != nil {
		return nil, nil, err
	}
	defer func() { _ = response.Body.Close() }()
	body, err := io.ReadAll(io.LimitReader(response.Body, maxTokenResponse+1))
	return response, body, err
}

// normalizeToken returns the response of a token endpoint with an expires_in that every flow of the
// oauth2 package accepts: a whole number of seconds from 1 to maxLifetime. It removes id_token,
// whose expiry that package would use. It returns other responses unchanged.
func normalizeToken(body []byte) []byte {
	var members map[string]jsontext.Value
	if json.Unmarshal(body, &members, lenient) != nil || members["access_token"] == nil {
		return body
	}
	members["expires_in"] = jsontext.Value(strconv.Itoa(lifetimeSeconds(members["expires_in"])))
	delete(members, "id_token")
	normalized, err := json.Marshal(members, lenient)
	if err != nil {
		return body
	}
	return normalized
}

// lifetimeSeconds parses expires_in, which some endpoints send as a string or with a fraction.
func lifetimeSeconds(value jsontext.Value) int {
	seconds, err := strconv.ParseFloat(strings.Trim(string(value), `" `), 64)
	if err != nil && !errors.Is(err, strconv.ErrRange) || math.IsNaN(seconds) {
		seconds = defaultLifetime.Seconds()
	}
	return int(min(max(seconds, 1), maxLifetime.Seconds()))
}

// isHTML reports whether a response is a page for people.
func isHTML(body []byte) bool {
	return bytes.HasPrefix(bytes.TrimLeft(body, "\ufeff \t\r\n"), []byte("<"))
}
