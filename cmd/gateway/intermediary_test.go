// SPDX-License-Identifier: Apache-2.0

package main_test

import (
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"
)

const blockPage = "<!doctype html>\n<title>Blocked</title>\n"

// writeResponse writes the response of a proxy, firewall or captive portal.
func writeResponse(w http.ResponseWriter, status int, body string) {
	if status/100 == 3 {
		w.Header().Set("Location", "https://login.example/?secret=1")
	}
	w.WriteHeader(status)
	_, _ = io.WriteString(w, body)
}

func TestSendReportsResponseOfIntermediary(t *testing.T) {
	for _, c := range []struct {
		status int
		body   string
		result string
	}{
		{200, blockPage, "may have been sent"},
		{200, "", "may have been sent"},
		{200, `{"status":"ok"}`, "may have been sent"},
		{202, `{}`, "may have been sent"},
		{204, "", "may have been sent"},
		{302, blockPage, "nothing was sent"},
		{307, "", "nothing was sent"},
		{401, blockPage, "nothing was sent"},
		{403, `{"error":"forbidden"}`, "nothing was sent"},
		{404, blockPage, "nothing was sent"},
		{407, blockPage, "nothing was sent"},
		{408, blockPage, "may have been sent"},
		{413, blockPage, "nothing was sent"},
		{429, blockPage, "nothing was sent"},
		{502, blockPage, "may have been sent"},
		{503, `{"type":"about:blank","status":503}`, "may have been sent"},
	} {
		server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { writeResponse(w, c.status, c.body) }))
		code, stdout, stderr := runGateway(t, nil, "send", "--url", server.URL, "--key", "k", "--app", "shop", "--platform", "apns", "--token", deviceToken, "--title", "Hi")
		server.Close()
		if code != 1 || stdout != "" || !strings.Contains(stderr, fmt.Sprintf("the response %d", c.status)) || !strings.Contains(stderr, "is not from a gateway") ||
			!strings.Contains(stderr, c.result) || strings.Contains(stderr, "secret") || strings.Contains(stderr, "to https://login.example ") != (c.status/100 == 3) {
			t.Errorf("%d %q: exit code %d\n%s%s", c.status, c.body, code, stdout, stderr)
		}
	}
}

func TestSendFileContinuesAfterResponseOfIntermediary(t *testing.T) {
	responses := []struct {
		status int
		body   string
	}{{403, blockPage}, {307, ""}, {202, blockPage}, {202, `{"index":0}`}}
	b := newBatchServer(t, func(_, index int, _ map[string]any) string { return queuedReceipt(index) })
	handler := b.Config.Handler
	var calls atomic.Int32
	b.Config.Handler = http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if call := int(calls.Add(1)) - 1; call < len(responses) {
			writeResponse(w, responses[call].status, responses[call].body)
			return
		}
		handler.ServeHTTP(w, r)
	})
	var text strings.Builder
	for i := range 5000 {
		fmt.Fprintf(&text, "{\"platform\":\"apns\",\"token\":\"00ff\",\"title\":\"%d\"}\n", i)
	}
	code, stdout, stderr := runGateway(t, []string{"GATEWAY_URL=" + b.URL, "GATEWAY_KEY=k"}, "send", "--app", "shop", "--file", writeTemp(t, "campaign.ndjson", text.String()))
	if code != 0 || stdout != "" || len(b.accepted) != 5000 || int(calls.Load()) != len(responses)+1 {
		t.Errorf("exit code %d, %d calls, %d lines accepted\n%s%s", code, calls.Load(), len(b.accepted), stdout, stderr)
	}
	for title, times := range b.accepted {
		if times != 1 {
			t.Errorf("%s was accepted %d times", title, times)
		}
	}
}

func TestSendFileNamesIntermediary(t *testing.T) {
	for status, body := range map[int]string{200: blockPage, 202: blockPage, 302: "", 403: blockPage, 404: `{"error":"x"}`, 502: blockPage} {
		server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { writeResponse(w, status, body) }))
		code, _, stderr := runGateway(t, nil, "send", "--url", server.URL, "--key", "k", "--app", "shop", "--timeout", "1ms", "--file", writeTemp(t, "campaign.ndjson", strings.Repeat("{\"title\":\"a\"}\n", 20_000)))
		server.Close()
		if code != 1 || !strings.Contains(stderr, "run the same command to continue") || !strings.Contains(stderr, "a gateway: check --url") && !strings.Contains(stderr, "is not from a gateway") {
			t.Errorf("%d: exit code %d\n%s", status, code, stderr)
		}
	}
}
