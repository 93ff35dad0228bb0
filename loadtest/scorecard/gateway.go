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
	stage *stage
	cmd   *exec.Cmd
	born  time.Time
	ended chan struct{}

	mu     sync.Mutex
	url    string
	admin  string // what its operators ask
	events []event
	words  []string // the last lines of its log, for the row that fails
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
	kind     string    // such as ejected
}

// app is a block of the configuration's apps.
type app struct{ name, providers string }

// about is the kind of event: a pool's word, clock where the gateway finds a clock wrong, or the whole message.
func (e *event) about() string {
	if kind, ok := strings.CutPrefix(e.Message, "endpoint pool: "); ok || !strings.Contains(e.Message, "clock") {
		return kind
	}
	return "clock"
}

func quoted(words []string) string { return "'" + strings.Join(words, "', '") + "'" }

// apnsTo is an app that sends to the mock's APNs with a token key.
func apnsTo(m *mockprovider.Mock, files mockprovider.Files, more string) string {
	at := m.Ready(files)
	return fmt.Sprintf("apns: {url: 'https://%s', endpoints: ['%s'], ca_file: %q, key_file: %q, key_id: %s, team_id: %s, topic: %s%s}",
		at.APNs, strings.Join(at.APNsEndpoints, "', '"), at.CAFile, at.APNsKeyFile, at.APNsKeyID, at.APNsTeamID, at.APNsTopic, more)
}

// fcmTo is an app that sends to the mock's FCM.
func fcmTo(m *mockprovider.Mock, files mockprovider.Files, more string) string {
	return fmt.Sprintf("fcm: {url: '%s', endpoints: [%s], ca_file: %q, service_account_file: %q%s}",
		m.FCMURL(), quoted(m.Ready(files).FCMEndpoints), files.CA, files.ServiceAccount, more)
}

// both is the block of an app that sends to two services.
func both(one, other string) string { return one + "\n    " + other }

// files writes what a client of the mock needs.
func (s *stage) files(m *mockprovider.Mock) mockprovider.Files {
	files, err := m.WriteFiles(s.folder())
	s.need(err)
	return files
}

// gateway starts one for the app shop, which sends to the mock's APNs; settings are further lines of its configuration.
func (s *stage) gateway(m *mockprovider.Mock, settings string) *gateway {
	return s.serve(settings, app{shop, apnsTo(m, s.files(m), "")})
}

// shop is the app that sends.
const shop = "shop"

// serve starts a gateway for these apps and waits until all its pools are full.
func (s *stage) serve(settings string, apps ...app) *gateway { return s.open(size, settings, apps...) }

// open starts a gateway and waits until all its pools have so many live endpoints.
func (s *stage) open(live int, settings string, apps ...app) *gateway {
	g := s.launch(s.configuration(settings, apps...))
	s.eventually("the gateway's pools are full", 30*time.Second, func() bool {
		if g.over() {
			s.Fatalf("the gateway ended at once: %s", g.lastWords())
		}
		return g.address() != "" && g.status().live() >= live
	})
	return g
}

// configuration writes a configuration file as an operator would. Its settings may go on with those of limits.
func (s *stage) configuration(settings string, apps ...app) string {
	return s.configurationAt("127.0.0.1:0", settings, apps...)
}

// configurationAt is configuration for a gateway that listens elsewhere.
func (s *stage) configurationAt(listen, settings string, apps ...app) string {
	hash := sha256.Sum256([]byte(key))
	text := "listen: " + listen + "\nadmin: {listen: 127.0.0.1:0}\nlog: {level: info, format: json}\n" +
		"limits:\n  batch: 1000000\n  batch_in_flight: 100000\n" + settings + "\napps:\n"
	for _, a := range apps {
		text += fmt.Sprintf("  %s:\n    keys: [{name: score, hash: 'sha256:%s'}]\n    %s\n", a.name, hex.EncodeToString(hash[:]), a.providers)
	}
	path := filepath.Join(s.folder(), "gateway.yaml")
	s.need(os.WriteFile(path, []byte(text), 0o600))
	return path
}

// launch starts a process; it ends with the row.
func (s *stage) launch(config string) *gateway { return s.launchIn(nil, config) }

