// SPDX-License-Identifier: Apache-2.0

package main_test

import (
	"bufio"
	"encoding/json"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/sluice-push/sluice/internal/audit"
)

// batchServer is a test server for asynchronous batch calls.
type batchServer struct {
	*httptest.Server
	answer func(call, index int, line map[string]any) string // returns the receipt; "" closes the connection

	mu        sync.Mutex
	calls     int
	keys      map[string]string // by the title of the line
	otherKeys []string          // different keys of a line that was sent before
	accepted  map[string]int
}

func newBatchServer(t *testing.T, answer func(call, index int, line map[string]any) string) *batchServer {
	b := &batchServer{answer: answer, keys: map[string]string{}, accepted: map[string]int{}}
	b.Server = httptest.NewServer(b)
	t.Cleanup(b.Close)
	return b
}

func (b *batchServer) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	b.mu.Lock()
	b.calls++
	call := b.calls
	b.mu.Unlock()
	control := http.NewResponseController(w)
	_ = control.EnableFullDuplex()
	if r.Header.Get("Prefer") != "respond-async" || r.URL.Path != "/v1/apps/shop/notifications/batch" || r.Header.Get("Authorization") != "Bearer k" {
		w.WriteHeader(http.StatusBadRequest)
		return
	}
	w.WriteHeader(http.StatusAccepted)
	lines := bufio.NewScanner(r.Body)
	for index := 0; lines.Scan(); index++ {
		var line map[string]any
		if err := json.Unmarshal(lines.Bytes(), &line); err != nil {
			line = map[string]any{"title": "broken"}
		}
		b.recordKey(line)
		answer := b.answer(call, index, line)
		if answer == "" {
			_ = control.Flush()
			panic(http.ErrAbortHandler)
		}
		if strings.Contains(answer, "queued") {
			b.mu.Lock()
			b.accepted[fmt.Sprint(line["title"])]++
			b.mu.Unlock()
		}
		_, _ = io.WriteString(w, answer+"\n")
	}
	_ = control.Flush()
}

func (b *batchServer) recordKey(line map[string]any) {
	b.mu.Lock()
	defer b.mu.Unlock()
	title, key := fmt.Sprint(line["title"]), fmt.Sprint(line["idempotency_key"])
	if before, again := b.keys[title]; again && before != key {
		b.otherKeys = append(b.otherKeys, title+" "+key)
	}
	b.keys[title] = key
}

func queuedReceipt(index int) string {
	return fmt.Sprintf(`{"id":"x","index":%d,"status":"queued","attempts":[]}`, index)
}

func TestSendFilePrintsFirstWarnings(t *testing.T) {
	b := newBatchServer(t, func(_, index int, _ map[string]any) string {
		return fmt.Sprintf(`{"index":%d,"status":"queued","warnings":[{"field":"data","detail":"d"}],"attempts":[]}`, index)
	})
	var text strings.Builder
	for i := range 50 {
		fmt.Fprintf(&text, "{\"platform\":\"fcm\",\"token\":\"a:b\",\"title\":\"%d\"}\n", i)
	}
	code, stdout, stderr := runGateway(t, []string{"GATEWAY_URL=" + b.URL, "GATEWAY_KEY=k"}, "send", "--app", "shop", "--file", writeTemp(t, "warned.ndjson", text.String()))
	if code != 0 || strings.Count(stdout, "\n") != 10 || !strings.HasPrefix(stdout, `{"line":1,"index":0,"status":"queued","warnings":`) {
		t.Errorf("exit code %d\n%s%s", code, stdout, stderr)
	}
}

