// SPDX-License-Identifier: Apache-2.0

package wire_test

import (
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"syscall"
	"testing"
	"time"

	"golang.org/x/net/http2"

	"github.com/sluice-push/sluice/internal/testwait"
	"github.com/sluice-push/sluice/wire"
)

func TestAbortDiscardsUnsentData(t *testing.T) {
	resume, readErr := make(chan struct{}), make(chan error, 1)
	addr := listenTCP(t, func(nc net.Conn) {
		_ = http2.NewFramer(nc, nil).WriteSettings()
		<-resume
		_, err := io.Copy(io.Discard, nc)
		readErr <- err
		_ = nc.Close()
	})
	nc, err := net.Dial("tcp", addr.String())
	if err != nil {
		t.Fatal(err)
	}
	cfg := withLongTimeouts(wire.Config{Authority: "silent"})
	cfg.ActivePingInterval, cfg.PingTimeout = time.Millisecond, time.Millisecond
	c, err := wire.Client(t.Context(), nc, cfg)
	if err != nil {
		t.Fatal(err)
	}
	runErr := make(chan error, 1)
	go func() { runErr <- c.Run(context.Background()) }()
	_, err = c.Do(t.Context(), &wire.Request{Method: http.MethodPost, Path: "/"})
	if lost, ok := errors.AsType[*wire.Error](err); !ok || lost.Reason != wire.PingTimeout {
		t.Errorf("%v", err)
	}
	if err := testwait.For(t, runErr, "the end of Run"); err == nil {
		t.Error("Run returned nil after an abort")
	}
	close(resume)
	if err := testwait.For(t, readErr, "the end of the connection"); !errors.Is(err, syscall.ECONNRESET) {
		t.Errorf("the peer reads %v; want a connection reset", err)
	}
}
