// SPDX-License-Identifier: Apache-2.0

package gateway_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/sluice-push/sluice/internal/config"
	"github.com/sluice-push/sluice/internal/gateway"
	"github.com/sluice-push/sluice/internal/testwait"
)

// socketClient returns a client that connects to a Unix socket.
func socketClient(t testing.TB, path string) *http.Client {
	transport := &http.Transport{DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		return new(net.Dialer).DialContext(ctx, "unix", path)
	}}
	t.Cleanup(transport.CloseIdleConnections)
	return &http.Client{Transport: transport, Timeout: testwait.Bound}
}

// socketDir returns a folder whose name is short enough for sockets.
func socketDir(t testing.TB) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "s")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	return dir
}

// TestUnixSockets serves both listeners on Unix sockets.
func TestUnixSockets(t *testing.T) {
	s, dir := newMockEnv(t), socketDir(t)
	path, admin := filepath.Join(dir, "api.sock"), filepath.Join(dir, "admin.sock")
	abandoned, err := net.ListenUnix("unix", &net.UnixAddr{Name: path, Net: "unix"})
	if err != nil {
		t.Fatal(err)
	}
	abandoned.SetUnlinkOnClose(false)
	_ = abandoned.Close() // as after kill -9
	d := newLeakDetector()
	text := "listen: unix:" + path + "\nsocket_mode: 0666\nadmin: {listen: 'unix:" + admin + "'}\ntrusted_proxies: [10.0.0.0/8]\napps:\n" + s.appBlock("shop", s.apnsBlock())
	h := s.startLogging(t, text, d.logger())
	for file, mode := range map[string]fs.FileMode{path: 0o666, admin: 0o660} {
		if info, err := os.Stat(file); err != nil || info.Mode().Perm() != mode {
			t.Errorf("%v %v", info, err)
		}
	}
	request, err := http.NewRequest(http.MethodPost, "http://gateway/v1/apps/shop/notifications", strings.NewReader(apnsNotification(deviceToken)))
	if err != nil {
		t.Fatal(err)
	}
	request.Header.Set("Authorization", "Bearer "+h.key)
	request.Header.Set("Content-Type", "application/json")
	request.Header.Set("X-Forwarded-For", "198.51.100.7")
	response, err := socketClient(t, path).Do(request)
	if err != nil {
		t.Fatal(err)
	}
	if body, _ := io.ReadAll(response.Body); response.StatusCode != http.StatusOK {
		t.Errorf("%s %s", response.Status, body)
	}
	response.Body.Close()
	if response, err = socketClient(t, admin).Get("http://admin/readyz"); err != nil || response.StatusCode != http.StatusOK {
		t.Fatal(response, err)
	}
	response.Body.Close()
	for _, want := range []string{`"listen":"unix:` + path + `"`, `"address":"198.51.100.7"`} {
		testwait.Until(t, func() bool { return strings.Contains(d.text(), want) }, "the log contains "+want)
	}
	g, err := gateway.New(parse(t, text), nil)
	if err != nil {
		t.Fatal(err)
	}
	if err := g.Listen(); err == nil || !strings.Contains(err.Error(), "gateway: listen: ") || !strings.Contains(err.Error(), "address already in use") {
		t.Errorf("a second gateway at the same socket: %v", err)
	}
	if got := runChecks(t, g); !strings.Contains(got, "listen  listen unix "+path+": bind: address already in use (is a gateway running here already?)") {
		t.Error(got)
	}
	if err := h.stop(); err != nil {
		t.Error(err)
	}
	for _, file := range []string{path, admin} {
		if _, err := os.Stat(file); !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("%s is left behind: %v", file, err)
		}
	}
}

// TestSocketReplacesNoFile verifies that a file that is not a socket is not removed.
func TestSocketReplacesNoFile(t *testing.T) {
	s, path := newMockEnv(t), filepath.Join(socketDir(t), "file")
	if err := os.WriteFile(path, []byte("x"), 0o600); err != nil {
		t.Fatal(err)
	}
	g, err := gateway.New(parse(t, "listen: unix:"+path+"\nadmin: {listen: 127.0.0.1:0}\napps:\n"+s.appBlock("shop", s.apnsBlock())), nil)
	if err != nil {
		t.Fatal(err)
	}
	if err := g.Listen(); err == nil {
		t.Error("listens at the path of a file")
	}
	if text, err := os.ReadFile(path); err != nil || string(text) != "x" {
		t.Errorf("%q, %v", text, err)
	}
}

func TestMissingSystemdSocket(t *testing.T) {
	s := newMockEnv(t)
	g, err := gateway.New(parse(t, "listen: systemd:api\nadmin: {listen: 127.0.0.1:0}\napps:\n"+s.appBlock("shop", s.apnsBlock())), nil)
	if err != nil {
		t.Fatal(err)
	}
	if err := g.Listen(); err == nil || !strings.Contains(err.Error(), "systemd has passed no socket with the name api (passed: none;") {
		t.Error(err)
	}
	if got := runChecks(t, g); !strings.Contains(got, "systemd must pass a socket with the name api to gateway serve <nil>") {
		t.Error(got)
	}
}

// TestStates verifies the order of the states that the service manager learns.
func TestStates(t *testing.T) {
	s := newMockEnv(t)
	text := listenConfig + "apps:\n" + s.appBlock("shop", s.apnsBlock())
	cfg := parse(t, text)
	g, err := gateway.New(cfg, nil)
	if err != nil {
		t.Fatal(err)
	}
	var mu sync.Mutex
	var states []gateway.State
	g.WatchState(func(state gateway.State) {
		mu.Lock()
		defer mu.Unlock()
		states = append(states, state)
	})
	wait := func(want ...gateway.State) {
		t.Helper()
		testwait.Until(t, func() bool {
			mu.Lock()
			defer mu.Unlock()
			return slices.Equal(states, want)
		}, fmt.Sprint("the states are ", want))
	}
	changed, followed := make(chan struct{}), make(chan struct{})
	loads := 0
	load := func() (*config.Config, error) { // an error, no change, a reload, and again
		loads++
		return []*config.Config{cfg, nil, nil}[loads%3], []error{nil, errors.New("x"), nil}[loads%3]
	}
	go func() {
		defer close(followed)
		g.Follow(changed, load, func(*config.Config) {})
	}()
	changed <- struct{}{} // before the gateway serves
	ctx, stop := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- g.Run(ctx) }()
	wait(gateway.Serving)
	for range 3 {
		changed <- struct{}{}
	}
	all := []gateway.State{gateway.Serving}
	for range 3 {
		all = append(all, gateway.Reloading, gateway.Serving)
	}
	wait(all...)
	stop()
	if err := testwait.For(t, ended, "the end"); err != nil {
		t.Error(err)
	}
	changed <- struct{}{}
	close(changed)
	testwait.For(t, followed, "the end of Follow")
	wait(append(all, gateway.Draining)...)
}
