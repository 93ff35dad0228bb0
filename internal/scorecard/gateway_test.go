// SPDX-License-Identifier: Apache-2.0

package scorecard

import (
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
	"sync/atomic"
	"time"

	"github.com/sluice-push/sluice/internal/subprocess"
	"github.com/sluice-push/sluice/mockprovider"
	"github.com/sluice-push/sluice/push"
)

// key is the API key of all gateways.
const key = "slk_score_card"

// gateway is a gateway process.
type gateway struct {
	*subprocess.Process
	scenario  *scenario
	startedAt time.Time
	stallLog  atomic.Bool // readLine blocks
	closeLog  func()      // closes the log, and ends a stall

	mu     sync.Mutex
	events []event
}

// event is a log entry of the gateway, such as an event of a pool.
type event struct {
	Time     time.Time `json:"time"`
	Message  string    `json:"msg"`
	Pool     string    `json:"pool"`
	Endpoint string    `json:"endpoint"`
	Reason   string    `json:"reason"`
	Kind     string    `json:"event"` // kind of a pool event, such as ejected
}

// app is an app in the configuration: its name and the blocks of its providers.
type app struct{ name, blocks string }

// eventKind returns the kind of an entry: the kind of a pool event, "clock" if the gateway reports
// clock skew, or the whole message.
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

func quoteList(values []string) string { return "'" + strings.Join(values, "', '") + "'" }

// apnsBlock returns the block of an app that sends to the mock's APNs with a token key.
func apnsBlock(m *mockprovider.Mock, files mockprovider.Files, extra string) string {
	info := m.Ready(files)
	return fmt.Sprintf("apns: {url: 'https://%s', endpoints: ['%s'], ca_file: %q, key_file: %q, key_id: %s, team_id: %s, topic: %s%s}",
		info.APNs, strings.Join(info.APNsEndpoints, "', '"), info.CAFile, info.APNsKeyFile, info.APNsKeyID, info.APNsTeamID, info.APNsTopic, extra)
}

// fcmBlock returns the block of an app that sends to the mock's FCM.
func fcmBlock(m *mockprovider.Mock, files mockprovider.Files, extra string) string {
	return fmt.Sprintf("fcm: {url: '%s', endpoints: [%s], ca_file: %q, service_account_file: %q%s}",
		m.FCMURL(), quoteList(m.Ready(files).FCMEndpoints), files.CA, files.ServiceAccount, extra)
}

// joinBlocks joins the blocks of an app that sends to two services.
func joinBlocks(one, other string) string { return one + "\n    " + other }

// writeMockFiles writes the key files that clients of the mock need.
func (s *scenario) writeMockFiles(m *mockprovider.Mock) mockprovider.Files {
	files, err := m.WriteFiles(s.newTempDir())
	s.noError(err)
	return files
}

// startAPNsGateway starts a gateway with the app shopApp, which sends to the mock's APNs. settings
// are additional lines of its configuration.
func (s *scenario) startAPNsGateway(m *mockprovider.Mock, settings string) *gateway {
	return s.startGateway(settings, app{shopApp, apnsBlock(m, s.writeMockFiles(m), "")})
}

// shopApp is the name of the app that sends.
const shopApp = "shop"

// startGateway starts a gateway for these apps and waits until all its pools are full.
func (s *scenario) startGateway(settings string, apps ...app) *gateway {
	return s.startGatewayWith(poolSize, settings, apps...)
}

// startGatewayWith starts a gateway and waits until each of its pools has at least live endpoints.
func (s *scenario) startGatewayWith(live int, settings string, apps ...app) *gateway {
	return s.startFull(live, s.writeConfig(settings, apps...))
}

// startFull starts a gateway with a configuration file and waits until each of its pools has at
// least live endpoints.
func (s *scenario) startFull(live int, config string) *gateway {
	g := s.startProcess(config)
	s.eventually("waiting for full pools", 30*time.Second, func() bool {
		if g.Exited() {
			s.Fatalf("the gateway exited: %s", g.lastLog())
		}
		return g.baseURL() != "" && g.status().minLive() >= live
	})
	return g
}

