// SPDX-License-Identifier: Apache-2.0

package wire_test

import (
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/sluice-push/sluice/wire"
)

// transportDoer returns a Doer that sends requests to an httptest server.
func transportDoer(t *testing.T, h http.HandlerFunc) wire.Doer {
	t.Helper()
	s := httptest.NewUnstartedServer(h)
	s.EnableHTTP2 = true
	s.StartTLS()
	t.Cleanup(s.Close)
	base, err := url.Parse(s.URL + "/ignored")
	if err != nil {
		t.Fatal(err)
	}
	return wire.FromTransport(s.Client().Transport, base)
}

func doRequest(t *testing.T, d wire.Doer, r *wire.Request) result {
	if r.Timeout == 0 {
		r.Timeout = time.Minute
	}
	res, err := d.Do(t.Context(), r)
	return result{res, err}
}

func TestFromTransportSendsRequestUnchanged(t *testing.T) {
	d := transportDoer(t, func(w http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		w.Header().Set("Retry-After", "5")
		w.WriteHeader(http.StatusTooManyRequests)
		_, _ = io.WriteString(w, strings.Join([]string{r.Method, r.RequestURI, r.Header.Get("TTL"), string(body)}, " "))
	})
	r := &wire.Request{Method: "POST", Path: "/push/a%2Fb?x=1", Header: []wire.Field{{Name: "ttl", Value: "60"}}, Body: []byte("body")}
	res := wantStatus(t, doRequest(t, d, r), 429)
	if string(res.Body) != "POST /push/a%2Fb?x=1 60 body" || res.Get("retry-after") != "5" {
		t.Errorf("got %q, %v", res.Body, res.Header)
	}
}

func TestFromTransportPathCannotChangeHost(t *testing.T) {
	d := transportDoer(t, func(w http.ResponseWriter, r *http.Request) { _, _ = io.WriteString(w, r.RequestURI) })
	res := wantStatus(t, doRequest(t, d, &wire.Request{Method: "GET", Path: "//elsewhere.example/x"}), 200)
	if string(res.Body) != "//elsewhere.example/x" {
		t.Errorf("the path arrived as %q", res.Body)
	}
}

func TestFromTransportRejectsInvalidRequest(t *testing.T) {
	d := transportDoer(t, func(http.ResponseWriter, *http.Request) { t.Error("an invalid request was sent") })
	for name, r := range map[string]*wire.Request{
		"path":         {Method: "POST", Path: "no slash/s3cret"},
		"escape":       {Method: "POST", Path: "/s3cret%zz"},
		"method":       {Method: "PO ST", Path: "/"},
		"header name":  {Method: "POST", Path: "/", Header: []wire.Field{{Name: "a b", Value: "s3cret"}}},
		"header value": {Method: "POST", Path: "/", Header: []wire.Field{{Name: "authorization", Value: "s3cret\r\nx: y"}}},
	} {
		res := doRequest(t, d, r)
		wantError(t, res, wire.InvalidRequest, wire.Never, false)
		if res.err != nil && strings.Contains(res.err.Error(), "s3cret") {
			t.Errorf("%s: the error repeats the request: %v", name, res.err)
		}
	}
}

func TestFromTransportTimeoutIsEndpointFault(t *testing.T) {
	d := transportDoer(t, func(_ http.ResponseWriter, r *http.Request) {
		if r.URL.Path != "/first" {
			<-r.Context().Done()
		}
	})
	wantStatus(t, doRequest(t, d, post("/first")), 200) // so that there is an established connection
	r := post("/")
	r.Timeout = 50 * time.Millisecond
	wantError(t, doRequest(t, d, r), wire.ResponseTimeout, wire.Unknown, true)
}

func TestFromTransportCancelIsNotEndpointFault(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	d := transportDoer(t, func(_ http.ResponseWriter, r *http.Request) {
		cancel()
		<-r.Context().Done()
	})
	r := post("/")
	r.Timeout = time.Minute
	res, err := d.Do(ctx, r)
	wantError(t, result{res, err}, wire.Canceled, wire.Unknown, false)
	res, err = d.Do(ctx, post("/"))
	wantError(t, result{res, err}, wire.Canceled, wire.Never, false)
	if !errors.Is(err, context.Canceled) {
		t.Errorf("the error does not wrap the context's error: %v", err)
	}
}

func TestFromTransportRejectsLargeResponse(t *testing.T) {
	d := transportDoer(t, func(w http.ResponseWriter, _ *http.Request) { _, _ = w.Write(make([]byte, 64<<10+1)) })
	wantError(t, doRequest(t, d, post("/")), wire.ResponseTooLarge, wire.Unknown, true)
}

// A RoundTripper can have a limit of its own.
func TestFromTransportReportsLimitOfRoundTripper(t *testing.T) {
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { _, _ = w.Write(make([]byte, 2<<10)) }))
	defer server.Close()
	base, err := url.Parse(server.URL)
	if err != nil {
		t.Fatal(err)
	}
	d := wire.FromTransport(limitedTransport{}, base)
	wantError(t, doRequest(t, d, post("/")), wire.ResponseTooLarge, wire.Unknown, true)
}

type limitedTransport struct{}

func (limitedTransport) RoundTrip(r *http.Request) (*http.Response, error) {
	res, err := http.DefaultTransport.RoundTrip(r)
	if err == nil {
		res.Body = http.MaxBytesReader(nil, res.Body, 1<<10)
	}
	return res, err
}

func TestFromTransportConnectRefusedIsUnprocessed(t *testing.T) {
	d := wire.FromTransport(&http.Transport{}, &url.URL{Scheme: "http", Host: "127.0.0.1:1"})
	wantError(t, doRequest(t, d, post("/")), wire.ConnectRefused, wire.Never, true)
}

func TestFromTransportUntrustedServerIsUnprocessed(t *testing.T) {
	s := httptest.NewTLSServer(http.NotFoundHandler())
	t.Cleanup(s.Close)
	s.Config.ErrorLog = nil
	base, err := url.Parse(s.URL)
	if err != nil {
		t.Fatal(err)
	}
	wantError(t, doRequest(t, wire.FromTransport(&http.Transport{}, base), post("/")), wire.TLSServerUntrusted, wire.Never, false)
}

func TestFromTransportConnLossIsUnknown(t *testing.T) {
	d := transportDoer(t, func(http.ResponseWriter, *http.Request) { panic(http.ErrAbortHandler) })
	wantError(t, doRequest(t, d, post("/")), wire.ResetInternal, wire.Unknown, true)
}

// failingTransport is a RoundTripper that always fails with err.
type failingTransport struct{ err error }

func (l failingTransport) RoundTrip(*http.Request) (*http.Response, error) { return nil, l.err }

func TestFromTransportAmbiguousErrorIsUnknown(t *testing.T) {
	base := &url.URL{Scheme: "https", Host: "push.example"}
	wantError(t, doRequest(t, wire.FromTransport(failingTransport{io.ErrUnexpectedEOF}, base), post("/")), wire.LostAfterWrite, wire.Unknown, true)
	wantError(t, doRequest(t, wire.FromTransport(failingTransport{&net.OpError{Op: "read", Err: io.EOF}}, base), post("/")), wire.LostAfterWrite, wire.Unknown, true)
	wantError(t, doRequest(t, wire.FromTransport(failingTransport{&net.DNSError{Name: "push.example"}}, base), post("/")), wire.DNSFailure, wire.Never, false)
}
