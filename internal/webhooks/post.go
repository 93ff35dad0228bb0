// SPDX-License-Identifier: Apache-2.0

package webhooks

import (
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"net/url"
	"strconv"
	"time"
)

// maxResponseBytes is all that a receiver may make us read.
const maxResponseBytes = 4 << 10

// newClient posts to one receiver: to an address that was found fit when it is dialled, by no proxy, and nowhere that the
// answer leads.
func newClient(cfg Config) *http.Client {
	return &http.Client{
		Transport: &http.Transport{
			Proxy: nil, DialContext: cfg.Dial, MaxConnsPerHost: 1, IdleConnTimeout: time.Minute, DisableCompression: true,
			ForceAttemptHTTP2: true, MaxResponseHeaderBytes: 64 << 10, TLSHandshakeTimeout: cfg.Timeout,
			TLSClientConfig: &tls.Config{RootCAs: cfg.RootCAs, MinVersion: tls.VersionTLS12},
		},
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}
}

// statusError is an answer that does not take the message.
type statusError struct {
	status     int
	retryAfter time.Duration // that it asks for
}

func (r *statusError) Error() string {
	if r.status/100 == 3 {
		return fmt.Sprintf("HTTP status %d: redirects are not followed", r.status)
	}
	return fmt.Sprintf("HTTP status %d", r.status)
}

// post makes one attempt. Its error tells nothing of the URL.
func (w *Webhook) post(ctx context.Context, id string, body []byte) error {
	ctx, cancel := context.WithTimeout(ctx, w.cfg.Timeout)
	defer cancel()
	request, err := http.NewRequestWithContext(ctx, http.MethodPost, w.cfg.URL, bytes.NewReader(body))
	if err != nil {
		return errors.New("the URL makes no request")
	}
	request.Header.Set("Content-Type", "application/json")
	request.Header.Set("User-Agent", "sluice-webhook")
	sign(request.Header, w.cfg.Secrets, id, body)
	answer, err := w.client.Do(request)
	if err != nil {
		if wrapped, ok := errors.AsType[*url.Error](err); ok {
			err = wrapped.Err
		}
		return err
	}
	defer func() { _ = answer.Body.Close() }()
	_, _ = io.CopyN(io.Discard, answer.Body, maxResponseBytes) // so that the connection can be used again
	if answer.StatusCode/100 == 2 {
		return nil
	}
	return &statusError{answer.StatusCode, retryAfter(answer.Header.Get("Retry-After"))}
}

// retryAfter reads RFC 9110's header, in seconds or as a date, up to an hour.
func retryAfter(text string) time.Duration {
	var wait time.Duration
	if seconds, err := strconv.ParseUint(text, 10, 32); err == nil {
		wait = time.Duration(seconds) * time.Second
	} else if at, err := http.ParseTime(text); err == nil {
		wait = time.Until(at)
	}
	return min(max(wait, 0), time.Hour)
}

// backoff draws the wait after so many failures in a row: anything up to a bound that doubles with each (full jitter).
func backoff(failures int, base, most time.Duration) time.Duration {
	bound := base << min(failures-1, 20)
	if bound > most || bound <= 0 {
		bound = most
	}
	return rand.N(bound) + 1
}
