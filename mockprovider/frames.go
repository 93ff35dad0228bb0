// SPDX-License-Identifier: Apache-2.0

package mockprovider

import (
	"strings"

	"golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"
)

// handle does what one frame asks for.
func (c *conn) handle(f http2.Frame) error {
	switch f := f.(type) {
	case *http2.HeadersFrame:
		return c.headers(f)
	case *http2.ContinuationFrame:
		return c.decode(f.HeaderBlockFragment(), f.HeadersEnded())
	case *http2.DataFrame:
		return c.data(f)
	case *http2.SettingsFrame:
		return c.settings(f)
	case *http2.WindowUpdateFrame:
		return c.windowUpdate(f)
	case *http2.PingFrame:
		c.ping(f)
	case *http2.RSTStreamFrame:
		return c.cancelled(f)
	case *http2.PushPromiseFrame:
		return http2.ConnectionError(http2.ErrCodeProtocol)
	}
	return nil
}

// headers begins a request, or reads the trailers of one.
func (c *conn) headers(f *http2.HeadersFrame) error {
	id := f.StreamID
	c.mu.Lock()
	open := c.streams[id]
	last := c.last
	c.last = max(last, id)
	c.mu.Unlock()
	switch {
	case open != nil && open.whole, open != nil && !f.StreamEnded():
		return http2.ConnectionError(http2.ErrCodeProtocol)
	case open != nil:
		c.reading = &stream{id: id, trailersOf: open}
	case id%2 == 0 || id <= last:
		return http2.ConnectionError(http2.ErrCodeProtocol)
	default:
		c.reading = c.newStream(id)
	}
	c.ending = f.StreamEnded()
	return c.decode(f.HeaderBlockFragment(), f.HeadersEnded())
}

// maxFields bounds a request's header list, by RFC 9113's count.
const maxFields = 16 << 10

// decode reads a part of a header block. Every block must be read, for the compression state is the connection's.
func (c *conn) decode(fragment []byte, ended bool) error {
	st := c.reading
	if _, err := c.fields.Write(fragment); err != nil {
		return http2.ConnectionError(http2.ErrCodeCompression)
	}
	if st.raw += len(fragment); st.raw > 4*maxFields {
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

// emit takes one decoded field.
func (c *conn) emit(f hpack.HeaderField) {
	st := c.reading
	r := &st.req
	if st.size += int(f.Size()); st.size > maxFields {
		st.malformed = true
		return
	}
	if !strings.HasPrefix(f.Name, ":") {
		st.malformed = st.malformed || !wellFormed(f)
		r.header = append(r.header, f)
		return
	}
	var slot *string
	switch f.Name {
	case ":method":
		slot = &r.method
	case ":path":
		slot = &r.path
	case ":authority":
		slot = &r.authority
	case ":scheme":
		slot = &st.scheme
	}
	if slot == nil || *slot != "" || f.Value == "" || len(r.header) > 0 || st.trailersOf != nil {
		st.malformed = true
		return
	}
	*slot = f.Value
}

// wellFormed is RFC 9113 8.2: lower case, and nothing that is about the connection.
func wellFormed(f hpack.HeaderField) bool {
	switch f.Name {
	case "connection", "proxy-connection", "keep-alive", "transfer-encoding", "upgrade":
		return false
	case "te":
		return f.Value == "trailers"
	}
	return strings.ToLower(f.Name) == f.Name && !strings.ContainsAny(f.Name, " \r\n\x00") && !strings.ContainsAny(f.Value, "\r\n\x00")
}

// data adds to a body, or ends it.
func (c *conn) data(f *http2.DataFrame) error {
	if err := c.consume(int(f.Length)); err != nil {
		return err
	}
	c.mu.Lock()
	st, last := c.streams[f.StreamID], c.last
	c.mu.Unlock()
	if st == nil && f.StreamID > last {
		return http2.ConnectionError(http2.ErrCodeProtocol)
	}
	if st == nil {
		return nil // it has been refused, reset or answered before its end
	}
	if st.whole {
		return http2.StreamError{StreamID: st.id, Code: http2.ErrCodeStreamClosed}
	}
	if st.credit -= int(f.Length); st.credit < 0 {
		return http2.StreamError{StreamID: st.id, Code: http2.ErrCodeFlowControl}
	}
	st.req.body = append(st.req.body, f.Data()...)
	st.req.tooLong = len(st.req.body) > maxBody
	if f.StreamEnded() || st.req.tooLong {
		return c.complete(st)
	}
	return nil
}

// consume counts what the client sent, and gives credit back when half is gone.
func (c *conn) consume(n int) error {
	if c.credit -= n; c.credit < 0 {
		return http2.ConnectionError(http2.ErrCodeFlowControl)
	}
	if c.consumed += n; c.consumed < connCredit/2 {
		return nil
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	_ = c.frames.WriteWindowUpdate(0, uint32(c.consumed))
	c.credit, c.consumed = c.credit+c.consumed, 0
	return nil
}

// settings takes the client's, and learns from an acknowledgement which stream limit it knows.
func (c *conn) settings(f *http2.SettingsFrame) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if f.IsAck() {
		c.limit.acknowledged()
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
			c.flow.maxFrame = int(s.Val)
		case http2.SettingInitialWindowSize:
			c.resize(int(s.Val))
		}
		return nil
	})
	if err == nil && !c.silent() {
		err = c.frames.WriteSettingsAck()
	}
	return err
}

func (c *conn) ping(f *http2.PingFrame) {
	if f.IsAck() || c.silent() {
		return
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	_ = c.frames.WritePing(true, f.Data)
}

// silent says whether the script keeps the connection from answering PING and SETTINGS.
func (c *conn) silent() bool {
	p := c.ep.mock.program.Load()
	return len(p.rules) > 0 && p.silent(c.ep, c.peer.number, c.requests)
}

// cancelled forgets a stream that the client has given up.
func (c *conn) cancelled(f *http2.RSTStreamFrame) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if f.StreamID > c.last {
		return http2.ConnectionError(http2.ErrCodeProtocol)
	}
	if st := c.streams[f.StreamID]; st != nil {
		c.settle(st, "client reset")
		c.forget(st)
	}
	return nil
}
