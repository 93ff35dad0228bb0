// SPDX-License-Identifier: Apache-2.0

package wire

import (
	"bytes"

	"golang.org/x/net/http2"
)

// maxDebugData is the maximum number of bytes kept of a GOAWAY's debug data.
const maxDebugData = 1 << 10

// goAway merges the peer's GOAWAY frames.
type goAway struct {
	lastStreamID uint32 // higher streams were not and will not be processed (RFC 9113 §6.8)
	code         http2.ErrCode
	debugData    []byte
}

// unprocessed returns the error of a request above lastStreamID.
func (g *goAway) unprocessed() *Error {
	return &Error{Reason: GoAwayUnprocessed, Processed: Never, DebugData: g.debugData, Err: g.cause(nil)}
}

// noAnswer returns the error of a request that the peer may have processed without responding.
func (g *goAway) noAnswer(err error) *Error {
	e := &Error{Reason: GoAwayErrorCode, EndpointAtFault: true, DebugData: g.debugData, Err: g.cause(err)}
	switch g.code {
	case http2.ErrCodeNo:
		e.Reason = GoAwayNoAnswer
	case http2.ErrCodeEnhanceYourCalm:
		e.Reason, e.EndpointAtFault = EnhanceYourCalm, false
	}
	return e
}

func (g *goAway) cause(err error) error {
	if err == nil && g.code != http2.ErrCodeNo {
		return http2.ConnectionError(g.code)
	}
	return err
}

// handleGoAway stops accepting requests and fails those that the peer will not process. A later
// GOAWAY may lower the last stream ID but not raise it. It replaces the error code only if it
// carries one (RFC 9113 §6.8).
func (c *Conn) handleGoAway(f *http2.GoAwayFrame) {
	c.mu.Lock()
	defer c.mu.Unlock()
	g := &goAway{lastStreamID: f.LastStreamID, code: f.ErrCode, debugData: clipDebugData(f.DebugData())}
	if prev := c.goAway; prev != nil {
		g.lastStreamID = min(g.lastStreamID, prev.lastStreamID)
		if g.code == http2.ErrCodeNo && len(g.debugData) == 0 {
			g.code, g.debugData = prev.code, prev.debugData
		}
	}
	c.goAway, c.draining = g, true
	for c.waiting.n > 0 {
		c.fail(c.waiting.first, g.unprocessed())
	}
	for id, s := range c.open {
		if id > g.lastStreamID {
			c.allowLateFrames(s)
			c.fail(s, c.goAwayError(s))
		}
	}
	c.closeIfDrained()
	c.publish()
}

// goAwayError returns the error of a stream above the last stream ID. A peer that has begun to
// respond has processed the request, whatever its GOAWAY says.
func (c *Conn) goAwayError(s *stream) *Error {
	if s.responded {
		return c.goAway.noAnswer(nil)
	}
	return c.goAway.unprocessed()
}

func clipDebugData(data []byte) []byte {
	return bytes.Clone(data[:min(len(data), maxDebugData)])
}

// handleReset handles the peer's RST_STREAM.
func (c *Conn) handleReset(f *http2.RSTStreamFrame) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.isIdleStream(f.StreamID) {
		return protocolError{http2.ErrCodeProtocol, "RST_STREAM on an idle stream (RFC 9113 §6.4)"}
	}
	if s := c.open[f.StreamID]; s != nil {
		c.flood.advanced = true
		c.allowLateFrames(s)
		c.fail(s, resetError(s, f.ErrCode))
	}
	return nil
}

func resetError(s *stream, code http2.ErrCode) *Error {
	e := &Error{Reason: ResetInternal, EndpointAtFault: true, Err: http2.StreamError{StreamID: s.id, Code: code}}
	switch {
	case code == http2.ErrCodeRefusedStream && !s.responded:
		// "Any processing has not occurred" (RFC 9113 §8.7), unless the peer had begun to respond.
		e.Reason, e.Processed, e.EndpointAtFault = RefusedStream, Never, false
	case code == http2.ErrCodeEnhanceYourCalm:
		e.Reason, e.EndpointAtFault = EnhanceYourCalm, false
	}
	return e
}
