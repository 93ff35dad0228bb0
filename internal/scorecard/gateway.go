// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bufio"
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/sluice-push/sluice/mockprovider"
	"github.com/sluice-push/sluice/push"
)

// key is the one API key of every gateway here.
const key = "slk_score_card"

// gateway is one process of the gateway.
type gateway struct {
	scenario  *scenario
	cmd       *exec.Cmd
	startedAt time.Time
	done      chan struct{}

	mu      sync.Mutex
	url     string
	admin   string // what its operators ask
	events  []event
	logTail []string // the last lines of its log, for the row that fails
}

// event is what the gateway's log tells of a pool.
type event struct {
	Time     time.Time `json:"time"`
	Message  string    `json:"msg"`
	Pool     string    `json:"pool"`
	Endpoint string    `json:"endpoint"`
	Reason   string    `json:"reason"`
	Listen   string    `json:"listen"`
	Admin    string    `json:"admin"`
	Kind     string    `json:"event"` // of a pool's event, such as ejected
}

// app is a block of the configuration's apps.
type app struct{ name, blocks string }

// eventKind returns the kind of an event: that of a pool's event, "clock" if the gateway reports a wrong clock, or else the
// whole message.
func (e *event) eventKind() string {
	switch {
	case e.Kind != "":
		return e.Kind
	case strings.Contains(e.Message, "clock"):
		return "clock"
	default:
		return e.Message
	}
}

func quoteList(words []string) string { return "'" + strings.Join(words, "', '") + "'" }

// apnsBlock is an app that sends to the mock's APNs with a token key.
func apnsBlock(m *mockprovider.Mock, files mockprovider.Files, more string) string {
	at := m.Ready(files)
	return fmt.Sprintf("apns: {url: 'https://%s', endpoints: ['%s'], ca_file: %q, key_file: %q, key_id: %s, team_id: %s, topic: %s%s}",
		at.APNs, strings.Join(at.APNsEndpoints, "', '"), at.CAFile, at.APNsKeyFile, at.APNsKeyID, at.APNsTeamID, at.APNsTopic, more)
}

// fcmBlock is an app that sends to the mock's FCM.
func fcmBlock(m *mockprovider.Mock, files mockprovider.Files, more string) string {
	return fmt.Sprintf("fcm: {url: '%s', endpoints: [%s], ca_file: %q, service_account_file: %q%s}",
		m.FCMURL(), quoteList(m.Ready(files).FCMEndpoints), files.CA, files.ServiceAccount, more)
}

// joinBlocks is the block of an app that sends to two services.
func joinBlocks(one, other string) string { return one + "\n    " + other }

// writeMockFiles writes what a client of the mock needs.
func (s *scenario) writeMockFiles(m *mockprovider.Mock) mockprovider.Files {
	files, err := m.WriteFiles(s.newTempDir())
	s.noError(err)
	return files
}

// startAPNsGateway starts one for the app shop, which sends to the mock's APNs; settings are further lines of its configuration.
func (s *scenario) startAPNsGateway(m *mockprovider.Mock, settings string) *gateway {
	return s.startGateway(settings, app{shopApp, apnsBlock(m, s.writeMockFiles(m), "")})
}

// shopApp is the app that sends.
const shopApp = "shop"

// startGateway starts a gateway for these apps and waits until all its pools are full.
func (s *scenario) startGateway(settings string, apps ...app) *gateway {
	return s.startGatewayWith(poolSize, settings, apps...)
}

// startGatewayWith starts a gateway and waits until all its pools have so many live endpoints.
func (s *scenario) startGatewayWith(live int, settings string, apps ...app) *gateway {
	g := s.startProcess(s.writeConfig(settings, apps...))
	s.eventually("the gateway's pools are full", 30*time.Second, func() bool {
		if g.exited() {
			s.Fatalf("the gateway ended at once: %s", g.lastLog())
		}
		return g.baseURL() != "" && g.status().minLive() >= live
	})
	return g
}

// writeConfig writes a configuration file as an operator would. Its settings may go on with those of limits.
func (s *scenario) writeConfig(settings string, apps ...app) string {
	return s.writeConfigAt("127.0.0.1:0", settings, apps...)
}

// writeConfigAt is configuration for a gateway that listens elsewhere.
func (s *scenario) writeConfigAt(listen, settings string, apps ...app) string {
	hash := sha256.Sum256([]byte(key))
	text := "listen: " + listen + "\nadmin: {listen: 127.0.0.1:0}\nlog: {level: info, format: json}\n" +
		"limits:\n  batch: 1000000\n  batch_in_flight: 100000\n" + settings + "\napps:\n"
	for _, a := range apps {
		text += fmt.Sprintf("  %s:\n    keys: [{name: score, hash: 'sha256:%s'}]\n    %s\n", a.name, hex.EncodeToString(hash[:]), a.blocks)
	}
	path := filepath.Join(s.newTempDir(), "gateway.yaml")
	s.noError(os.WriteFile(path, []byte(text), 0o600))
	return path
}

// startProcess starts a process; it ends with the row.
func (s *scenario) startProcess(config string) *gateway { return s.startProcessIn(nil, config) }

// startProcessIn is launch by a command that runs another, such as in a namespace.
func (s *scenario) startProcessIn(inside []string, config string) *gateway {
	command := append(slices.Clone(inside), s.binary, "serve", "-c", config)
	g := &gateway{scenario: s, cmd: exec.Command(command[0], command[1:]...), done: make(chan struct{})}
	log, err := g.cmd.StderrPipe()
	s.noError(err)
	g.startedAt = time.Now()
	s.noError(g.cmd.Start())
	copied := s.openLog()
	go func() {
		defer close(g.done)
		g.readLog(io.TeeReader(log, copied))
		_ = copied.Close()
		_ = g.cmd.Wait() // how it ended is in its last words
	}()
	s.Cleanup(g.stop)
	return g
}