func TestSendFileResumesAfterErrors(t *testing.T) {
	var text strings.Builder
	for i := range 5000 {
		fmt.Fprintf(&text, "{\"platform\":\"apns\",\"token\":\"00ff\",\"title\":\"%d\"}\n\n", i)
	}
	text.WriteString(`{"title":"own","idempotency_key":"mine"}` + "\n" + `{"title":` + "\n" + `{}`)
	b := newBatchServer(t, func(call, index int, line map[string]any) string {
		switch {
		case call == 1 && index == 700:
			return ""
		case call == 2 && index == 300:
			return fmt.Sprintf(`{"index":%d,"status":"unavailable","reason":"QueueFull","retry_after":0.01,"attempts":[]}`, index)
		case line["title"] == "broken":
			return fmt.Sprintf(`{"index":%d,"status":"refused","reason":"InvalidJSON","attempts":[]}`, index)
		default:
			return queuedReceipt(index)
		}
	})
	env := []string{"GATEWAY_URL=" + b.URL, "GATEWAY_KEY=k"}
	code, stdout, stderr := runGateway(t, env, "send", "--app", "shop", "--file", writeTemp(t, "campaign.ndjson", text.String()))
	if code != 1 || !strings.HasPrefix(stdout, `{"line":10002,"index":`) || strings.Count(stdout, "\n") != 1 || !strings.Contains(stdout, "InvalidJSON") {
		t.Errorf("exit code %d\n%s%s", code, stdout, stderr)
	}
	if !strings.Contains(stderr, "send: 5003 lines in ") || !strings.Contains(stderr, ": 1 refused, 5002 queued") || strings.Count(stderr, "continuing at line") != 2 {
		t.Error(stderr)
	}
	distinct := map[string]bool{}
	for _, key := range b.keys {
		distinct[key] = true
	}
	if len(b.otherKeys) != 0 || b.calls != 3 || len(b.accepted) != 5002 || b.keys["own"] != "mine" || len(distinct) != 5003 {
		t.Errorf("%d calls, %d lines, %d keys, %v", b.calls, len(b.accepted), len(distinct), b.otherKeys)
	}
}

func TestSendFileWaitsForEachTarget(t *testing.T) {
	targets := func(index int, statuses ...string) string {
		var lines []string
		for i, status := range statuses {
			lines = append(lines, fmt.Sprintf(`{"index":%d,"target_index":%d,"status":%q,"reason":%q,"attempts":[]}`, index, i, status, map[string]string{"unavailable": "QueueFull"}[status]))
		}
		return strings.Join(lines, "\n")
	}
	b := newBatchServer(t, func(call, index int, line map[string]any) string {
		switch {
		case line["title"] == "two" && call == 1:
			return targets(index, "queued", "queued") // the third receipt is lost, because the next line breaks the call
		case line["title"] == "three" && call == 1:
			return ""
		case line["title"] == "three" && call == 2:
			return targets(index, "queued", "unavailable")
		case line["title"] == "two":
			return targets(index, "queued", "queued", "refused")
		case line["title"] == "three":
			return targets(index, "queued", "queued")
		case line["title"] == "refused":
			return fmt.Sprintf(`{"index":%d,"status":"refused","reason":"InvalidField","attempts":[]}`, index)
		default:
			return queuedReceipt(index)
		}
	})
	const text = `{"title":"one","token":"a"}` + "\n" + `{"title":"two","tokens":["a","b","c"]}` + "\n" + `{"title":"three", "installations" :["a","b"]}` + "\n" +
		`{"title":"refused","tokens":["a","b"],"topic":"t"}` + "\n"
	env := []string{"GATEWAY_URL=" + b.URL, "GATEWAY_KEY=k"}
	code, stdout, stderr := runGateway(t, env, "send", "--app", "shop", "--file", writeTemp(t, "campaign.ndjson", text))
	if code != 1 || !strings.Contains(stdout, `{"line":2,"index":0,"target_index":2,`) || !strings.Contains(stdout, `{"line":4,`) {
		t.Errorf("exit code %d\n%s%s", code, stdout, stderr)
	}
	if b.calls != 3 || len(b.otherKeys) != 0 || !strings.Contains(stderr, "send: 4 lines in ") || !strings.Contains(stderr, ": 2 refused, 5 queued") {
		t.Errorf("%d calls, %v\n%s", b.calls, b.otherKeys, stderr)
	}
}

func TestSendFileIgnoresByteOrderMark(t *testing.T) {
	b := newBatchServer(t, func(_, index int, line map[string]any) string {
		if line["title"] == "broken" {
			return fmt.Sprintf(`{"index":%d,"status":"refused","reason":"InvalidJSON","attempts":[]}`, index)
		}
		return queuedReceipt(index)
	})
	env := []string{"GATEWAY_URL=" + b.URL, "GATEWAY_KEY=k"}
	for _, text := range []string{"\ufeff{\"title\":\"a\"}\r\n{\"title\":\"b\"}\r\n", "{\"title\":\"a\"}\n{\"title\":\"b\"}"} {
		code, stdout, stderr := runGateway(t, env, "send", "--app", "shop", "--file", writeTemp(t, "campaign.ndjson", text))
		if code != 0 || stdout != "" || !strings.Contains(stderr, "2 queued") {
			t.Errorf("%q: exit code %d\n%s%s", text, code, stdout, stderr)
		}
	}
	if len(b.otherKeys) != 0 || len(b.accepted) != 2 {
		t.Errorf("keys %v, accepted %v: a byte order mark does not change a line", b.otherKeys, b.accepted)
	}
}

