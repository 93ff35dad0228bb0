// SPDX-License-Identifier: Apache-2.0

package load

import (
	"encoding/json"
	"fmt"
	"io"
	"net/url"
	"strconv"
)

// api is an API under test.
type api interface {
	// appendRequest appends a complete request with n notifications, numbered from first.
	appendRequest(b []byte, add appendFunc, first, n int) []byte
	// readResponse reads a response and calls emit with each result. A complete response has n results.
	readResponse(p *parser, status int, body *body, n int, emit emitFunc) error
}

// appendFunc appends notification i, and emitFunc handles a result. An error of it ends the call.
type (
	appendFunc func(b []byte, i int) []byte
	emitFunc   func(*Result) error
)

func newAPI(g *Generator) (api, error) {
	base, err := url.Parse(g.URL)
	if err != nil {
		return nil, err
	}
	if base.Path == "" {
		base.Path = "/" // JoinPath does not add a leading slash
	}
	switch g.API {
	case "", "sluice":
		var requests sluiceAPI
		for _, app := range g.Apps {
			r := httpRequest{url: base.JoinPath("v1/apps", app, "notifications"), contentType: "application/json", scheme: "Bearer", key: g.Key}
			if g.Batch > 1 || g.Stream {
				r.url, r.contentType = r.url.JoinPath("batch"), "application/x-ndjson"
			}
			if g.Async {
				r.prefer = "respond-async"
			}
			requests = append(requests, r)
		}
		return requests, nil
	case "gorush":
		return gorushAPI{httpRequest{url: base.JoinPath("api/push"), contentType: "application/json", scheme: "Bearer", key: g.Key}}, nil
	case "pushsphere":
		if g.Batch > 1 {
			return nil, fmt.Errorf("pushsphere's API has one notification per call: batch must be 1")
		}
		return pushsphereAPI{httpRequest{url: base.JoinPath("api/v1", g.Apps[0], "send"), contentType: "application/json", scheme: "bearer", key: g.Key}}, nil
	default:
		return nil, fmt.Errorf("API %q is unknown (allowed: sluice, gorush, pushsphere)", g.API)
	}
}

// httpRequest holds the parts that all requests have in common.
type httpRequest struct {
	url         *url.URL
	contentType string
	scheme      string // of the Authorization header; Pushsphere compares it case-sensitively
	key         string
	prefer      string // header field; may be empty
}

// appendHeader appends the request line and header, with space for the content length. It returns
// the offset of the body.
func (p *httpRequest) appendHeader(b []byte) ([]byte, int) {
	b = append(p.appendFields(b), "\r\nContent-Length: 0000000000\r\n\r\n"...)
	return b, len(b)
}

// appendFields appends the request line and the header fields that all requests have.
func (p *httpRequest) appendFields(b []byte) []byte {
	b = append(b, "POST "...)
	b = append(b, p.url.RequestURI()...)
	b = append(b, " HTTP/1.1\r\nHost: "...)
	b = append(b, p.url.Host...)
	b = append(b, "\r\nContent-Type: "...)
	b = append(b, p.contentType...)
	if p.key != "" {
		b = append(b, "\r\nAuthorization: "...)
		b = append(b, p.scheme...)
		b = append(b, ' ')
		b = append(b, p.key...)
	}
	if p.prefer != "" {
		b = append(append(b, "\r\nPrefer: "...), p.prefer...)
	}
	return b
}

// setLength writes the content length. body is the offset that appendHeader returned.
func (p *httpRequest) setLength(b []byte, body int) []byte {
	digits := strconv.AppendInt(nil, int64(len(b)-body), 10)
	copy(b[body-len("\r\n\r\n")-len(digits):], digits)
	return b
}

// sluiceAPI is the API of this gateway, with one request for each app.
type sluiceAPI []httpRequest

func (s sluiceAPI) appendRequest(b []byte, add appendFunc, first, n int) []byte {
	request := &s[first/n%len(s)]
	b, body := request.appendHeader(b)
	for i := range n {
		b = add(b, first+i)
		if n > 1 {
			b = append(b, '\n')
		}
	}
	return request.setLength(b, body)
}

