// SPDX-License-Identifier: Apache-2.0

package wire

import (
	"strconv"

	"golang.org/x/net/http/httpguts"
	"golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"
)

// maxHeaderFrames is the maximum number of frames in one header block. The largest header list that
// a Conn accepts needs two; a block without end is an attack (RFC 9113 §10.5.1).
const maxHeaderFrames = 16

// headerBlock is the header block that is being decoded.
type headerBlock struct {
	decoder   *hpack.Decoder
	stream    uint32
	endStream bool // HEADERS carried END_STREAM
	frames    int
	// incomplete is set between the frames of a block. Only readLoop uses it.
	incomplete bool

	status        int // zero before :status
	contentLength int64
	fields        []Field
	listSize      int    // counted as in RFC 9113 §6.5.2
	invalid       string // why the block is malformed, or ""
}

func (b *headerBlock) reset(stream uint32, endStream bool) {
	*b = headerBlock{decoder: b.decoder, stream: stream, endStream: endStream, contentLength: -1, fields: b.fields[:0]}
}

// emit receives one decoded field. Fields beyond the size limit are still decoded, because the
// connection's streams share one HPACK table, and then dropped.
func (b *headerBlock) emit(f hpack.HeaderField) {
	b.listSize += int(f.Size())
	switch {
	case b.listSize > maxHeaderListSize || b.invalid != "":
	case f.IsPseudo():
		b.emitPseudo(f)
	case !isValidFieldName(f.Name) || !httpguts.ValidHeaderFieldValue(f.Value):
		b.invalid = "invalid byte in a header field (RFC 9113 §8.2.1)"
	default:
		b.emitRegular(f)
	}
}

func (b *headerBlock) emitPseudo(f hpack.HeaderField) {
	status, err := strconv.ParseUint(f.Value, 10, 16)
	switch {
	case f.Name != ":status" || len(b.fields) > 0 || b.status != 0:
		b.invalid = "unexpected pseudo-header field (RFC 9113 §8.3)"
	case err != nil || len(f.Value) != 3 || status < 100 || status == 101:
		b.invalid = "invalid :status (RFC 9113 §8.3.2, §8.6)"
	default:
		b.status = int(status)
	}
}

func (b *headerBlock) emitRegular(f hpack.HeaderField) {
	if f.Name == "content-length" {
		n, err := strconv.ParseUint(f.Value, 10, 62)
		if err != nil || b.contentLength >= 0 && b.contentLength != int64(n) {
			b.invalid = "invalid content-length"
			return
		}
		b.contentLength = int64(n)
	}
	b.fields = append(b.fields, Field{Name: f.Name, Value: f.Value, NeverIndexed: f.Sensitive})
}

// isValidFieldName reports whether s is a field name in lower case (RFC 9113 §8.2.1).
func isValidFieldName(s string) bool {
	for i := range len(s) {
		if !httpguts.IsTokenRune(rune(s[i])) || 'A' <= s[i] && s[i] <= 'Z' {
			return false
		}
	}
	return s != ""
}

// response copies the status and fields of the block, in one allocation for up to four fields.
func (b *headerBlock) response() *Response {
	r := &struct {
		Response
		fields [4]Field
	}{}
	r.Status = b.status
	r.Header = append(r.fields[:0:len(r.fields)], b.fields...)
	return &r.Response
}

// handleHeaderFragment decodes a part of a header block. Every block is decoded, even for a stream
// that has ended, because all streams share one HPACK table (RFC 9113 §4.3).
func (c *Conn) handleHeaderFragment(fragment []byte, last bool) error {
	b := &c.block
	if b.frames++; b.frames > maxHeaderFrames {
		return protocolError{http2.ErrCodeEnhanceYourCalm, "header block has too many frames (RFC 9113 §10.5.1)"}
	}
	if _, err := b.decoder.Write(fragment); err != nil {
		return protocolError{http2.ErrCodeCompression, err.Error()}
	}
	if b.incomplete = !last; b.incomplete {
		return nil
	}
	if err := b.decoder.Close(); err != nil {
		return protocolError{http2.ErrCodeCompression, err.Error()}
	}
	return c.handleHeaders()
}

