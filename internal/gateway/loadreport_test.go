// SPDX-License-Identifier: Apache-2.0

package gateway_test

import (
	"fmt"
	"io"
	"net/http"
	"strings"
	"testing"
)

func TestEveryResponseHasLoadReport(t *testing.T) {
	s := newMockEnv(t)
	h := s.start(t, listenConfig+"zone: tokyo-a\nlimits: {concurrency: 100, target_latency: 1500ms, send_timeout: 20s}\napps:\n"+s.appBlock("shop", s.apnsBlock()))
	for _, path := range []string{"/livez", "/v1/status", "/nothing/here"} {
		response, err := http.Get(h.url + path)
		if err != nil {
			t.Fatal(err)
		}
		_, _ = io.Copy(io.Discard, response.Body) // so that the next request uses the same connection
		_ = response.Body.Close()
		if got, want := response.Header.Get("Sluice-Gateway"), `concurrency=100, target=1.5, max=20, zone="tokyo-a"`; got != want {
			t.Errorf("%s: %s, want %s", path, got, want)
		}
	}
}

func TestConcurrencyIsDividedAmongConnections(t *testing.T) {
	s := newMockEnv(t)
	h := s.start(t, listenConfig+"limits: {concurrency: 100}\napps:\n"+s.appBlock("shop", s.apnsBlock()))
	for _, want := range []int{100, 50, 33, 25, 20, 16, 14, 12, 11, 10, 9, 8, 8, 8} {
		transport := &http.Transport{}
		t.Cleanup(transport.CloseIdleConnections)
		response, err := (&http.Client{Transport: transport}).Get(h.url + "/livez")
		if err != nil {
			t.Fatal(err)
		}
		_, _ = io.Copy(io.Discard, response.Body) // so that the connection stays open
		_ = response.Body.Close()
		if got := response.Header.Get("Sluice-Gateway"); !strings.HasPrefix(got, fmt.Sprintf("concurrency=%d,", want)) {
			t.Errorf("%s, want concurrency=%d", got, want)
		}
	}
}

func TestAPIAcceptsUnencryptedHTTP2(t *testing.T) {
	s := newMockEnv(t)
	h := s.start(t, listenConfig+"apps:\n"+s.appBlock("shop", s.apnsBlock()))
	h2 := &http.Transport{Protocols: new(http.Protocols)}
	h2.Protocols.SetUnencryptedHTTP2(true)
	defer h2.CloseIdleConnections()
	response, err := (&http.Client{Transport: h2}).Get(h.url + "/livez")
	if err != nil {
		t.Fatal(err)
	}
	_ = response.Body.Close()
	if response.ProtoMajor != 2 || response.StatusCode != http.StatusOK {
		t.Errorf("%s %s", response.Proto, response.Status)
	}
}
