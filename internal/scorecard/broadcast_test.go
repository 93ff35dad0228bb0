// SPDX-License-Identifier: Apache-2.0

package scorecard

import (
	"bufio"
	"encoding/json"
	"flag"
	"fmt"
	"io"
	"math"
	"net/http"
	"os"
	"strings"
	"sync"
	"time"

	"github.com/sluice-push/sluice/mockprovider"
	"github.com/sluice-push/sluice/push"
)

var (
	devices         = flag.Int("devices", 60_000, "`number` of devices of the broadcast of S32")
	broadcastSeries = flag.String("broadcast-series", "", "`file` for the states of the broadcast of S32 over time, which tools/broadcast draws")
)

// broadcasts is S32. A broadcast is sent at a fixed rate, and is paused and resumed five times, while
// critical notifications are sent in single calls. Another one is recalled in the middle.
func broadcasts(s *scenario) {
	const criticalRate, alone = 20.0, 5 * time.Second
	rate := min(10_000, *devices/40) // per second
	cfg := mockWithDelay(5 * time.Millisecond)
	cfg.Endpoints, cfg.LedgerSize = poolSize, 2**devices+100_000
	m := s.startMock(cfg)
	config := s.writeConfig(fmt.Sprintf("queue: {dir: %q}\nbroadcasts: {max_lines: %d}", s.newTempDir(), *devices+1), app{shopApp, apnsBlock(m, s.writeMockFiles(m), "")})
	s.replaceInFile(config, "level: debug", "level: info")
	s.replaceInFile(config, "name: score,", "name: score, scopes: [send, read, broadcasts],")
	g := s.startFull(poolSize, config)

	sent := time.Duration(*devices/rate)*time.Second + 5*pauseTime
	critical := s.startCalls(g, shopApp, criticalRate, alone+sent, withLane(push.LaneCritical, apnsNotification))
	b := s.newBroadcast(g, "b1", *devices, rate)
	s.note("%d lines uploaded and validated within %s", *devices, format(time.Since(critical.started)))
	critical.waitUntil(max(alone, time.Since(critical.started)))
	b.start()
	for i := range 5 {
		s.eventually("waiting for a part of the broadcast", sent, func() bool { return b.counts().Accepted >= (i+1)**devices/6 })
		b.pause(pauseTime)
	}
	s.eventually("waiting for the end of the broadcast", sent+time.Minute, func() bool { return b.get().State == "completed" })
	b.stopSampling()

	accepted := requestTimes(m, mockprovider.APNs).accepted
	late, running, count := 0, time.Duration(0), 0
	for i, p := range b.pauses {
		late += len(accepted.between(p.from.Add(time.Second), p.until)) - int(criticalRate*(p.until.Sub(p.from)-time.Second).Seconds())
		from := b.started // the second after a start is not counted, nor what was in flight when a pause began
		if i > 0 {
			from = b.pauses[i-1].until
		}
		from = from.Add(time.Second)
		running, count = running+p.from.Sub(from), count+len(accepted.between(from, p.from))
	}
	atMost(&s.rowResult, "sent later than a second after a pause", max(late-2*len(b.pauses), 0), 0) // the number of critical ones can differ by two
	measured := float64(count)/running.Seconds() - criticalRate
	s.expect("rate, relative to the requested one", fmt.Sprintf("%.2f%% (within 2%%)", measured/float64(rate)*100), math.Abs(measured/float64(rate)-1) <= 0.02)
	s.expectOncePerDevice(m, b.prefix, *devices)
	counts := b.counts()
	s.expect("counts", fmt.Sprintf("accepted %d, total %d", counts.Accepted, counts.Total), counts.Accepted == *devices && counts.Total == *devices)
	calls := critical.wait()
	atMost(&s.rowResult, "critical p99", calls.Samples.LatencyQuantile(0.99), 100*time.Millisecond)
	s.expectZero("critical not accepted", s.countNotAccepted(calls.Samples))
	s.expectRecall(g, m)
	atMost(&s.rowResult, "memory, MiB", g.maxMemory()>>20, 250)
}

// pauseTime is how long S32 pauses.
const pauseTime = 3 * time.Second

// expectOncePerDevice compares the ledger with an audience.
func (s *scenario) expectOncePerDevice(m *mockprovider.Mock, prefix string, count int) {
	reached, repeated := 0, 0
	for token, times := range m.Ledger().AcceptedByToken() {
		if strings.HasPrefix(token, prefix) {
			reached, repeated = reached+1, repeated+times-1
		}
	}
	s.expect("devices in the ledger", fmt.Sprint(reached), reached == count)
	s.expectZero("sent twice", repeated)
}

// expectRecall recalls a broadcast when half of it is sent. The recall must reach the devices that were
// reached, and no others.
func (s *scenario) expectRecall(g *gateway, m *mockprovider.Mock) {
	count := *devices / 5
	b := s.newBroadcast(g, "b2", count, min(10_000, count/5))
	b.start()
	s.eventually("waiting for half of a broadcast", time.Minute, func() bool { return b.counts().Accepted >= count/2 })
	b.command("recall")
	s.eventually("waiting for the end of the recall", 2*time.Minute, func() bool { return b.get().State == "recalled" })
	b.stopSampling()
	both, other := 0, 0
	for token, times := range m.Ledger().AcceptedByToken() {
		switch {
		case !strings.HasPrefix(token, b.prefix):
		case times == 2:
			both++
		default:
			other++
		}
	}
	status := b.get()
	s.expect("recalled", fmt.Sprintf("%d of %d", both, count), both > 0 && both < count && both == status.RecallCounts.Accepted && both == status.Counts.Accepted)
	s.expectZero("devices with the message or the recall only", other)
}

