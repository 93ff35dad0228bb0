// SPDX-License-Identifier: Apache-2.0

package bench

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"net/url"
	"strconv"
)

// api is the API that is measured.
type api interface {
	// translate writes a notification of the mix as this API has it.
	translate(notification json.RawMessage) (json.RawMessage, error)
	// compose appends a whole request with the notifications from number first on.
	appendRequest(b []byte, p *compiledMix, first, n int) []byte
	// read reads an answer and tells the verdicts, one for each of the n notifications if all is well.
	readResponse(p *parser, status int, body *body, n int, tell func(*verdict)) error
}

func newAPI(c *Config) (api, error) {
	base, err := url.Parse(c.URL)
	if err != nil {
		return nil, err
	}
	if base.Path == "" {
		base.Path = "/" // JoinPath adds none
	}
	switch c.API {
	case "sluice":
		path := base.JoinPath("v1/apps", c.App, "notifications")
		media := "application/json"
		if c.Batch > 1 {
			path, media = path.JoinPath("batch"), "application/x-ndjson"
		}
		return sluiceAPI{httpRequest{path, media, c.Key}}, nil
	case "gorush":
		return gorushAPI{httpRequest{base.JoinPath("api/push"), "application/json", c.Key}}, nil
	case "pushsphere":
		if c.Batch > 1 {
			return nil, fmt.Errorf("bench: pushsphere's API takes one notification in a call: batch must be 1")
		}
		return pushsphereAPI{httpRequest{base.JoinPath("api/v1", c.App, "send"), "application/json", c.Key}}, nil
	default:
		return nil, fmt.Errorf("bench: API %q is unknown (allowed: sluice, gorush, pushsphere)", c.API)
	}
}

// httpRequest is what requests have in common.
type httpRequest struct {
	url         *url.URL
	contentType string
	key         string
}

// appendHeader appends the head of a request, with room for the length of its body, and returns where the body begins.
func (p *httpRequest) appendHeader(b []byte) ([]byte, int) {
	b = append(b, "POST "...)
	b = append(b, p.url.RequestURI()...)
	b = append(b, " HTTP/1.1\r\nHost: "...)
	b = append(b, p.url.Host...)
	b = append(b, "\r\nContent-Type: "...)
	b = append(b, p.contentType...)
	if p.key != "" {
		b = append(b, "\r\nAuthorization: Bearer "...)
		b = append(b, p.key...)
	}
	b = append(b, "\r\nContent-Length: 0000000000\r\n\r\n"...)
	return b, len(b)
}

// setLength enters the body's length.
func (p *httpRequest) setLength(b []byte, body int) []byte {
	digits := strconv.AppendInt(nil, int64(len(b)-body), 10)
	copy(b[body-4-len(digits):], digits)
	return b
}

// sluiceAPI is our own API.
type sluiceAPI struct{ httpRequest }

func (sluiceAPI) translate(n json.RawMessage) (json.RawMessage, error) { return n, nil }

func (s sluiceAPI) appendRequest(b []byte, p *compiledMix, first, n int) []byte {
	b, body := s.appendHeader(b)
	for i := range n {
		b = p.append(b, first+i)
		if n > 1 {
			b = append(b, '\n')
		}
	}
	return s.setLength(b, body)
}

