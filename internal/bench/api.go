// SPDX-License-Identifier: Apache-2.0

package bench

import (
	"bytes"
	"cmp"
	"encoding/json"
	"fmt"
	"io"
	"net/url"
	"strconv"
)

// api is an API under test.
type api interface {
	// translate converts a notification of the mix to the format of this API.
	translate(notification json.RawMessage) (json.RawMessage, error)
	// appendRequest appends a complete request with n notifications, numbered from first.
	appendRequest(b []byte, mix *compiledMix, first, n int) []byte
	// readResponse reads a response and calls emit with each verdict. A complete response has n
	// verdicts.
	readResponse(p *parser, status int, body *body, n int, emit func(*verdict)) error
}

func newAPI(c *Config) (api, error) {
	base, err := url.Parse(c.URL)
	if err != nil {
		return nil, err
	}
	if base.Path == "" {
		base.Path = "/" // JoinPath does not add a leading slash
	}
	switch c.API {
	case "sluice":
		var requests sluiceAPI
		for _, app := range c.Apps {
			path := base.JoinPath("v1/apps", app, "notifications")
			contentType := "application/json"
			if c.Batch > 1 {
				path, contentType = path.JoinPath("batch"), "application/x-ndjson"
			}
			requests = append(requests, httpRequest{path, contentType, "Bearer", c.Key})
		}
		return requests, nil
	case "gorush":
		return gorushAPI{httpRequest{base.JoinPath("api/push"), "application/json", "Bearer", c.Key}, c.Topic}, nil
	case "pushsphere":
		if c.Batch > 1 {
			return nil, fmt.Errorf("bench: pushsphere's API has one notification per call: batch must be 1")
		}
		return pushsphereAPI{httpRequest{base.JoinPath("api/v1", c.Apps[0], "send"), "application/json", "bearer", c.Key}}, nil
	default:
		return nil, fmt.Errorf("bench: API %q is unknown (allowed: sluice, gorush, pushsphere)", c.API)
	}
}

// httpRequest holds the parts that all requests have in common.
type httpRequest struct {
	url         *url.URL
	contentType string
	scheme      string // of the Authorization header; Pushsphere compares it case-sensitively
	key         string
}

// appendHeader appends the request line and header, with space for the content length. It returns
// the offset of the body.
func (p *httpRequest) appendHeader(b []byte) ([]byte, int) {
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
	b = append(b, "\r\nContent-Length: 0000000000\r\n\r\n"...)
	return b, len(b)
}

// setLength writes the content length. body is the offset that appendHeader returned.
func (p *httpRequest) setLength(b []byte, body int) []byte {
	digits := strconv.AppendInt(nil, int64(len(b)-body), 10)
	copy(b[body-len("\r\n\r\n")-len(digits):], digits)
	return b
}

// sluiceAPI is the API of this gateway, with one request for each app.
type sluiceAPI []httpRequest

func (sluiceAPI) translate(n json.RawMessage) (json.RawMessage, error) { return n, nil }

func (s sluiceAPI) appendRequest(b []byte, mix *compiledMix, first, n int) []byte {
	request := &s[first/n%len(s)]
	b, body := request.appendHeader(b)
	for i := range n {
		b = mix.append(b, first+i)
		if n > 1 {
			b = append(b, '\n')
		}
	}
	return request.setLength(b, body)
}

// readResponse reads a receipt, one receipt per line, or a problem that may contain a receipt.
func (sluiceAPI) readResponse(p *parser, status int, body *body, n int, emit func(*verdict)) error {
	if n == 1 || status != 200 {
		text, err := body.readAll()
		if err != nil {
			return err
		}
		v, err := p.parseResponse(status, text)
		for range n {
			if err == nil {
				emit(v)
			}
		}
		return err
	}
	for {
		line, err := body.readLine()
		if err == io.EOF {
			return nil
		}
		if err != nil {
			return err
		}
		v, err := p.parseReceipt(line)
		if err != nil {
			return err
		}
		emit(v)
	}
}

// commonNotification holds the members that the other APIs support.
type commonNotification struct {
	Platform, Token, Title, Body string
	APNs                         struct{ Headers map[string]string }
}