// broadcastStatus is what the API says about a broadcast.
type broadcastStatus struct {
	ID           string          `json:"id"`
	State        string          `json:"state"`
	Counts       broadcastCounts `json:"counts"`
	RecallCounts broadcastCounts `json:"recall_counts"`
	Validation   *struct {
		Valid int `json:"valid"`
	} `json:"validation"`
}

type broadcastCounts struct {
	Total, Pending, Queued, Accepted, Unknown int
}

// broadcast is a broadcast of a gateway.
type broadcast struct {
	*scenario
	g       *gateway
	url     string
	prefix  string // of the tokens
	started time.Time
	pauses  []pausedTime
	series  []seriesPoint
	stop    func()
}

type pausedTime struct{ from, until time.Time }

// seriesPoint is the state of a broadcast at a time.
type seriesPoint struct {
	Seconds float64 `json:"seconds"` // since the start
	State   string  `json:"state"`
	broadcastCounts
}

// newBroadcast creates a broadcast, uploads its audience and validates it. All tokens have the prefix, of two
// digits.
func (s *scenario) newBroadcast(g *gateway, prefix string, count, rate int) *broadcast {
	collection := g.baseURL() + "/v1/apps/" + shopApp + "/broadcasts"
	b := &broadcast{scenario: s, g: g, prefix: prefix}
	definition := fmt.Sprintf(`{"name":"Scorecard","message":{"title":"Hello {{name|there}}"},"audience":{"platform":"apns"},"rate":{"per_minute":%d},
		"recall":{"message":{"title":"We are sorry"}}}`, rate*60)
	response, err := s.do(s.request(http.MethodPost, collection, []byte(definition)))
	s.noError(err)
	var created broadcastStatus
	if s.noError(json.Unmarshal(response.body, &created)); created.ID == "" {
		s.Fatalf("the broadcast was not created: %d %s", response.code, response.body)
	}
	b.url = collection + "/" + created.ID
	in, out := io.Pipe()
	go func() {
		w := bufio.NewWriterSize(out, 64<<10)
		for i := range count {
			_, _ = fmt.Fprintf(w, "{\"token\":\"%s%062x\",\"variables\":{\"name\":\"Ann\"}}\n", b.prefix, i)
		}
		_ = out.CloseWithError(w.Flush())
	}()
	upload, err := http.NewRequestWithContext(s.ctx, http.MethodPut, b.url+"/audience", in)
	s.noError(err)
	upload.Header.Set("Authorization", "Bearer "+key)
	upload.Header.Set("Content-Type", "application/x-ndjson")
	response, err = s.do(upload)
	s.noError(err)
	if response.code >= 300 {
		s.Fatalf("the audience was not uploaded: %d %s", response.code, response.body)
	}
	b.command("validate")
	s.eventually("waiting for the validation", 3*time.Minute, func() bool { return b.get().State == "ready" })
	return b
}

func (b *broadcast) get() (status broadcastStatus) {
	response, err := b.do(b.request(http.MethodGet, b.url, nil))
	b.noError(err)
	b.noError(json.Unmarshal(response.body, &status))
	return status
}

func (b *broadcast) counts() broadcastCounts { return b.get().Counts }

func (b *broadcast) command(name string) {
	response, err := b.do(b.request(http.MethodPost, b.url+"/"+name, nil))
	b.noError(err)
	if response.code >= 300 {
		b.Fatalf("%s: %d %s", name, response.code, response.body)
	}
}

// start starts the broadcast, and begins to record its states.
func (b *broadcast) start() {
	b.command("start")
	b.started = time.Now()
	done, sampled := make(chan struct{}), make(chan struct{})
	b.stop = sync.OnceFunc(func() {
		close(done)
		<-sampled // bounded by the timeout of a call
	})
	b.Cleanup(b.stop)
	go func() {
		defer close(sampled)
		ticker := time.NewTicker(500 * time.Millisecond)
		defer ticker.Stop()
		for {
			response, err := b.do(b.request(http.MethodGet, b.url, nil))
			var status broadcastStatus
			if err == nil && json.Unmarshal(response.body, &status) == nil {
				b.series = append(b.series, seriesPoint{time.Since(b.started).Seconds(), status.State, status.Counts})
			}
			select {
			case <-ticker.C:
			case <-done:
				return
			}
		}
	}()
}

// pause pauses the broadcast and resumes it after d.
func (b *broadcast) pause(d time.Duration) {
	b.command("pause")
	from := time.Now()
	b.sleep(d)
	b.pauses = append(b.pauses, pausedTime{from, time.Now()})
	b.command("resume")
}

// stopSampling ends what start began, and writes the series of the first broadcast to a file if there is one.
func (b *broadcast) stopSampling() {
	b.stop()
	if *broadcastSeries == "" || len(b.pauses) == 0 {
		return
	}
	text, err := json.Marshal(b.series)
	b.noError(err)
	b.noError(os.WriteFile(*broadcastSeries, text, 0o644))
}
