// SPDX-License-Identifier: Apache-2.0

//go:build unix

package main_test

import (
	"bytes"
	"context"
	"fmt"
	"net"
	"net/http"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/sluice-push/sluice/internal/testwait"
)

// TestSilentConnectionsDoNotUseUpOpenFiles runs a gateway with a queue that may open 256 files, and
// keeps opening connections to it, of which 400 stay open on this side. Meanwhile, callers with new
// connections are served, the gateway connects to providers, and it writes to its queue.
func TestSilentConnectionsDoNotUseUpOpenFiles(t *testing.T) {
	path := filepath.Join(t.TempDir(), "mock.json")
	providers := startGateway(t, nil, "mock", "--ready-file", path, "--keys", t.TempDir())
	key, hash := newKey(t)
	config := strings.Replace(readFile(t, mockConfig(t, providers.readyFile(path))), "9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08", strings.TrimPrefix(hash, "sha256:"), 1)
	config += fmt.Sprintf("queue: {dir: %q}\npool: {max_age: 10s}\n", t.TempDir())
	file := writeTemp(t, "gateway.yaml", config)
	p := startProcess(t, nil, "sh", "-c", `ulimit -n 256 && exec "$0" serve -c "$1"`, gatewayBinary, file)
	address := p.servingAt()

	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	var flood sync.WaitGroup
	var opened atomic.Int64
	for range 4 {
		flood.Go(func() {
			var open []net.Conn
			defer func() {
				for _, conn := range open {
					_ = conn.Close()
				}
			}()
			for ctx.Err() == nil {
				conn, err := new(net.Dialer).DialContext(ctx, "tcp", address)
				if err != nil {
					continue
				}
				opened.Add(1)
				if open = append(open, conn); len(open) > 100 {
					_ = open[0].Close()
					open = open[1:]
				}
				time.Sleep(20 * time.Millisecond) // 200 connections per second
			}
		})
	}
	p.eventually("connections beyond all open files", func() bool { return opened.Load() > 600 })
	for i := range 60 {
		transport := &http.Transport{}
		request, err := http.NewRequest(http.MethodPost, "http://"+address+"/v1/apps/demo/notifications",
			bytes.NewReader(fmt.Appendf(nil, `{"platform":"apns","token":%q,"title":"Hi"}`, deviceToken)))
		if err != nil {
			t.Fatal(err)
		}
		request.Header.Set("Authorization", "Bearer "+key)
		want := http.StatusOK
		if i%2 == 1 {
			request.Header.Set("Prefer", "respond-async")
			want = http.StatusAccepted
		}
		response, err := (&http.Client{Transport: transport, Timeout: testTimeout}).Do(request)
		if err != nil {
			t.Fatalf("%v\n%s", err, p.stderr.String())
		}
		_ = response.Body.Close()
		transport.CloseIdleConnections()
		if response.StatusCode != want {
			t.Errorf("status %d, want %d", response.StatusCode, want)
		}
	}
	cancel()
	testwait.Call(t, flood.Wait, "the end of all connections")
	if text := p.stderr.String(); strings.Contains(text, "too many open files") || !strings.Contains(text, `"max_connections":128`) {
		t.Error(text)
	}
	p.terminate()
}