// launchIn is launch by a command that runs another, such as in a namespace.
func (s *stage) launchIn(inside []string, config string) *gateway {
	command := append(slices.Clone(inside), s.binary, "serve", "-c", config)
	g := &gateway{stage: s, cmd: exec.Command(command[0], command[1:]...), ended: make(chan struct{})}
	log, err := g.cmd.StderrPipe()
	s.need(err)
	g.born = time.Now()
	s.need(g.cmd.Start())
	copied := s.log()
	go func() {
		defer close(g.ended)
		g.listen(io.TeeReader(log, copied))
		_ = copied.Close()
		_ = g.cmd.Wait() // how it ended is in its last words
	}()
	s.Cleanup(g.stop)
	return g
}

// log is where the next gateway's log is kept, which may be nowhere.
func (s *stage) log() io.WriteCloser {
	name := os.DevNull
	if s.logs != "" {
		name = filepath.Join(s.logs, fmt.Sprintf("%s-%s.log", s.ID, time.Now().Format("150405.000")))
	}
	file, err := os.OpenFile(name, os.O_WRONLY|os.O_CREATE, 0o600)
	s.need(err)
	return file
}

// stop drains the gateway, and kills it if that takes long.
func (g *gateway) stop() {
	_ = g.cmd.Process.Signal(syscall.SIGTERM)
	select {
	case <-g.ended:
	case <-time.After(15 * time.Second):
		_ = g.cmd.Process.Kill()
		<-g.ended
	}
}

// listen reads the log until the process ends.
func (g *gateway) listen(log io.Reader) {
	lines := bufio.NewScanner(log)
	lines.Buffer(nil, 1<<20)
	for lines.Scan() {
		var e event
		if json.Unmarshal(lines.Bytes(), &e) == nil {
			e.kind = e.about()
		}
		g.mu.Lock()
		if g.words = append(g.words, lines.Text()); len(g.words) > 5 {
			g.words = g.words[1:]
		}
		switch {
		case e.Message == "gateway: serving":
			g.url, g.admin = "http://"+e.Listen, "http://"+e.Admin
		case e.kind != "":
			g.events = append(g.events, e)
		}
		g.mu.Unlock()
	}
}

func (g *gateway) over() bool {
	select {
	case <-g.ended:
		return true
	default:
		return false
	}
}

func (g *gateway) lastWords() string {
	g.mu.Lock()
	defer g.mu.Unlock()
	return strings.Join(g.words, " | ")
}

// address is the URL of its API, empty until it listens.
func (g *gateway) address() string {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.url
}

// since returns the pools' events of that kind from a time on, those of an endpoint unless that is empty.
func (g *gateway) since(from time.Time, kind, endpoint string) (found []event) {
	g.mu.Lock()
	defer g.mu.Unlock()
	for _, e := range g.events {
		if !e.Time.Before(from) && e.kind == kind && (endpoint == "" || e.Endpoint == endpoint) {
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

// web keeps as many connections as there are calls at a time.
var web = &http.Client{Timeout: time.Minute, Transport: &http.Transport{MaxIdleConnsPerHost: 10_000}}

// status asks the gateway; where it does not answer, the picture is empty.
func (g *gateway) status() (s status) {
	request, err := http.NewRequest(http.MethodGet, g.address()+"/v1/status", nil)
	g.stage.need(err)
	request.Header.Set("Authorization", "Bearer "+key)
	answer, err := web.Do(request)
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

// live is how many live endpoints the pool with the fewest has.
func (s status) live() int {
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

// verdict is the answer to one notification that was sent alone.
type verdict struct {
	code       int
	retryAfter string
	problem    struct {
		Receipt struct{ Status, Reason string }
	}
}

// post sends one notification for an app, as most callers do.
func (g *gateway) post(app string, n *push.Notification) (v verdict, err error) {
	body, err := json.Marshal(n)
	if err != nil {
		return v, err
	}
	answer, err := g.call("/v1/apps/"+app+"/notifications", "application/json", body)
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

// call posts a body to the API.
func (g *gateway) call(path, media string, body []byte) (*http.Response, error) {
	request, err := http.NewRequestWithContext(g.stage.ctx, http.MethodPost, g.address()+path, bytes.NewReader(body))
	if err != nil {
		return nil, err
	}
	request.Header.Set("Authorization", "Bearer "+key)
	request.Header.Set("Content-Type", media)
	return web.Do(request)
}

// ready reports what /readyz says.
func (g *gateway) ready() bool {
	if g.address() == "" {
		return false
	}
	answer, err := web.Get(g.address() + "/readyz")
	if err != nil {
		return false
	}
	_ = answer.Body.Close()
	return answer.StatusCode == http.StatusOK
}
