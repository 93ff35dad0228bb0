// SPDX-License-Identifier: Apache-2.0

package h2_test

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/net/http2"

	"github.com/sluice-push/sluice/internal/testwait"
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

func TestBodyBeyondTheWindowIsCut(t *testing.T) {
	for _, length := range []int{h2.MaxBody, h2.MaxBody + 1, 1 << 20} {
		var got *h2.Request
		h := &handler{decide: func(r *h2.Request) h2.Decision {
			got = &h2.Request{Body: bytes.Clone(r.Body), TooLong: r.TooLong}
			return h2.Decision{Response: h2.Response{Status: 413}, Processed: true}
		}}
		client, _ := open(t, many, h)
		id := client.Headers(false, fields("/x", "content-length", strconv.Itoa(length))...)
		for sent := 0; sent < h2.MaxBody; {
			n := min(16384, h2.MaxBody-sent)
			sent += n
			client.Must(client.Frames.WriteData(id, sent == length, make([]byte, n)))
		}
		if r := client.Response(); r.Stream != id || r.Status != 413 || got.TooLong != (length > h2.MaxBody) || len(got.Body) != h2.MaxBody {
			t.Errorf("%d bytes: got %+v, TooLong %t with %d bytes", length, r, got.TooLong, len(got.Body))
		}
		if length == h2.MaxBody {
			continue
		}
		if f, ok := client.Read().(*http2.RSTStreamFrame); !ok || f.StreamID != id || f.ErrCode != http2.ErrCodeNo {
			t.Errorf("%d bytes: got %v after the response", length, f)
		}
		client.Must(client.Frames.WriteData(id, true, nil))
		client.Ping()
		h.wantRecords(t, `1 /x "" true true`)
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

func TestBodyThatANewWindowAllowsFollowsTheAcknowledgement(t *testing.T) {
	h := &handler{decide: func(*h2.Request) h2.Decision {
		return h2.Decision{Response: h2.Response{Status: 400, Body: []byte("body")}, Processed: true}
	}}
	client, _ := connect(t, many, h)
	client.Open(http2.Setting{ID: http2.SettingInitialWindowSize, Val: 0})
	client.Request("", fields("/")...)
	client.Ping()
	client.Must(client.Frames.WriteSettings(http2.Setting{ID: http2.SettingInitialWindowSize, Val: 1}))
	for acknowledged := false; ; {
		f, err := client.Frames.ReadFrame()
		client.Must(err)
		if f, ok := f.(*http2.SettingsFrame); ok && f.IsAck() {
			acknowledged = true
		}
		if f, ok := f.(*http2.DataFrame); ok {
			if !acknowledged || string(f.Data()) != "b" || f.StreamEnded() {
				t.Errorf("acknowledged %t, got %v %q", acknowledged, f, f.Data())
			}
			return
		}
	}
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
		"data on idle": {http2.ErrCodeProtocol, func(c *h2test.Client) error { return c.Frames.WriteData(7, true, nil) }},
		"data on even": {http2.ErrCodeProtocol, func(c *h2test.Client) error {
			c.Request("", fields("/")...)
			c.Request("", fields("/")...)
			return c.Frames.WriteData(2, true, nil)
		}},
		"reset of idle":  {http2.ErrCodeProtocol, func(c *h2test.Client) error { return c.Frames.WriteRSTStream(7, 0) }},
		"window of idle": {http2.ErrCodeProtocol, func(c *h2test.Client) error { return c.Frames.WriteWindowUpdate(7, 1) }},
		"no increment, idle": {http2.ErrCodeProtocol, func(c *h2test.Client) error {
			return c.Frames.WriteRawFrame(http2.FrameWindowUpdate, 0, 7, make([]byte, 4))
		}},
		"bad compression": {http2.ErrCodeCompression, func(c *h2test.Client) error {
			c.HeaderBlock(false, []byte{0xff, 0xff, 0xff, 0xff, 0x0f})
			return nil
		}},
		"huge frame": {http2.ErrCodeFrameSize, func(c *h2test.Client) error { return c.Frames.WriteRawFrame(0x77, 0, 0, make([]byte, 1<<15)) }},
		"push promise": {http2.ErrCodeProtocol, func(c *h2test.Client) error {
			return c.Frames.WritePushPromise(http2.PushPromiseParam{StreamID: 1, PromiseID: 2, EndHeaders: true})
		}},
		"initial window overflow": {http2.ErrCodeFlowControl, func(c *h2test.Client) error {
			id := c.Headers(false, fields("/")...)
			if err := c.Frames.WriteWindowUpdate(id, 1); err != nil {
				return err
			}
			return c.Frames.WriteSettings(http2.Setting{ID: http2.SettingInitialWindowSize, Val: 1<<31 - 1})
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

// TestFramesOnClosedStreams checks the errors of RFC 9113, section 5.1, for frames on streams that the
// client has ended or reset.
func TestFramesOnClosedStreams(t *testing.T) {
	waiting := func(c *h2test.Client) uint32 { return c.Request("", fields("/wait")...) }
	answered := func(c *h2test.Client) uint32 {
		c.Request("", fields("/")...)
		return c.Response().Stream
	}
	reset := func(c *h2test.Client) uint32 {
		id := c.Headers(false, fields("/")...)
		c.Must(c.Frames.WriteRSTStream(id, http2.ErrCodeCancel))
		return id
	}
	data := func(c *h2test.Client, id uint32) error { return c.Frames.WriteData(id, true, []byte("x")) }
	headers := func(c *h2test.Client, id uint32) error {
		return c.Frames.WriteHeaders(http2.HeadersFrameParam{StreamID: id, BlockFragment: c.Encode("x-sum", "1"), EndHeaders: true, EndStream: true})
	}
	window := func(c *h2test.Client, id uint32) error { return c.Frames.WriteWindowUpdate(id, 1) }
	cancel := func(c *h2test.Client, id uint32) error { return c.Frames.WriteRSTStream(id, http2.ErrCodeCancel) }
	priority := func(c *h2test.Client, id uint32) error { return c.Frames.WritePriority(id, http2.PriorityParam{}) }
	for name, c := range map[string]struct {
		stream func(*h2test.Client) uint32
		frame  func(*h2test.Client, uint32) error
		want   string // frames that the server sends
	}{
		"data, half-closed":      {waiting, data, "RST_STREAM 1 STREAM_CLOSED, PING"},
		"headers, half-closed":   {waiting, headers, "RST_STREAM 1 STREAM_CLOSED, PING"},
		"window, half-closed":    {waiting, window, "PING"},
		"reset, half-closed":     {waiting, cancel, "PING"},
		"priority, half-closed":  {waiting, priority, "PING"},
		"data, answered":         {answered, data, "RST_STREAM 1 STREAM_CLOSED, PING"},
		"headers, answered":      {answered, headers, "GOAWAY PROTOCOL_ERROR"},
		"window, answered":       {answered, window, "PING"},
		"reset, answered":        {answered, cancel, "PING"},
		"priority, answered":     {answered, priority, "PING"},
		"data, after a reset":    {reset, data, "RST_STREAM 1 STREAM_CLOSED, PING"},
		"headers, after a reset": {reset, headers, "GOAWAY PROTOCOL_ERROR"},
		"window, after a reset":  {reset, window, "PING"},
		"reset, after a reset":   {reset, cancel, "PING"},
	} {
		t.Run(name, func(t *testing.T) {
			client, _ := open(t, many, &handler{decide: func(r *h2.Request) h2.Decision {
				return h2.Decision{Response: h2.Response{Status: 200}, Processed: true, Silent: r.Path == "/wait"}
			}})
			id := c.stream(client)
			client.Must(c.frame(client, id))
			if got := framesUntilPing(client); got != c.want {
				t.Errorf("got %s, want %s", got, c.want)
			}
		})
	}
}

// framesUntilPing sends PING and returns the frames that the server sends until the acknowledgement or
// a GOAWAY.
func framesUntilPing(c *h2test.Client) string {
	c.T.Helper()
	c.Must(c.Frames.WritePing(false, [8]byte{}))
	var all []string
	for {
		switch f := c.Read().(type) {
		case *http2.RSTStreamFrame:
			all = append(all, fmt.Sprintf("RST_STREAM %d %v", f.StreamID, f.ErrCode))
		case *http2.GoAwayFrame:
			return strings.Join(append(all, fmt.Sprintf("GOAWAY %v", f.ErrCode)), ", ")
		case *http2.PingFrame:
			return strings.Join(append(all, "PING"), ", ")
		default:
			all = append(all, f.Header().Type.String())
		}
	}
}

// TestFramesAfterAResetOfTheServerAreIgnored checks that a client may send frames on a stream that it
// does not yet know to be closed, and none after it has ended the stream.
func TestFramesAfterAResetOfTheServerAreIgnored(t *testing.T) {
	for name, more := range map[string][]string{"malformed": {"connection", "close"}, "refused": nil, "after goaway": nil} {
		t.Run(name, func(t *testing.T) {
			client, s := open(t, h2.Config{Streams: h2.Streams{Start: 1, Max: 1}}, &handler{decide: func(*h2.Request) h2.Decision {
				return h2.Decision{Silent: true}
			}})
			if more == nil {
				client.Request("", fields("/first")...)
			}
			if name == "after goaway" {
				client.Ping()
				s.conn.GoAway(h2.GoAway{})
				client.Read()
			}
			id := client.Headers(false, fields("/", more...)...)
			client.Must(client.Frames.WriteData(id, false, []byte("x")))
			client.Must(client.Frames.WriteData(id, false, []byte("x")))
			client.Must(client.Frames.WriteHeaders(http2.HeadersFrameParam{
				StreamID: id, BlockFragment: client.Encode("x-sum", "1"), EndHeaders: true, EndStream: true,
			}))
			want := map[string]string{"malformed": "RST_STREAM 1 PROTOCOL_ERROR, PING", "refused": "RST_STREAM 3 REFUSED_STREAM, PING", "after goaway": "PING"}[name]
			if got := framesUntilPing(client); got != want {
				t.Errorf("got %s, want %s", got, want)
			}
			client.Must(client.Frames.WriteData(id, true, []byte("x")))
			if got, want := framesUntilPing(client), fmt.Sprintf("RST_STREAM %d STREAM_CLOSED, PING", id); got != want {
				t.Errorf("after the end: got %s, want %s", got, want)
			}
		})
	}
}

func TestInvalidTrailersAreAStreamError(t *testing.T) {
	client, _ := open(t, many, &handler{})
	for name, c := range map[string]struct {
		end    bool
		fields []string
	}{"no end of stream": {false, []string{"x-sum", "1"}}, "pseudo field": {true, []string{":path", "/"}}, "upper case": {true, []string{"X-Sum", "1"}}} {
		id := client.Headers(false, fields("/")...)
		client.Must(client.Frames.WriteHeaders(http2.HeadersFrameParam{StreamID: id, BlockFragment: client.Encode(c.fields...), EndHeaders: true, EndStream: c.end}))
		if r := client.Response(); r.Stream != id || r.Code != http2.ErrCodeProtocol {
			t.Errorf("%s: got %+v", name, r)
		}
	}
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
	testwait.For(t, s.done, "the end of the connection")
	h.wantRecords(t, `1 /whole "drop" true false`, `3 /part "closed" false false`)
}
