// SPDX-License-Identifier: Apache-2.0

// Package h2test is an HTTP/2 client that sends single frames, for tests of an HTTP/2 server. It does
// not prevent violations of the protocol, so that tests can make them.
package h2test

import (
	"bytes"
	"crypto/tls"
	"net"
	"strconv"
	"testing"
	"time"

	"golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"
)

// Client is one connection to a server. It fails its test on every unexpected error.
type Client struct {
	T      testing.TB
	Raw    net.Conn
	TLS    *tls.Conn
	Frames *http2.Framer
	// Next is the ID of the next stream.
	Next uint32
	// Limits holds every MAX_CONCURRENT_STREAMS that the server has announced.
	Limits []uint32

	dec *hpack.Decoder
	enc *hpack.Encoder
	buf bytes.Buffer // output of enc
}

// Dial connects to addr. The TLS handshake happens with the first read or write.
func Dial(t testing.TB, addr string, config *tls.Config) *Client {
	t.Helper()
	raw, err := net.Dial("tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = raw.Close() })
	_ = raw.SetDeadline(time.Now().Add(time.Minute))
	c := &Client{T: t, Raw: raw, TLS: tls.Client(raw, config), Next: 1, dec: hpack.NewDecoder(4096, nil)}
	c.Frames = http2.NewFramer(c.TLS, c.TLS)
	c.enc = hpack.NewEncoder(&c.buf)
	return c
}

// Must fails the test if err is not nil.
func (c *Client) Must(err error) {
	if err != nil {
		c.T.Helper() // not before: in a benchmark, it takes more time than the rest of a request
		c.T.Fatal(err)
	}
}

// Preface sends the connection preface and SETTINGS.
func (c *Client) Preface(settings ...http2.Setting) {
	c.T.Helper()
	_, err := c.TLS.Write([]byte(http2.ClientPreface))
	c.Must(err)
	c.Must(c.Frames.WriteSettings(settings...))
}

// Open sends the preface and waits for the SETTINGS of the server.
func (c *Client) Open(settings ...http2.Setting) {
	c.T.Helper()
	c.Preface(settings...)
	for len(c.Limits) == 0 {
		c.Read()
	}
}

// Read returns the next frame. It skips WINDOW_UPDATE and acknowledgements of SETTINGS, and
// acknowledges SETTINGS.
func (c *Client) Read() http2.Frame {
	c.T.Helper()
	f, err := c.TryRead()
	c.Must(err)
	return f
}

// TryRead is Read for a connection that may end.
func (c *Client) TryRead() (http2.Frame, error) {
	for {
		f, err := c.Frames.ReadFrame()
		if err != nil {
			return nil, err
		}
		switch f := f.(type) {
		case *http2.SettingsFrame:
			if f.IsAck() {
				continue
			}
			if n, ok := f.Value(http2.SettingMaxConcurrentStreams); ok {
				c.Limits = append(c.Limits, n)
			}
			_ = c.Frames.WriteSettingsAck()
		case *http2.WindowUpdateFrame:
			continue
		}
		return f, nil
	}
}

// Encode returns a header block with the fields, which are names and values in turn.
func (c *Client) Encode(fields ...string) []byte {
	var all []hpack.HeaderField
	for i := 0; i < len(fields); i += 2 {
		all = append(all, hpack.HeaderField{Name: fields[i], Value: fields[i+1]})
	}
	return c.EncodeFields(all...)
}

// EncodeFields returns a header block with the fields.
func (c *Client) EncodeFields(fields ...hpack.HeaderField) []byte {
	c.buf.Reset()
	for _, f := range fields {
		_ = c.enc.WriteField(f) // a bytes.Buffer returns no error
	}
	return c.buf.Bytes()
}

// Headers sends HEADERS on a new stream and returns its ID.
func (c *Client) Headers(end bool, fields ...string) uint32 {
	c.T.Helper()
	return c.HeaderBlock(end, c.Encode(fields...))
}

// HeaderBlock is Headers for an encoded header block.
func (c *Client) HeaderBlock(end bool, block []byte) uint32 {
	id := c.Next
	c.Next += 2
	if err := c.Frames.WriteHeaders(http2.HeadersFrameParam{StreamID: id, BlockFragment: block, EndHeaders: true, EndStream: end}); err != nil {
		c.T.Helper()
		c.T.Fatal(err)
	}
	return id
}

// Request sends HEADERS, and DATA with the whole body.
func (c *Client) Request(body string, fields ...string) uint32 {
	c.T.Helper()
	id := c.Headers(false, fields...)
	c.Must(c.Frames.WriteData(id, true, []byte(body)))
	return id
}

// Response is a response, or a reset of its stream.
type Response struct {
	Stream uint32
	Status int
	Fields map[string]string
	Body   string
	Frames []string      // for instance "HEADERS(END_HEADERS,END_STREAM)"
	Code   http2.ErrCode // of RST_STREAM
}

// Response reads until a stream has ended. It does not support interleaved responses.
func (c *Client) Response() Response {
	c.T.Helper()
	var r Response
	for {
		switch f := c.Read().(type) {
		case *http2.HeadersFrame:
			r.Stream = f.StreamID
			fields, err := c.dec.DecodeFull(f.HeaderBlockFragment())
			c.Must(err)
			r.Fields = map[string]string{}
			for _, field := range fields {
				r.Fields[field.Name] = field.Value
			}
			r.Status, _ = strconv.Atoi(r.Fields[":status"])
			r.Frames = append(r.Frames, describe("HEADERS", f.HeadersEnded(), f.StreamEnded()))
			if f.StreamEnded() {
				return r
			}
		case *http2.DataFrame:
			r.Body += string(f.Data())
			r.Frames = append(r.Frames, describe("DATA", false, f.StreamEnded()))
			if f.StreamEnded() {
				return r
			}
		case *http2.RSTStreamFrame:
			return Response{Stream: f.StreamID, Code: f.ErrCode, Frames: []string{"RST_STREAM"}}
		}
	}
}

func describe(name string, headersEnded, streamEnded bool) string {
	switch {
	case headersEnded && streamEnded:
		return name + "(END_HEADERS,END_STREAM)"
	case headersEnded:
		return name + "(END_HEADERS)"
	case streamEnded:
		return name + "(END_STREAM)"
	}
	return name
}

// ReadToEnd reads until the connection has ended. It returns the last GOAWAY with its debug data, if
// there was one, and the error of the last read.
func (c *Client) ReadToEnd() (goAway *http2.GoAwayFrame, debug string, err error) {
	for {
		f, err := c.TryRead()
		if err != nil {
			return goAway, debug, err
		}
		if f, ok := f.(*http2.GoAwayFrame); ok {
			frame := *f
			goAway, debug = &frame, string(f.DebugData())
		}
	}
}

// Ping sends PING and reads until its acknowledgement.
func (c *Client) Ping() {
	c.T.Helper()
	c.Must(c.Frames.WritePing(false, [8]byte{1}))
	for {
		if f, ok := c.Read().(*http2.PingFrame); ok && f.IsAck() {
			return
		}
	}
}