// openLog is where the next gateway's log is kept, which may be nowhere.
func (s *scenario) openLog() io.WriteCloser {
	name := os.DevNull
	if s.logs != "" {
		name = filepath.Join(s.logs, fmt.Sprintf("%s-%s.log", s.ID, time.Now().Format("150405.000")))
	}
	file, err := os.OpenFile(name, os.O_WRONLY|os.O_CREATE, 0o600)
	s.noError(err)
	return file
}

// stop drains the gateway, and kills it if that takes long.
func (g *gateway) stop() {
	_ = g.cmd.Process.Signal(syscall.SIGTERM)
	select {
	case <-g.done:
	case <-time.After(15 * time.Second):
		_ = g.cmd.Process.Kill()
		<-g.done
	}
}

// readLog reads the log until the process ends.
func (g *gateway) readLog(log io.Reader) {
	lines := bufio.NewScanner(log)
	lines.Buffer(nil, 1<<20)
	for lines.Scan() {
		var e event
		if json.Unmarshal(lines.Bytes(), &e) == nil {
			e.Kind = e.eventKind()
		}
		g.mu.Lock()
		if g.logTail = append(g.logTail, lines.Text()); len(g.logTail) > 5 {
			g.logTail = g.logTail[1:]
		}
		switch {
		case e.Message == "serving":
			g.url, g.admin = "http://"+e.Listen, "http://"+e.Admin
		case e.Kind != "":
			g.events = append(g.events, e)
		}
		g.mu.Unlock()
	}
}

func (g *gateway) exited() bool {
	select {
	case <-g.done:
		return true
	default:
		return false
	}
}

func (g *gateway) lastLog() string {
	g.mu.Lock()
	defer g.mu.Unlock()
	return strings.Join(g.logTail, " | ")
}

// baseURL is the URL of its API, empty until it listens.
func (g *gateway) baseURL() string {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.url
}

// eventsSince returns the pools' events of that kind from a time on, those of an endpoint unless that is empty.
func (g *gateway) eventsSince(from time.Time, kind, endpoint string) (found []event) {
	g.mu.Lock()
	defer g.mu.Unlock()
	for _, e := range g.events {
		if !e.Time.Before(from) && e.Kind == kind && (endpoint == "" || e.Endpoint == endpoint) {
			found = append(found, e)
		}
	}
	return found
}

// status is what is read of GET /v1/status.
type status struct {
	Services []struct {
		Pool struct {
			Name      string
			Size      int
			Dials     int
			InFlight  int `json:"in_flight"`
			Endpoints []struct {
				Address, State string
				Connections    int
			}
		}
	}
}

// httpClient keeps as many connections as there are calls at a time.
var httpClient = &http.Client{Timeout: time.Minute, Transport: &http.Transport{MaxIdleConnsPerHost: 10_000}}

// status asks the gateway; where it does not answer, the picture is empty.
func (g *gateway) status() (s status) {
	request, err := http.NewRequest(http.MethodGet, g.baseURL()+"/v1/status", nil)
	g.scenario.noError(err)
	request.Header.Set("Authorization", "Bearer "+key)
	answer, err := httpClient.Do(request)
	if err != nil {
		return s
	}
	defer func() { _ = answer.Body.Close() }()
	_ = json.NewDecoder(answer.Body).Decode(&s)
	return s
}

// inFlight counts the attempts under way.
func (s status) inFlight() (n int) {
	for _, service := range s.Services {
		n += service.Pool.InFlight
	}
	return n
}

// minLive is how many live endpoints the pool with the fewest has.
func (s status) minLive() int {
	least := 0
	for i, service := range s.Services {
		live := 0
		for _, e := range service.Pool.Endpoints {
			live += min(e.Connections, 1)
		}
		if i == 0 || live < least {
			least = live
		}
	}
	return least
}

// response is the answer to one notification that was sent alone.
type response struct {
	code       int
	retryAfter string
	problem    struct {
		Receipt struct{ Status, Reason string }
	}
}

// sendOne sends one notification for an app, as most callers do.
func (g *gateway) sendOne(app string, n *push.Notification) (v response, err error) {
	body, err := json.Marshal(n)
	if err != nil {
		return v, err
	}
	answer, err := g.postBody("/v1/apps/"+app+"/notifications", "application/json", body)
	if err != nil {
		return v, err
	}
	defer func() { _ = answer.Body.Close() }()
	v.code, v.retryAfter = answer.StatusCode, answer.Header.Get("Retry-After")
	text, err := io.ReadAll(answer.Body) // to its end, so that its connection carries the next call
	if err == nil && v.code != http.StatusOK {
		err = json.Unmarshal(text, &v.problem)
	}
	return v, err
}

// postBody posts a body to the API.
func (g *gateway) postBody(path, media string, body []byte) (*http.Response, error) {
	request, err := http.NewRequestWithContext(g.scenario.ctx, http.MethodPost, g.baseURL()+path, bytes.NewReader(body))
	if err != nil {
		return nil, err
	}
	request.Header.Set("Authorization", "Bearer "+key)
	request.Header.Set("Content-Type", media)
	return httpClient.Do(request)
}

// ready reports what /readyz says.
func (g *gateway) ready() bool {
	if g.baseURL() == "" {
		return false
	}
	answer, err := httpClient.Get(g.baseURL() + "/readyz")
	if err != nil {
		return false
	}
	_ = answer.Body.Close()
	return answer.StatusCode == http.StatusOK
}