func TestSendFileStopsAtARevokedKey(t *testing.T) {
	b := newBatchServer(t, func(_, index int, _ map[string]any) string {
		if index == 1 {
			return `{"index":1,"status":"refused","reason":"Unauthenticated","attempts":[]}`
		}
		return queuedReceipt(index)
	})
	handler := b.Config.Handler
	b.Config.Handler = http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		b.mu.Lock()
		again := b.calls > 0
		b.mu.Unlock()
		if again {
			w.WriteHeader(http.StatusUnauthorized)
			_, _ = io.WriteString(w, `{"type":"https://sluice-push.github.io/problems/unauthenticated"}`)
			return
		}
		handler.ServeHTTP(w, r)
	})
	env := []string{"GATEWAY_URL=" + b.URL, "GATEWAY_KEY=k"}
	code, stdout, stderr := runGateway(t, env, "send", "--app", "shop", "--file", writeTemp(t, "campaign.ndjson", "{\"title\":\"a\"}\n{\"title\":\"b\"}\n"))
	if code != 1 || stdout != "" || !strings.Contains(stderr, "HTTP status 401") || !strings.Contains(stderr, "1 queued") {
		t.Errorf("exit code %d\n%s%s", code, stdout, stderr)
	}
}

func TestSendFileReportsPermanentErrors(t *testing.T) {
	file := writeTemp(t, "campaign.ndjson", `{"title":"a"}`)
	refusing := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.WriteHeader(http.StatusNotImplemented)
		_, _ = io.WriteString(w, `{"type":"https://sluice-push.github.io/problems/needs-queue"}`)
	}))
	defer refusing.Close()
	for _, c := range []struct {
		args []string
		code int
		want string
	}{
		{[]string{"--url", refusing.URL, "--file", file}, 1, "HTTP status 501: {\"type\":\"https://sluice-push.github.io/problems/needs-queue\"}"},
		{[]string{"--url", "http://127.0.0.1:1", "--file", file, "--timeout", "1ms"}, 1, "no line was accepted for 1ms (run the same command to continue)"},
		{[]string{"--url", refusing.URL, "--file", filepath.Join(t.TempDir(), "nowhere")}, 2, "no such file"},
		{[]string{"--url", refusing.URL, "--file", t.TempDir()}, 2, "must be a regular file"},
		{[]string{"--url", refusing.URL, "--file", file, "--title", "Hi"}, 2, "--file cannot be combined"},
		{[]string{"--url", refusing.URL, "--token", deviceToken}, 2, "missing flags: --platform"},
	} {
		code, stdout, stderr := runGateway(t, nil, append([]string{"send", "--key", "k", "--app", "shop"}, c.args...)...)
		if code != c.code || !strings.Contains(stderr, c.want) {
			t.Errorf("%v: exit code %d\n%s%s", c.args, code, stdout, stderr)
		}
	}
}

func TestSendFileSendsEachLineOnce(t *testing.T) {
	path := filepath.Join(t.TempDir(), "mock.json")
	providers := startGateway(t, nil, "mock", "--ready-file", path, "--keys", t.TempDir())
	key, hash := newKey(t)
	text := mockConfig(t, providers.readyFile(path))
	config := strings.Replace(readFile(t, text), "9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08", strings.TrimPrefix(hash, "sha256:"), 1)
	p := startGateway(t, nil, "serve", "-c", writeTemp(t, "gateway.yaml", config+fmt.Sprintf("queue: {dir: %q}\n", t.TempDir())))
	at := p.servingAt()
	file := writeTemp(t, "campaign.ndjson", strings.Repeat(fmt.Sprintf("{\"platform\":\"apns\",\"token\":%q,\"title\":\"Hi\"}\n", deviceToken), 1000))
	env := []string{"GATEWAY_URL=http://" + at, "GATEWAY_KEY=" + key}
	for _, c := range []struct{ as, want string }{{"", "1000 queued"}, {"", "1000 already accepted before"}, {"again", "1000 queued"}} {
		code, stdout, stderr := runGateway(t, env, "send", "--app", "demo", "--file", file, "--as", c.as)
		if code != 0 || stdout != "" || !strings.Contains(stderr, c.want) {
			t.Errorf("%v: exit code %d\n%s%s", c, code, stdout, stderr)
		}
	}
	p.terminate()
}