// handleHeaders handles a complete header block: an interim response, a final response, or trailers
// (RFC 9113 §8.1).
func (c *Conn) handleHeaders() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	b := &c.block
	s, err := c.findStream(b.stream, "HEADERS")
	if s == nil {
		return err
	}
	s.responded = true
	s.headersReceived += b.listSize
	switch {
	case s.headersReceived > maxHeaderListSize: // the peer must not send interim responses forever
		c.abortStream(s, http2.ErrCodeCancel, &Error{Reason: ResponseTooLarge, EndpointAtFault: true})
	case b.invalid != "":
		c.rejectResponse(s, b.invalid)
	case s.res != nil:
		c.handleTrailers(s)
	case b.status == 0:
		c.rejectResponse(s, "missing :status (RFC 9113 §8.3.2)")
	case b.status < 200 && b.endStream:
		c.rejectResponse(s, "interim response ends the stream (RFC 9113 §8.1)")
	case b.status >= 200:
		c.handleResponse(s)
	}
	return nil
}

// handleResponse handles the headers of the final response.
func (c *Conn) handleResponse(s *stream) {
	if c.serializeFirst {
		c.serializeFirst = false
		c.work.Signal()
		c.publish()
	}
	c.flood.responded()
	c.flood.advanced = true
	s.res = c.block.response()
	s.contentLength = c.block.contentLength
	if s.req.Method == "HEAD" || s.res.Status == 204 || s.res.Status == 304 {
		s.contentLength = -1 // it describes a body that is not sent (RFC 9110 §8.6)
	}
	if c.block.endStream {
		c.complete(s)
	}
}

// handleTrailers ends the response. The trailer fields themselves are ignored.
func (c *Conn) handleTrailers(s *stream) {
	if !c.block.endStream || c.block.status != 0 {
		c.rejectResponse(s, "second response on one stream (RFC 9113 §8.1)")
		return
	}
	c.flood.advanced = true
	c.complete(s)
}

func (c *Conn) handleData(f *http2.DataFrame) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	s, err := c.findStream(f.StreamID, "DATA")
	if err != nil {
		return err
	}
	c.consumeInflow(int(f.Length))
	c.flood.advanced = f.Length > 0 || f.StreamEnded() && s != nil
	if s == nil {
		return c.consumeLateInflow(int(f.Length))
	}
	s.responded = true
	s.bodyReceived += int(f.Length)
	switch {
	case s.res == nil:
		c.rejectResponse(s, "DATA before HEADERS (RFC 9113 §8.1)")
	case s.bodyReceived > c.cfg.MaxResponseBytes:
		c.abortStream(s, http2.ErrCodeCancel, &Error{Reason: ResponseTooLarge, EndpointAtFault: true})
	default:
		s.res.Body = append(s.res.Body, f.Data()...)
		if f.StreamEnded() {
			c.complete(s)
		}
	}
	return nil
}

// complete ends s with its response. A peer that responds before it has read the whole request does
// not need the rest (RFC 9113 §8.1).
func (c *Conn) complete(s *stream) {
	if s.contentLength >= 0 && s.contentLength != int64(len(s.res.Body)) {
		c.rejectResponse(s, "body length differs from content-length (RFC 9113 §8.1.1)")
		return
	}
	if !s.endSent {
		c.sendReset(s, http2.ErrCodeCancel)
	}
	c.finish(s)
}

// rejectResponse ends s because its response is malformed (RFC 9113 §8.1.1).
func (c *Conn) rejectResponse(s *stream, reason string) {
	s.res = nil
	c.abortStream(s, http2.ErrCodeProtocol, malformedResponse(reason))
}