// writeConfig writes a configuration file and returns its path. settings can start with indented
// lines, which continue the block limits.
func (s *scenario) writeConfig(settings string, apps ...app) string {
	return s.writeConfigAt("127.0.0.1:0", settings, apps...)
}

// writeConfigAt is writeConfig with a listen address. The rows read the events of pools, which the gateway
// logs at debug level.
func (s *scenario) writeConfigAt(listen, settings string, apps ...app) string {
	hash := sha256.Sum256([]byte(key))
	text := "listen: " + listen + "\nadmin: {listen: 127.0.0.1:0}\nlog: {level: debug, format: json}\n" +
		"limits:\n  batch: 1000000\n  batch_in_flight: 100000\n" + settings + "\napps:\n"
	for _, a := range apps {
		text += fmt.Sprintf("  %s:\n    keys: [{name: score, hash: 'sha256:%s'}]\n    %s\n", a.name, hex.EncodeToString(hash[:]), a.blocks)
	}
	path := filepath.Join(s.newTempDir(), "gateway.yaml")
	s.noError(os.WriteFile(path, []byte(text), 0o600))
	return path
}

// startProcess starts a gateway process that stops at the end of the row.
func (s *scenario) startProcess(config string) *gateway { return s.startProcessIn(nil, config) }

// startProcessIn is startProcess with a command prefix, such as nsenter.
func (s *scenario) startProcessIn(prefix []string, config string) *gateway {
	command := append(slices.Clone(prefix), s.binary, "serve", "-c", config)
	cmd := exec.Command(command[0], command[1:]...)
	cmd.Env = append(os.Environ(), "SLUICE_POOL_IDLE_TIMEOUT=0s") // pools connect at the start, before the load
	g, logFile, logClosed := &gateway{scenario: s, startedAt: time.Now()}, s.openLog(), make(chan struct{})
	process, err := subprocess.Start(cmd, func(line []byte) {
		if g.stallLog.Load() {
			<-logClosed
		}
		_, _ = fmt.Fprintf(logFile, "%s\n", line)
		g.readLine(line)
	})
	s.noError(err)
	g.Process, g.closeLog = process, sync.OnceFunc(func() {
		process.CloseLog()
		close(logClosed)
	})
	s.Cleanup(func() {
		g.stop()
		_ = logFile.Close()
	})
	return g
}

// openLog opens the file for the log of the next gateway, or the null device.
func (s *scenario) openLog() io.WriteCloser {
	name := os.DevNull
	if s.logs != "" {
		name = filepath.Join(s.logs, fmt.Sprintf("%s-%s.log", s.ID, time.Now().Format("150405.000")))
	}
	file, err := os.OpenFile(name, os.O_WRONLY|os.O_CREATE, 0o600)
	s.noError(err)
	return file
}

// stop drains the gateway and kills it if it does not exit within 15 seconds.
func (g *gateway) stop() {
	if g.stallLog.Load() {
		g.closeLog() // otherwise the process never ends
	}
	g.Stop(15 * time.Second)
}

// readLine reads a line of the log.
func (g *gateway) readLine(line []byte) {
	var e event
	if json.Unmarshal(line, &e) != nil {
		return
	}
	e.Kind = e.eventKind()
	g.mu.Lock()
	defer g.mu.Unlock()
	g.events = append(g.events, e)
}

// lastLog returns the last lines of the log, for the notes of a failed row.
func (g *gateway) lastLog() string {
	lines := strings.Split(g.Output(), "\n")
	return strings.Join(lines[max(0, len(lines)-5):], " | ")
}

// baseURL returns the base URL of the API, or "" until the gateway serves.
func (g *gateway) baseURL() string {
	url, _ := g.Addresses()
	return url
}

