// SPDX-License-Identifier: Apache-2.0

package wire_test

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net"
	"testing"
	"testing/synctest"
	"time"

	"golang.org/x/net/http2"

	"github.com/sluice-push/sluice/internal/testwait"
	"github.com/sluice-push/sluice/wire"
)

// FuzzFrames lets the peer send arbitrary bytes after its first SETTINGS. Every request must still
// end, and so must Run.
func FuzzFrames(f *testing.F) {
	for _, script := range seedFrames() {
		var b bytes.Buffer
		fr := http2.NewFramer(&b, nil)
		fr.AllowIllegalWrites = true
		script(fr)
		f.Add(b.Bytes(), false)
		f.Add(b.Bytes(), true)
	}
	f.Fuzz(func(t *testing.T, frames []byte, closeAfter bool) {
		synctest.Test(t, func(t *testing.T) { runFrames(t, frames, closeAfter) })
	})
}

func seedFrames() []func(*http2.Framer) {
	head := func(id uint32, end bool, block string) func(*http2.Framer) {
		return func(fr *http2.Framer) {
			_ = fr.WriteHeaders(http2.HeadersFrameParam{StreamID: id, BlockFragment: []byte(block), EndHeaders: true, EndStream: end})
		}
	}
	return []func(*http2.Framer){
		head(1, true, "\x88"),
		head(1, true, "\x40\x01a\x01b"),
		head(3, true, "\x88\x0f\x0d\x0210"),
		func(fr *http2.Framer) {
			head(1, false, "\x48\x03100")(fr)
			head(1, false, "\x88")(fr)
			_ = fr.WriteDataPadded(1, true, []byte("body"), make([]byte, 9))
			head(3, false, "\x8d")(fr)
			_ = fr.WriteData(3, false, []byte(`{"reason":`))
			head(3, true, "\x40\x01a\x01b")(fr)
		},
		func(fr *http2.Framer) {
			_ = fr.WriteHeaders(http2.HeadersFrameParam{StreamID: 1, BlockFragment: []byte("\x88\x40"), EndStream: true})
			_ = fr.WriteContinuation(1, true, []byte("\x01a\x01b"))
		},
		func(fr *http2.Framer) {
			_ = fr.WriteSettings(maxStreamsSetting(0), windowSetting(1), http2.Setting{ID: http2.SettingHeaderTableSize, Val: 0})
			_ = fr.WriteSettings(maxStreamsSetting(9), windowSetting(1<<31-1))
			_ = fr.WriteWindowUpdate(1, 1<<31-1)
			_ = fr.WritePing(false, [8]byte{})
			_ = fr.WriteGoAway(1, http2.ErrCodeNo, []byte("bye"))
			_ = fr.WriteRSTStream(1, http2.ErrCodeRefusedStream)
		},
		func(fr *http2.Framer) {
			_ = fr.WriteGoAway(0, http2.ErrCodeEnhanceYourCalm, nil)
			_ = fr.WritePushPromise(http2.PushPromiseParam{StreamID: 1, PromiseID: 2, EndHeaders: true})
		},
	}
}

// runFrames sends these bytes while three requests are in flight, one of them with a body that must
// wait for a window.
func runFrames(t *testing.T, frames []byte, closeAfter bool) {
	clientSide, serverSide := net.Pipe()
	fr := http2.NewFramer(serverSide, nil)
	go func() { _, _ = io.Copy(io.Discard, serverSide) }()
	go func() { _ = fr.WriteSettings() }()
	c, err := wire.Client(t.Context(), clientSide, wire.Config{Authority: "a", IdlePingInterval: 10 * time.Second})
	if err != nil {
		t.Fatal(err)
	}
	ended := make(chan error, 1)
	go func() { ended <- c.Run(context.Background()) }()
	requests := []*wire.Request{post("/"), {Method: "GET", Path: "/"}, postBody(string(make([]byte, 70000)))}
	results := make(chan error, len(requests))
	for _, r := range requests {
		go func() {
			_, err := c.Do(context.Background(), r)
			results <- err
		}()
		synctest.Wait()
	}
	_, _ = serverSide.Write(frames)
	if closeAfter {
		_ = serverSide.Close()
	}
	for range requests {
		var e *wire.Error
		if err := testwait.For(t, results, "the end of a request"); err != nil && !errors.As(err, &e) {
			t.Errorf("a request ended with %v; want a *wire.Error", err)
		}
	}
	c.Drain()
	if s := c.State(); s.InFlight+s.Waiting != 0 {
		t.Errorf("all requests have ended, but the state is %+v", s)
	}
	var e *wire.Error
	if err := testwait.For(t, ended, "the end of Run"); err != nil && !errors.As(err, &e) {
		t.Errorf("Run returned %v; want a *wire.Error", err)
	}
	_ = serverSide.Close()
}
