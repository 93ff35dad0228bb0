// SPDX-License-Identifier: Apache-2.0

package h2

import (
	"strings"

	"golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"
)

// handle handles one frame.
func (c *Conn) handle(f http2.Frame) error {
	switch f := f.(type) {
	case *http2.HeadersFrame:
		return c.handleHeaders(f)
	case *http2.ContinuationFrame:
		return c.decode(f.HeaderBlockFragment(), f.HeadersEnded())
	case *http2.DataFrame:
		return c.handleData(f)
	case *http2.SettingsFrame:
		return c.handleSettings(f)
	case *http2.WindowUpdateFrame:
		return c.handleWindowUpdate(f)
	case *http2.PingFrame:
		c.handlePing(f)
	case *http2.RSTStreamFrame:
		return c.handleRSTStream(f)
	case *http2.PushPromiseFrame:
		return http2.ConnectionError(http2.ErrCodeProtocol)
	}
	return nil
}

// handleHeaders starts a request, or reads the trailers of one.
func (c *Conn) handleHeaders(f *http2.HeadersFrame) error {
	id := f.StreamID
	c.mu.Lock()
	open := c.streams[id]
	last := c.lastStream
	c.lastStream = max(last, id)
	c.mu.Unlock()
	switch {
	case open != nil && open.complete, open != nil && !f.StreamEnded():
		return http2.ConnectionError(http2.ErrCodeProtocol)
	case open != nil:
		c.reading = &stream{id: id, trailersOf: open}
	case id%2 == 0 || id <= last:
		return http2.ConnectionError(http2.ErrCodeProtocol)
	default:
		c.reading = c.newStream(id)
	}
	c.endsStream = f.StreamEnded()
	return c.decode(f.HeaderBlockFragment(), f.HeadersEnded())
}

// maxFields is the maximum size of a header list in bytes, by the count of RFC 9113.
const maxFields = 16 << 10

// decode decodes a part of a header block. It decodes the blocks of refused streams too, because all
// blocks of a connection share the compression state.
func (c *Conn) decode(fragment []byte, ended bool) error {
	st := c.reading
	if _, err := c.fields.Write(fragment); err != nil {
		return http2.ConnectionError(http2.ErrCodeCompression)
	}
	if st.blockSize += len(fragment); st.blockSize > 4*maxFields {
		return http2.ConnectionError(http2.ErrCodeEnhanceYourCalm)
	}
	if !ended {
		return nil
	}
	if c.fields.Close() != nil {
		return http2.ConnectionError(http2.ErrCodeCompression)
	}
	if st.trailersOf != nil {
		return c.complete(st.trailersOf)
	}
	return c.begin(st)
}

// addField adds a decoded header field to the request that is being read.
func (c *Conn) addField(f hpack.HeaderField) {
	st := c.reading
	r := &st.req
	if st.fieldsSize += int(f.Size()); st.fieldsSize > maxFields {
		st.malformed = true
		return
	}
	if !strings.HasPrefix(f.Name, ":") {
		st.malformed = st.malformed || !validField(f)
		r.Header = append(r.Header, f)
		return
	}
	var pseudo *string
	switch f.Name {
	case ":method":
		pseudo = &r.Method
	case ":path":
		pseudo = &r.Path
	case ":authority":
		pseudo = &r.Authority
	case ":scheme":
		pseudo = &st.scheme
	}
	if pseudo == nil || *pseudo != "" || f.Value == "" || len(r.Header) > 0 || st.trailersOf != nil {
		st.malformed = true
		return
	}
	*pseudo = f.Value
}

// validField implements RFC 9113, section 8.2: names are in lower case, and fields that describe the
// connection are not allowed.
func validField(f hpack.HeaderField) bool {
	switch f.Name {
	case "connection", "proxy-connection", "keep-alive", "transfer-encoding", "upgrade":
		return false
	case "te":
		return f.Value == "trailers"
	}
	return strings.ToLower(f.Name) == f.Name && !strings.ContainsAny(f.Name, " \r\n\x00") && !strings.ContainsAny(f.Value, "\r\n\x00")
}

// handleData appends to a body.
func (c *Conn) handleData(f *http2.DataFrame) error {
	if err := c.countReceived(int(f.Length)); err != nil {
		return err
	}
	c.mu.Lock()
	st, last := c.streams[f.StreamID], c.lastStream
	c.mu.Unlock()
	if st == nil && f.StreamID > last {
		return http2.ConnectionError(http2.ErrCodeProtocol)
	}
	if st == nil {
		return nil // the stream was refused, reset or answered before its end
	}
	if st.complete {
		return http2.StreamError{StreamID: st.id, Code: http2.ErrCodeStreamClosed}
	}
	if st.recvWindow -= int(f.Length); st.recvWindow < 0 {
		return http2.StreamError{StreamID: st.id, Code: http2.ErrCodeFlowControl}
	}
	st.req.Body = append(st.req.Body, f.Data()...)
	st.req.TooLong = len(st.req.Body) > MaxBody
	if f.StreamEnded() || st.req.TooLong {
		return c.complete(st)
	}
	return nil
}

// countReceived takes n bytes from the receive window of the connection, and returns them to the
// client once half of the window is used.
func (c *Conn) countReceived(n int) error {
	if c.recvWindow -= n; c.recvWindow < 0 {
		return http2.ConnectionError(http2.ErrCodeFlowControl)
	}
	if c.recvUnsent += n; c.recvUnsent < connWindow/2 {
		return nil
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	_ = c.frames.WriteWindowUpdate(0, uint32(c.recvUnsent))
	c.recvWindow, c.recvUnsent = c.recvWindow+c.recvUnsent, 0
	return nil
}

// handleSettings applies the settings of the client. An acknowledgement shows which stream limit the
// client has received.
func (c *Conn) handleSettings(f *http2.SettingsFrame) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if f.IsAck() {
		c.limit.acknowledge()
		return nil
	}
	err := f.ForeachSetting(func(s http2.Setting) error {
		if err := s.Valid(); err != nil {
			return err
		}
		switch s.ID {
		case http2.SettingHeaderTableSize:
			c.encoder.SetMaxDynamicTableSizeLimit(s.Val)
		case http2.SettingMaxFrameSize:
			c.outflow.maxFrame = int(s.Val)
		case http2.SettingInitialWindowSize:
			c.setInitialWindow(int(s.Val))
		}
		return nil
	})
	if err == nil && !c.handler.Silent() {
		err = c.frames.WriteSettingsAck()
	}
	return err
}

func (c *Conn) handlePing(f *http2.PingFrame) {
	if f.IsAck() || c.handler.Silent() {
		return
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	_ = c.frames.WritePing(true, f.Data)
}

// handleRSTStream removes a stream that the client has cancelled.
func (c *Conn) handleRSTStream(f *http2.RSTStreamFrame) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if f.StreamID > c.lastStream {
		return http2.ConnectionError(http2.ErrCodeProtocol)
	}
	if st := c.streams[f.StreamID]; st != nil {
		c.recordUnanswered(st, "client reset")
		c.remove(st)
	}
	return nil
}
