// SPDX-License-Identifier: Apache-2.0

package h2_test

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"slices"
	"testing"
	"time"

	"golang.org/x/net/http2"

	"github.com/sluice-push/sluice/mockprovider/h2"
	"github.com/sluice-push/sluice/mockprovider/h2/h2test"
)

func TestRequestReachesTheHandler(t *testing.T) {
	var got h2.Request
	h := &handler{decide: func(r *h2.Request) h2.Decision {
		got = *r
		got.Header, got.Body = slices.Clone(r.Header), bytes.Clone(r.Body)
		resp := h2.Response{Status: 201, Body: []byte("body")}
		resp.AddRetryAfter(1500 * time.Millisecond)
		return h2.Decision{Response: resp, Processed: true}
	}}
	client, _ := open(t, many, h)
	client.Request("hello", fields("/x", "authorization", "Bearer  secret", "apns-id", "")...)
	r := client.Response()
	if r.Status != 201 || r.Body != "body" || r.Fields["retry-after"] != "2" || fmt.Sprint(r.Frames) != "[HEADERS(END_HEADERS) DATA(END_STREAM)]" {
		t.Errorf("got %+v", r)
	}
	if got.Method != "POST" || got.Path != "/x" || got.Authority != "mock.example" || string(got.Body) != "hello" || got.TooLong {
		t.Errorf("the handler got %+v", got)
	}
	if !got.Has("apns-id") || got.Has("apns-topic") {
		t.Error("Has is wrong about an empty or missing field")
	}
	for scheme, want := range map[string]string{"bearer": "secret", "basic": "", "bear": ""} {
		if credential, ok := got.Credential(scheme); credential != want || ok != (want != "") {
			t.Errorf("credential %q: got %q, %v", scheme, credential, ok)
		}
	}
	client.Ping()
	h.wantRecords(t, `1 /x "" true true`)
}

func TestBodyBeyondTheWindowIsAFlowControlError(t *testing.T) {
	client, _ := open(t, many, &handler{})
	id := client.Headers(false, fields("/x")...)
	for range 5 {
		client.Must(client.Frames.WriteData(id, false, make([]byte, 16000)))
	}
	if r := client.Response(); r.Stream != id || r.Code != http2.ErrCodeFlowControl {
		t.Errorf("got %+v", r)
	}
}

func TestClientWithoutPrefaceIsDisconnected(t *testing.T) {
	h := &handler{}
	client, _ := connect(t, many, h)
	_, err := client.TLS.Write([]byte("POST /3/device/00 HTTP/1.1\r\nHost: api.push.apple.com\r\n\r\n"))
	client.Must(err)
	if got, _ := io.ReadAll(client.TLS); len(got) != 0 {
		t.Errorf("the server sent %q", got)
	}
}

func TestBodyWaitsForWindow(t *testing.T) {
	h := &handler{decide: func(*h2.Request) h2.Decision {
		return h2.Decision{Response: h2.Response{Status: 400, Body: []byte("a long body")}, Processed: true}
	}}
	client, _ := connect(t, many, h)
	client.Preface(http2.Setting{ID: http2.SettingInitialWindowSize, Val: 0})
	id := client.Request("", fields("/x")...)
	client.Ping()
	h.wantRecords(t)
	var body string
	for _, window := range []uint32{6, 100} {
		client.Must(client.Frames.WriteWindowUpdate(id, window))
		for read := len(body); len(body) == read; {
			if f, ok := client.Read().(*http2.DataFrame); ok {
				body += string(f.Data())
			}
		}
	}
	if body != "a long body" {
		t.Errorf("got %q", body)
	}
	client.Ping()
	h.wantRecords(t, `1 /x "" true true`)
}

func TestInvalidRequestIsAStreamError(t *testing.T) {
	client, _ := open(t, many, &handler{})
	for name, fields := range map[string][]string{
		"upper case":      fields("/", "Apns-Topic", "x"),
		"connection":      fields("/", "connection", "close"),
		"no path":         {":method", "POST", ":scheme", "https", ":authority", "a"},
		"no authority":    {":method", "POST", ":scheme", "https", ":path", "/"},
		"late pseudo":     {":method", "POST", ":scheme", "https", ":authority", "a", "x", "y", ":path", "/"},
		"wrong length":    fields("/", "content-length", "5"),
		"unknown pseudo":  {":method", "POST", ":scheme", "https", ":authority", "a", ":path", "/", ":status", "200"},
		"repeated pseudo": {":method", "POST", ":method", "POST", ":scheme", "https", ":authority", "a", ":path", "/"},
	} {
		client.Headers(true, fields...)
		if r := client.Response(); r.Code != http2.ErrCodeProtocol {
			t.Errorf("%s: got %+v", name, r)
		}
	}
	client.Request("x", fields("/")...)
	if r := client.Response(); r.Status != 200 {
		t.Errorf("the next request: got %+v", r)
	}
}