// read reads a receipt, or a line for each; or a problem, which may have a receipt in it.
func (sluiceAPI) readResponse(p *parser, status int, body *body, n int, tell func(*verdict)) error {
	if n == 1 || status != 200 {
		text, err := body.readAll()
		if err != nil {
			return err
		}
		v, err := p.parseResponse(status, text)
		for range n {
			if err == nil {
				tell(v)
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
		tell(v)
	}
}

// commonNotification is what a peer's API can say of a notification.
type commonNotification struct {
	Platform, Token, Topic, Title, Body string
}

func readCommon(n json.RawMessage) (p commonNotification, err error) {
	if err = json.Unmarshal(n, &p); err == nil && (p.Token == "" || p.Platform != "apns" && p.Platform != "fcm") {
		err = fmt.Errorf("a peer's API takes notifications to the token of a device, with the platform apns or fcm: %s", n)
	}
	return p, err
}

// gorushAPI is appleboy/gorush, as its README describes POST /api/push: with sync: true, its answer waits for the providers'
// and lists the failures.
type gorushAPI struct{ httpRequest }

func (gorushAPI) translate(n json.RawMessage) (json.RawMessage, error) {
	p, err := readCommon(n)
	return mustJSON(map[string]any{
		"tokens": []string{p.Token}, "platform": map[string]int{"apns": 1, "fcm": 2}[p.Platform], "title": p.Title, "message": p.Body, "topic": p.Topic,
	}), err
}

func (g gorushAPI) appendRequest(b []byte, p *compiledMix, first, n int) []byte {
	b, body := g.appendHeader(b)
	b = append(b, `{"notifications":[`...)
	for i := range n {
		if i > 0 {
			b = append(b, ',')
		}
		b = p.append(b, first+i)
	}
	b = append(b, "]}"...)
	return g.setLength(b, body)
}

func (gorushAPI) readResponse(_ *parser, status int, body *body, n int, tell func(*verdict)) error {
	text, err := body.readAll()
	if err != nil {
		return err
	}
	var got struct {
		Logs []struct{ Type, Error string }
	}
	if status != 200 || json.Unmarshal(text, &got) != nil {
		return emitAll(n, tell, &verdict{status: statusRejected, reason: fmt.Sprintf("HTTP %d", status)})
	}
	failed := 0
	for _, l := range got.Logs {
		if l.Type == "failed-push" && failed < n {
			failed++
			tell(&verdict{status: "failed", reason: l.Error})
		}
	}
	return emitAll(n-failed, tell, &verdict{status: statusAccepted})
}

// pushsphereAPI is line/pushsphere, as its sources describe POST /api/v1/GROUP/SET/send: a PushRequest in, a PushResult out.
type pushsphereAPI struct{ httpRequest }

func (pushsphereAPI) translate(n json.RawMessage) (json.RawMessage, error) {
	p, err := readCommon(n)
	return mustJSON(map[string]any{
		"provider": map[string]string{"apns": "APPLE", "fcm": "FIREBASE"}[p.Platform], "deviceToken": p.Token,
		"push": map[string]string{"title": p.Title, "body": p.Body},
	}), err
}

func (s pushsphereAPI) appendRequest(b []byte, p *compiledMix, first, _ int) []byte {
	b, body := s.appendHeader(b)
	return s.setLength(p.append(b, first), body)
}

func (pushsphereAPI) readResponse(_ *parser, status int, body *body, n int, tell func(*verdict)) error {
	text, err := body.readAll()
	if err != nil {
		return err
	}
	var got struct{ Status, Reason string }
	if json.Unmarshal(text, &got) != nil || got.Status == "" {
		return emitAll(n, tell, &verdict{status: statusRejected, reason: fmt.Sprintf("HTTP %d", status)})
	}
	word, known := map[string]string{
		"SUCCESS": statusAccepted, "DEVICE_UNREGISTERED": "unregistered", "INVALID_REQUEST": "refused", "TOO_LARGE_PAYLOAD": "refused",
		"QUOTA_EXCEEDED": "throttled", "UNAVAILABLE": "unavailable", "AUTH_FAILURE": "unauthorized",
	}[got.Status]
	if !known {
		word = "failed"
	}
	return emitAll(n, tell, &verdict{status: word, reason: got.Reason})
}

func emitAll(n int, tell func(*verdict), v *verdict) error {
	for range n {
		tell(v)
	}
	return nil
}

// mustJSON writes maps of texts and numbers.
func mustJSON(v any) json.RawMessage {
	var b bytes.Buffer
	encoder := json.NewEncoder(&b)
	encoder.SetEscapeHTML(false)
	if err := encoder.Encode(v); err != nil {
		panic(err)
	}
	return bytes.TrimSpace(b.Bytes())
}