// readCommon parses a notification of the mix for another API.
func readCommon(n json.RawMessage) (p commonNotification, err error) {
	if err = json.Unmarshal(n, &p); err == nil && (p.Token == "" || p.Platform != "apns" && p.Platform != "fcm") {
		err = fmt.Errorf("this API supports only notifications to a device token with the platform apns or fcm: %s", n)
	}
	return p, err
}

// gorushAPI is the API of appleboy/gorush, POST /api/push, as described in its README. With sync:
// true, gorush responds after the providers have and lists the failures.
type gorushAPI struct {
	httpRequest
	topic string
}

func (g gorushAPI) translate(n json.RawMessage) (json.RawMessage, error) {
	p, err := readCommon(n)
	topic := cmp.Or(p.APNs.Headers["apns-topic"], g.topic)
	return mustJSON(map[string]any{
		"tokens": []string{p.Token}, "platform": map[string]int{"apns": 1, "fcm": 2}[p.Platform], "title": p.Title, "message": p.Body, "topic": topic,
	}), err
}

func (g gorushAPI) appendRequest(b []byte, mix *compiledMix, first, n int) []byte {
	b, body := g.appendHeader(b)
	b = append(b, `{"notifications":[`...)
	for i := range n {
		if i > 0 {
			b = append(b, ',')
		}
		b = mix.append(b, first+i)
	}
	b = append(b, "]}"...)
	return g.setLength(b, body)
}

func (gorushAPI) readResponse(_ *parser, status int, body *body, n int, emit func(*verdict)) error {
	text, err := body.readAll()
	if err != nil {
		return err
	}
	var result struct {
		Logs []struct{ Type, Error string }
	}
	if status != 200 || json.Unmarshal(text, &result) != nil {
		return emitAll(n, emit, &verdict{status: statusRejected, reason: fmt.Sprintf("HTTP %d", status)})
	}
	failed := 0
	for _, l := range result.Logs {
		if l.Type == "failed-push" && failed < n {
			failed++
			emit(&verdict{status: "failed", reason: l.Error})
		}
	}
	return emitAll(n-failed, emit, &verdict{status: statusAccepted})
}

// pushsphereAPI is the API of line/pushsphere, POST /api/v1/GROUP/SET/send, as described in its
// source. The request is a PushRequest, the response a PushResult.
type pushsphereAPI struct{ httpRequest }

func (pushsphereAPI) translate(n json.RawMessage) (json.RawMessage, error) {
	p, err := readCommon(n)
	return mustJSON(map[string]any{
		"provider": map[string]string{"apns": "APPLE", "fcm": "FIREBASE"}[p.Platform], "deviceToken": p.Token,
		"push": map[string]string{"title": p.Title, "body": p.Body},
	}), err
}

func (s pushsphereAPI) appendRequest(b []byte, mix *compiledMix, first, _ int) []byte {
	b, body := s.appendHeader(b)
	return s.setLength(mix.append(b, first), body)
}

func (pushsphereAPI) readResponse(_ *parser, status int, body *body, n int, emit func(*verdict)) error {
	text, err := body.readAll()
	if err != nil {
		return err
	}
	var result struct{ Status, Reason string }
	if json.Unmarshal(text, &result) != nil || result.Status == "" {
		return emitAll(n, emit, &verdict{status: statusRejected, reason: fmt.Sprintf("HTTP %d", status)})
	}
	name, ok := map[string]string{
		"SUCCESS": statusAccepted, "DEVICE_UNREGISTERED": "unregistered", "INVALID_REQUEST": "refused", "TOO_LARGE_PAYLOAD": "refused",
		"QUOTA_EXCEEDED": "throttled", "UNAVAILABLE": "unavailable", "AUTH_FAILURE": "unauthorized",
	}[result.Status]
	if !ok {
		name = "failed"
	}
	return emitAll(n, emit, &verdict{status: name, reason: result.Reason})
}

func emitAll(n int, emit func(*verdict), v *verdict) error {
	for range n {
		emit(v)
	}
	return nil
}

// mustJSON encodes v, which must be a map of strings and numbers.
func mustJSON(v any) json.RawMessage {
	var b bytes.Buffer
	encoder := json.NewEncoder(&b)
	encoder.SetEscapeHTML(false)
	if err := encoder.Encode(v); err != nil {
		panic(err)
	}
	return bytes.TrimSpace(b.Bytes())
}