// readResponse reads a receipt, one receipt per line, or a problem that may contain a receipt.
func (s sluiceAPI) readResponse(p *parser, status int, body *body, n int, emit emitFunc) error {
	if !s.isBatch() || status != 200 && status != 202 {
		text, err := body.readAll()
		if err != nil {
			return err
		}
		r, err := p.parseResponse(status, text)
		if err != nil {
			return err
		}
		return emitAll(n, emit, r)
	}
	for {
		line, err := body.readLine()
		if err == io.EOF {
			return nil
		}
		if err != nil {
			return err
		}
		r, err := p.parseReceipt(line)
		if err == nil {
			err = emit(r)
		}
		if err != nil {
			return err
		}
	}
}

// isBatch reports whether the calls are for batches, with a receipt per line.
func (s sluiceAPI) isBatch() bool { return s[0].contentType == "application/x-ndjson" }

// gorushAPI is the API of appleboy/gorush, POST /api/push, as described in its README. With sync:
// true, gorush responds after the providers have and lists the failures.
type gorushAPI struct{ httpRequest }

func (g gorushAPI) appendRequest(b []byte, add appendFunc, first, n int) []byte {
	b, body := g.appendHeader(b)
	b = append(b, `{"notifications":[`...)
	for i := range n {
		if i > 0 {
			b = append(b, ',')
		}
		b = add(b, first+i)
	}
	b = append(b, "]}"...)
	return g.setLength(b, body)
}

func (gorushAPI) readResponse(_ *parser, status int, body *body, n int, emit emitFunc) error {
	text, err := body.readAll()
	if err != nil {
		return err
	}
	var result struct {
		Logs []struct{ Type, Error string }
	}
	if status != 200 || json.Unmarshal(text, &result) != nil {
		return emitAll(n, emit, &Result{Index: noIndex, Status: Rejected, Reason: fmt.Sprintf("HTTP %d", status)})
	}
	failed := 0
	for _, l := range result.Logs {
		if l.Type == "failed-push" && failed < n {
			failed++
			if err := emit(&Result{Index: noIndex, Status: "failed", Reason: l.Error}); err != nil {
				return err
			}
		}
	}
	return emitAll(n-failed, emit, &Result{Index: noIndex, Status: Accepted})
}

// pushsphereAPI is the API of line/pushsphere, POST /api/v1/GROUP/SET/send, as described in its
// source. The request is a PushRequest, the response a PushResult.
type pushsphereAPI struct{ httpRequest }

func (s pushsphereAPI) appendRequest(b []byte, add appendFunc, first, _ int) []byte {
	b, body := s.appendHeader(b)
	return s.setLength(add(b, first), body)
}

func (pushsphereAPI) readResponse(_ *parser, status int, body *body, n int, emit emitFunc) error {
	text, err := body.readAll()
	if err != nil {
		return err
	}
	var result struct{ Status, Reason string }
	if json.Unmarshal(text, &result) != nil || result.Status == "" {
		return emitAll(n, emit, &Result{Index: noIndex, Status: Rejected, Reason: fmt.Sprintf("HTTP %d", status)})
	}
	name, ok := map[string]string{
		"SUCCESS": Accepted, "DEVICE_UNREGISTERED": "unregistered", "INVALID_REQUEST": "refused", "TOO_LARGE_PAYLOAD": "refused",
		"QUOTA_EXCEEDED": "throttled", "UNAVAILABLE": "unavailable", "AUTH_FAILURE": "unauthorized",
	}[result.Status]
	if !ok {
		name = "failed"
	}
	return emitAll(n, emit, &Result{Index: noIndex, Status: name, Reason: result.Reason})
}

func emitAll(n int, emit emitFunc, r *Result) (err error) {
	for i := 0; i < n && err == nil; i++ {
		err = emit(r)
	}
	return err
}
