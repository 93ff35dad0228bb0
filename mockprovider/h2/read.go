// SPDX-License-Identifier: Apache-2.0

package h2

import (
	"strings"

	"golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"
)

// handleFrame handles one frame. mu is held, here and in all functions below.
func (c *Conn) handleFrame(f http2.Frame) error {
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

// isIdle reports whether a stream is idle. Streams with even IDs are always idle, because only servers
// can open them, to push responses.
func (c *Conn) isIdle(id uint32) bool { return id > c.lastStream || id%2 == 0 }

// handleHeaders starts a request, or reads the trailers of one.
func (c *Conn) handleHeaders(f *http2.HeadersFrame) error {
	id := f.StreamID
	_, abandoned := c.abandoned[id]
	switch open := c.streams[id]; {
	case id > c.lastStream && id%2 == 1:
		c.lastStream = id
		c.reading = c.newStream(id)
	case open != nil || abandoned:
		c.reading = &stream{id: id, trailers: true}
	default:
		return http2.ConnectionError(http2.ErrCodeProtocol)
	}
	c.reading.ended = f.StreamEnded()
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
	if st.trailers {
		return c.endWithTrailers(st)
	}
	return c.begin(st)
}

// endWithTrailers ends a request with trailers, whose content is not used.
func (c *Conn) endWithTrailers(trailers *stream) error {
	st, err := c.receivingStream(trailers.id, trailers.ended)
	switch {
	case st == nil:
		return err
	case trailers.malformed || !trailers.ended:
		return http2.StreamError{StreamID: st.id, Code: http2.ErrCodeProtocol}
	}
	return c.complete(st)
}

// receivingStream returns the stream that a DATA frame or trailers belong to. If they have no effect, it
// returns nil, and the error of the client, if it made one (RFC 9113, section 5.1). end is true if they
// end the stream.
func (c *Conn) receivingStream(id uint32, end bool) (*stream, error) {
	if c.isIdle(id) {
		return nil, http2.ConnectionError(http2.ErrCodeProtocol)
	}
	if _, ok := c.abandoned[id]; ok {
		if end {
			delete(c.abandoned, id)
		}
		return nil, nil
	}
	st := c.streams[id]
	if st == nil || st.ended {
		return nil, http2.StreamError{StreamID: id, Code: http2.ErrCodeStreamClosed}
	}
	st.ended = end
	return st, nil
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
	if pseudo == nil || *pseudo != "" || f.Value == "" || len(r.Header) > 0 || st.trailers {
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
	st, err := c.receivingStream(f.StreamID, f.StreamEnded())
	if st == nil {
		return err
	}
	if st.recvWindow -= int(f.Length); st.recvWindow < 0 {
		return http2.StreamError{StreamID: st.id, Code: http2.ErrCodeFlowControl}
	}
	if st.complete {
		return nil // the body was cut
	}
	st.req.Body = append(st.req.Body, f.Data()...)
	st.req.TooLong = st.recvWindow == 0 && !st.ended
	if st.ended || st.req.TooLong {
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
	if used := connWindow - c.recvWindow; used >= connWindow/2 {
		_ = c.frames.WriteWindowUpdate(0, uint32(used))
		c.recvWindow = connWindow
	}
	return nil
}

// handleSettings applies the settings of the client. An acknowledgement shows which stream limit the
// client has received.
func (c *Conn) handleSettings(f *http2.SettingsFrame) error {
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
			return c.setInitialWindow(int(s.Val))
		}
		return nil
	})
	if err != nil {
		return err
	}
	if !c.handler.Silent() {
		_ = c.frames.WriteSettingsAck()
	}
	c.unblock()
	return nil
}

func (c *Conn) handlePing(f *http2.PingFrame) {
	if f.IsAck() || c.handler.Silent() {
		return
	}
	_ = c.frames.WritePing(true, f.Data)
}

// handleRSTStream removes a stream that the client has cancelled.
func (c *Conn) handleRSTStream(f *http2.RSTStreamFrame) error {
	if c.isIdle(f.StreamID) {
		return http2.ConnectionError(http2.ErrCodeProtocol)
	}
	delete(c.abandoned, f.StreamID)
	if st := c.streams[f.StreamID]; st != nil {
		st.ended = true
		c.recordUnanswered(st, "client reset")
		c.remove(st)
	}
	return nil
}