func newKey(t *testing.T) (key, hash string) {
	t.Helper()
	_, stdout, _ := runGateway(t, nil, "key")
	words := strings.Fields(stdout)
	return words[1], words[3]
}

func readFile(t *testing.T, file string) string {
	t.Helper()
	text, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

// TestSendFileSurvivesKilledGateway kills the gateway twice while a file is sent. Each line is accepted, and
// none is sent twice.
func TestSendFileSurvivesKilledGateway(t *testing.T) {
	path := filepath.Join(t.TempDir(), "mock.json")
	providers := startGateway(t, nil, "mock", "--ready-file", path, "--keys", t.TempDir())
	key, hash := newKey(t)
	text := readFile(t, mockConfig(t, providers.readyFile(path)))
	text = strings.Replace(text, "9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08", strings.TrimPrefix(hash, "sha256:"), 1)
	address := freeAddress(t)
	text = strings.Replace(text, "listen: 127.0.0.1:0", "listen: "+address, 1)
	config := writeTemp(t, "gateway.yaml", text+fmt.Sprintf("queue: {dir: %q}\n", t.TempDir()))

	const lines = 20_000
	var file strings.Builder
	for i := range lines {
		fmt.Fprintf(&file, "{\"platform\":\"apns\",\"token\":\"5a%062x\",\"title\":\"Hi\"}\n", i)
	}
	env := []string{"GATEWAY_URL=http://" + address, "GATEWAY_KEY=" + key}
	send := startGateway(t, env, "send", "--app", "demo", "--file", writeTemp(t, "campaign.ndjson", file.String()), "--timeout", "2m")
	for range 2 {
		p := startGateway(t, nil, "serve", "-c", config)
		p.eventually("some lines are accepted", func() bool { return historyEvents(t, address, key) > 1000 })
		p.signal(os.Kill)
		p.wait()
	}
	p := startGateway(t, nil, "serve", "-c", config)
	if code := send.wait(); code != 0 {
		t.Errorf("exit code %d\n%s%s", code, send.stdout.String(), send.stderr.String())
	}
	if stderr := send.stderr.String(); !strings.Contains(stderr, fmt.Sprintf("send: %d lines in ", lines)) {
		t.Error(stderr)
	}
	p.terminate()
	code, stdout, stderr := runGateway(t, nil, "audit", "--json", "-c", config)
	var report audit.Report
	if err := json.Unmarshal([]byte(stdout), &report); err != nil || code != 0 || report.Accepted < lines || !report.Clean() {
		t.Errorf("%d %v %s%s", code, err, stdout, stderr)
	}
}

// historyEvents returns how many events the history has received since the start of the gateway, or 0 if it
// does not respond.
func historyEvents(t *testing.T, address, key string) int {
	t.Helper()
	r, err := http.NewRequestWithContext(t.Context(), http.MethodGet, "http://"+address+"/v1/status", nil)
	if err != nil {
		t.Fatal(err)
	}
	r.Header.Set("Authorization", "Bearer "+key)
	response, err := http.DefaultClient.Do(r)
	if err != nil {
		return 0
	}
	defer func() { _ = response.Body.Close() }()
	var status struct{ History struct{ Events int } }
	_ = json.NewDecoder(response.Body).Decode(&status) // fails if the gateway is killed
	return status.History.Events
}

// freeAddress returns a local address below the ephemeral ports, so that it stays free while no gateway
// listens.
func freeAddress(t *testing.T) string {
	t.Helper()
	for range 100 {
		address := fmt.Sprintf("127.0.0.1:%d", 20_000+rand.IntN(10_000))
		if l, err := net.Listen("tcp", address); err == nil {
			if err := l.Close(); err != nil {
				t.Fatal(err)
			}
			return address
		}
	}
	t.Fatal("no free port")
	return ""
}