// adminURL returns the base URL of the admin listener.
func (g *gateway) adminURL() string {
	_, admin := g.Addresses()
	return admin
}

// eventsSince returns the events of one kind since a time, for one endpoint or, if endpoint is
// empty, for all.
func (g *gateway) eventsSince(since time.Time, kind, endpoint string) (matching []event) {
	g.mu.Lock()
	defer g.mu.Unlock()
	for _, e := range g.events {
		if !e.Time.Before(since) && e.Kind == kind && (endpoint == "" || e.Endpoint == endpoint) {
			matching = append(matching, e)
		}
	}
	return matching
}

// status holds the fields of GET /v1/status that the rows use.
type status struct {
	Connections struct{ Limit int }
	Services    []struct {
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

// httpClient keeps idle connections for all concurrent calls.
var httpClient = &http.Client{Timeout: time.Minute, Transport: &http.Transport{MaxIdleConnsPerHost: 10_000}}

// status fetches the status of the gateway. It returns an empty status if the gateway does not
// respond.
func (g *gateway) status() (s status) {
	if resp, err := g.scenario.do(g.scenario.request(http.MethodGet, g.baseURL()+"/v1/status", nil)); err == nil {
		_ = json.Unmarshal(resp.body, &s)
	}
	return s
}

// inFlight returns the number of attempts in flight.
func (s status) inFlight() (n int) {
	for _, service := range s.Services {
		n += service.Pool.InFlight
	}
	return n
}

// minLive returns the lowest number of connected endpoints of all pools.
func (s status) minLive() int {
	lowest := 0
	for i, service := range s.Services {
		live := 0
		for _, e := range service.Pool.Endpoints {
			live += min(e.Connections, 1)
		}
		if i == 0 || live < lowest {
			lowest = live
		}
	}
	return lowest
}

// receipt holds the fields of a receipt that the rows use.
type receipt struct {
	ID     string
	Index  *int
	Status string
	Reason string
}

// response is the response to a call.
type response struct {
	code       int
	retryAfter string
	body       []byte
	receipt    receipt // also that in a problem; empty for several
}

func notificationsPath(app string) string { return "/v1/apps/" + app + "/notifications" }

// request returns a request to the API, with pairs of a header field and its value.
func (s *scenario) request(method, url string, body []byte, header ...string) *http.Request {
	request, err := http.NewRequestWithContext(s.ctx, method, url, bytes.NewReader(body))
	s.noError(err)
	request.Header.Set("Authorization", "Bearer "+key)
	request.Header.Set("Content-Type", "application/json")
	for pair := range slices.Chunk(header, 2) {
		request.Header.Set(pair[0], pair[1])
	}
	return request
}

// do makes a call. It can be called from any goroutine.
func (s *scenario) do(request *http.Request) (v response, err error) {
	resp, err := httpClient.Do(request)
	if err != nil {
		return v, err
	}
	defer func() { _ = resp.Body.Close() }()
	v.code, v.retryAfter = resp.StatusCode, resp.Header.Get("Retry-After")
	if v.body, err = io.ReadAll(resp.Body); err != nil {
		return v, err
	}
	var problem struct{ Receipt *receipt }
	if json.Unmarshal(v.body, &problem) == nil && problem.Receipt != nil {
		v.receipt = *problem.Receipt
	} else {
		_ = json.Unmarshal(v.body, &v.receipt) // not the body of a batch or of a status
	}
	return v, nil
}

// sendOne sends one notification with a single call.
func (g *gateway) sendOne(app string, n *push.Notification) (response, error) {
	return g.scenario.do(g.scenario.request(http.MethodPost, g.baseURL()+notificationsPath(app), encode(n)))
}

// ready reports whether /readyz responds with 200.
func (g *gateway) ready() bool {
	if g.baseURL() == "" {
		return false
	}
	resp, err := httpClient.Get(g.baseURL() + "/readyz")
	if err != nil {
		return false
	}
	_ = resp.Body.Close()
	return resp.StatusCode == http.StatusOK
}