func TestConnectionErrorIsExplainedByGoAway(t *testing.T) {
	for name, c := range map[string]struct {
		code http2.ErrCode
		send func(*h2test.Client) error
	}{
		"even stream": {http2.ErrCodeProtocol, func(c *h2test.Client) error { c.Next = 2; c.Request("", fields("/")...); return nil }},
		"old stream": {http2.ErrCodeProtocol, func(c *h2test.Client) error {
			c.Next = 5
			c.Request("", fields("/")...)
			c.Next = 3
			c.Request("", fields("/")...)
			return nil
		}},
		"data on idle":  {http2.ErrCodeProtocol, func(c *h2test.Client) error { return c.Frames.WriteData(7, true, nil) }},
		"reset of idle": {http2.ErrCodeProtocol, func(c *h2test.Client) error { return c.Frames.WriteRSTStream(7, 0) }},
		"bad compression": {http2.ErrCodeCompression, func(c *h2test.Client) error {
			c.HeaderBlock(false, []byte{0xff, 0xff, 0xff, 0xff, 0x0f})
			return nil
		}},
		"huge frame": {http2.ErrCodeFrameSize, func(c *h2test.Client) error { return c.Frames.WriteRawFrame(0x77, 0, 0, make([]byte, 1<<15)) }},
		"push promise": {http2.ErrCodeProtocol, func(c *h2test.Client) error {
			return c.Frames.WritePushPromise(http2.PushPromiseParam{StreamID: 1, PromiseID: 2, EndHeaders: true})
		}},
		"window overflow":  {http2.ErrCodeFlowControl, func(c *h2test.Client) error { return c.Frames.WriteWindowUpdate(0, 1<<31-1) }},
		"headers too long": {http2.ErrCodeEnhanceYourCalm, sendEndlessHeaders},
	} {
		t.Run(name, func(t *testing.T) {
			client, _ := open(t, many, &handler{})
			client.Must(c.send(client))
			goAway, _, err := client.ReadToEnd()
			if goAway == nil || goAway.ErrCode != c.code || !errors.Is(err, io.EOF) {
				t.Fatalf("got %+v, %v; want %v", goAway, err, c.code)
			}
		})
	}
}

// sendEndlessHeaders sends a long header block without an end.
func sendEndlessHeaders(c *h2test.Client) error {
	if err := c.Frames.WriteHeaders(http2.HeadersFrameParam{StreamID: 1, BlockFragment: bytes.Repeat([]byte{0x82}, 10)}); err != nil {
		return err
	}
	for range 8 {
		if err := c.Frames.WriteContinuation(1, false, bytes.Repeat([]byte{0x82}, 10<<10)); err != nil {
			return nil // the server has closed the connection
		}
	}
	return nil
}

func TestTrailersEndARequest(t *testing.T) {
	client, _ := open(t, many, &handler{})
	id := client.Headers(false, fields("/")...)
	client.Must(client.Frames.WriteData(id, false, []byte("hello")))
	client.Must(client.Frames.WriteHeaders(http2.HeadersFrameParam{
		StreamID: id, BlockFragment: client.Encode("x-sum", "1"), EndHeaders: true, EndStream: true,
	}))
	if r := client.Response(); r.Status != 200 {
		t.Fatalf("got %+v", r)
	}
}

func TestSilentConnectionAcknowledgesNothing(t *testing.T) {
	h := &handler{silent: true}
	client, _ := connect(t, many, h)
	client.Open()
	client.Must(client.Frames.WritePing(false, [8]byte{1}))
	client.Request("", fields("/")...)
	for {
		f, err := client.Frames.ReadFrame()
		client.Must(err)
		switch f := f.(type) {
		case *http2.PingFrame:
			t.Fatalf("got %v", f)
		case *http2.SettingsFrame:
			if f.IsAck() {
				t.Fatalf("got %v", f)
			}
		case *http2.HeadersFrame:
			return
		}
	}
}

func TestCancelledRequestIsRecorded(t *testing.T) {
	h := &handler{decide: func(*h2.Request) h2.Decision {
		return h2.Decision{Response: h2.Response{Status: 200}, Processed: true, Delay: time.Hour}
	}}
	client, _ := open(t, many, h)
	id := client.Request("", fields("/whole")...)
	part := client.Headers(false, fields("/part")...)
	client.Must(client.Frames.WriteRSTStream(id, http2.ErrCodeCancel))
	client.Must(client.Frames.WriteRSTStream(part, http2.ErrCodeCancel))
	client.Ping()
	h.wantRecords(t, `1 /whole "client reset" true false`, `3 /part "client reset" false false`)
}

func TestOpenRequestsAreRecordedAtTheEnd(t *testing.T) {
	h := &handler{decide: func(*h2.Request) h2.Decision { return h2.Decision{Silent: true, Processed: true, Fault: "drop"} }}
	client, s := open(t, many, h)
	client.Request("", fields("/whole")...)
	client.Headers(false, fields("/part")...)
	client.Ping()
	_ = client.Raw.Close()
	<-s.done
	h.wantRecords(t, `1 /whole "drop" true false`, `3 /part "closed" false false`)
}
