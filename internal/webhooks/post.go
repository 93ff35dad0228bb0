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

	"github.com/sluice-push/sluice/push"
)

// maxResponseBytes limits how much of a response is read.
const maxResponseBytes = 4 << 10

// newClient returns a client for one receiver. It checks the address when it connects, uses no
// proxy and does not follow redirects.
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

// statusError is a response with another status than 2xx.
type statusError struct {
	status     int
	retryAfter time.Duration // from the response's Retry-After header
}

func (r *statusError) Error() string {
	if r.status/100 == 3 {
		return fmt.Sprintf("HTTP status %d: redirects are not followed", r.status)
	}
	return fmt.Sprintf("HTTP status %d", r.status)
}

// post makes one attempt. Its error does not contain the URL.
func (w *Webhook) post(ctx context.Context, b batch, id string, body []byte) (err error) {
	ctx, cancel := context.WithTimeout(ctx, w.cfg.Timeout)
	defer cancel()
	request, err := http.NewRequestWithContext(ctx, http.MethodPost, w.cfg.URL, bytes.NewReader(body))
	if err != nil {
		return errors.New("cannot create a request for the URL")
	}
	request.Header.Set("Content-Type", "application/json")
	request.Header.Set("User-Agent", "sluice-webhook")
	sign(request.Header, w.cfg.Secrets, id, body)
	trace, ended := w.trace(b)
	defer func() { ended(err) }()
	if trace.TraceParent != "" {
		request.Header.Set("Traceparent", trace.TraceParent)
	}
	if trace.TraceState != "" {
		request.Header.Set("Tracestate", trace.TraceState)
	}
	response, err := w.client.Do(request)
	if err != nil {
		if urlErr, ok := errors.AsType[*url.Error](err); ok {
			err = urlErr.Err
		}
		return err
	}
	defer func() { _ = response.Body.Close() }()
	_, _ = io.CopyN(io.Discard, response.Body, maxResponseBytes) // so that the connection can be reused
	if response.StatusCode/100 == 2 {
		return nil
	}
	return &statusError{response.StatusCode, retryAfter(response.Header.Get("Retry-After"))}
}

// trace returns the trace context of an attempt to post the events of b, and a function to call at its
// end. Without spans, it is that of the events if they have one in common.
func (w *Webhook) trace(b batch) (sent push.TraceContext, ended func(error)) {
	traces, all := b.traces()
	if len(traces) == 0 {
		return sent, func(error) {}
	}
	if all && len(traces) == 1 {
		sent = traces[0]
	}
	if w.cfg.StartSpan == nil {
		return sent, func(error) {}
	}
	span, end := w.cfg.StartSpan(w.name, len(b.events), traces)
	if span.TraceParent != "" {
		sent = span
	}
	return sent, func(err error) {
		status := http.StatusOK
		if response, ok := errors.AsType[*statusError](err); ok {
			status = response.status
		} else if err != nil {
			status = 0
		}
		end(status)
	}
}

// retryAfter parses the header of RFC 9110, in seconds or as a date. It returns at most an hour.
func retryAfter(text string) time.Duration {
	var wait time.Duration
	if seconds, err := strconv.ParseUint(text, 10, 32); err == nil {
		wait = time.Duration(seconds) * time.Second
	} else if at, err := http.ParseTime(text); err == nil {
		wait = time.Until(at)
	}
	return min(max(wait, 0), time.Hour)
}

// backoff returns a random wait after this number of consecutive failures. The upper bound doubles
// with each failure (full jitter).
func backoff(failures int, minWait, maxWait time.Duration) time.Duration {
	bound := minWait << min(failures-1, 20)
	if bound > maxWait || bound <= 0 {
		bound = maxWait
	}
	return rand.N(bound) + 1
}
