// SPDX-License-Identifier: Apache-2.0

// Package bench sends load to a gateway or to a comparable product and measures the result: package
// load sends it, and package report presents the result.
package bench

import (
	"cmp"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net/url"
	"os"
	"sync"
	"time"

	"github.com/sluice-push/sluice/internal/load"
	"github.com/sluice-push/sluice/internal/report"
	"github.com/sluice-push/sluice/internal/sleep"
)

// Config configures a load test.
type Config struct {
	// URL is the base URL of the API, such as http://127.0.0.1:8080.
	URL string
	// Key is the API key of all Apps. For Pushsphere, Key is the access token.
	Key string
	// Apps are the apps to send for. The calls go to them in turn. Pushsphere has one, GROUP/SET.
	Apps []string
	// API is sluice, gorush or pushsphere. The default is sluice.
	API string
	// Topic is the APNs topic for gorush, which expects one in each call. A notification of the mix with
	// the header apns-topic overrides it.
	Topic string
	// Mix determines the notifications. The default is DefaultMix.
	Mix *Mix
	// Rate selects an open loop with this number of notifications per second. 0 selects a closed
	// loop.
	Rate float64
	// InFlight is the number of calls that a closed loop keeps in flight. The default is 64.
	InFlight int
	// Batch is the number of notifications per call. The default is 1, which uses the API for
	// single notifications.
	Batch int
	// Duration is the length of the measurement, by default 30 s. WarmUp is the length of the
	// unmeasured load before it.
	Duration, WarmUp time.Duration
	// Timeout, DrainTimeout and MaxConnections are those of load.Generator.
	Timeout, DrainTimeout time.Duration
	MaxConnections        int
	// HTTP2 makes the calls over HTTP/2. It costs this process much more CPU time than HTTP/1.1.
	HTTP2 bool
	// TLS configures https connections to the gateway; nil trusts the system's authorities.
	TLS *tls.Config
	// Ledger and Script are the URLs of the mock's ledger and fault script. Empty means unknown:
	// without Ledger the report has no comparison.
	Ledger, Script string
	// Faults is a fault script in YAML, played from the start of the measurement. It needs Script.
	Faults []byte
	// Processes are processes on this machine. The report includes their CPU time and memory, and
	// always those of the current process.
	Processes []Process
	// OnProgress, if set, is called every ProgressInterval (default 1 s) while the test runs.
	OnProgress       func(Snapshot)
	ProgressInterval time.Duration
	// Version and Command are the version of this program and its command line, for the report.
	Version, Command string
}

// Process identifies a process by its ID and the name used in the report.
type Process struct {
	Name string
	PID  int
}

func (c *Config) setDefaults() {
	c.Duration, c.ProgressInterval = cmp.Or(c.Duration, 30*time.Second), cmp.Or(c.ProgressInterval, time.Second)
	c.Batch, c.InFlight, c.API = cmp.Or(c.Batch, 1), cmp.Or(c.InFlight, 64), cmp.Or(c.API, "sluice")
	if len(c.Apps) == 0 {
		c.Apps = []string{""}
	}
	if c.Mix == nil {
		c.Mix = DefaultMix()
	}
}

// validate checks that each value is in its allowed range.
func (c *Config) validate() error {
	base, err := url.Parse(c.URL)
	switch {
	case err != nil || base.Host == "" || base.Scheme != "http" && base.Scheme != "https":
		return fmt.Errorf("bench: URL %q: must be a URL such as http://127.0.0.1:8080", c.URL)
	case c.Rate < 0 || c.Rate > 10_000_000:
		return fmt.Errorf("bench: rate %g: must be 0 to 10,000,000 per second", c.Rate)
	case c.InFlight < 0 || c.InFlight > 100_000:
		return fmt.Errorf("bench: in flight %d: must be 1 to 100,000", c.InFlight)
	case c.Batch < 0 || c.Batch > 100_000:
		return fmt.Errorf("bench: batch %d: must be 1 to 100,000", c.Batch)
	case c.Duration < 0 || c.WarmUp < 0 || c.Duration > 30*24*time.Hour || c.WarmUp > 24*time.Hour:
		return errors.New("bench: duration must be 0 to 30 days, warm-up 0 to 1 day")
	case len(c.Apps) > 1 && c.API != "" && c.API != "sluice":
		return fmt.Errorf("bench: %s has only one app", c.API)
	case len(c.Faults) > 0 && c.Script == "":
		return errors.New("bench: faults need the URL of the mock's fault script")
	}
	return nil
}

// Run runs the load test, waits for the calls in flight and returns the report. When ctx is done,
// Run stops the load early and still reports on the load so far. An error means that there is no
// report.
func Run(ctx context.Context, c Config) (*report.Report, error) {
	if err := c.validate(); err != nil {
		return nil, err
	}
	c.setDefaults()
	t, err := newLoadTest(c)
	if err != nil {
		return nil, err
	}
	machine := describeMachine(c.Version)
	before, err := t.mock.acceptedCount(ctx)
	if err != nil {
		return nil, err
	}
	interrupted, err := t.run(ctx)
	if err != nil {
		return nil, fmt.Errorf("bench: %w", err)
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), 10*time.Second)
	defer cancel()
	after, err := t.mock.acceptedCount(ctx)
	if err != nil {
		return nil, err
	}
	r := t.recorder.report()
	r.Settings, r.Machine, r.Faults, r.Interrupted = t.settings(), machine, t.faults, interrupted
	r.Machine.LoadAtEnd = loadAverage()
	r.Processes = t.processes(r.Answered)
	if before != nil {
		r.Ledger = &report.Ledger{Reported: t.recorder.totalAccepted, Accepted: *after - *before, Uncertain: t.recorder.totalUncertain}
	}
	return r, nil
}

// loadTest is the state of one Run.
type loadTest struct {
	Config
	generator  load.Generator
	mock       *mock
	faults     []report.Fault
	recorder   *recorder
	cpuAtStart map[int]time.Duration // CPU time by process ID at the start of the measurement
}

func newLoadTest(c Config) (*loadTest, error) {
	faults, err := parseFaults(c.Faults)
	if err != nil {
		return nil, err
	}
	mix, err := c.Mix.compile(c.API, c.Topic)
	if err != nil {
		return nil, err
	}
	c.Processes = append([]Process{{"bench", os.Getpid()}}, c.Processes...)
	t := &loadTest{Config: c, mock: newMock(c.Ledger, c.Script), faults: faults, cpuAtStart: map[int]time.Duration{}}
	start := time.Now()
	t.recorder = newRecorder(start.Add(c.WarmUp), c.Duration)
	t.recorder.warmUp = c.WarmUp
	t.generator = load.Generator{
		URL: c.URL, Key: c.Key, Apps: c.Apps, API: c.API, HTTP2: c.HTTP2, TLS: c.TLS, Append: mix.append, Rate: c.Rate, Duration: c.WarmUp + c.Duration, Batch: c.Batch,
		MaxConnections: c.MaxConnections, Timeout: c.Timeout, DrainTimeout: c.DrainTimeout, Recorder: t.recorder, Start: start,
	}
	if c.Rate == 0 {
		t.generator.InFlight = c.InFlight
	}
	return t, nil
}

// run sends the load and returns when all calls have ended. It reports whether ctx ended the load
// early.
func (t *loadTest) run(ctx context.Context) (interrupted bool, err error) {
	measureCtx, stopMeasuring := context.WithCancel(ctx)
	monitorCtx, stopMonitor := context.WithCancel(context.WithoutCancel(ctx))
	var wg sync.WaitGroup
	wg.Go(func() { t.startMeasuring(measureCtx) })
	wg.Go(func() { t.reportProgress(monitorCtx) })
	wg.Go(func() { t.pollStatus(monitorCtx) })
	err = t.generator.Run(ctx)
	stopMeasuring()
	stopMonitor()
	wg.Wait()
	t.mock.stopScript(len(t.Faults) > 0)
	return ctx.Err() != nil, err
}

// startMeasuring waits for the end of the warm-up. It then records CPU times and starts the fault
// script.
func (t *loadTest) startMeasuring(ctx context.Context) {
	if !sleep.For(ctx, time.Until(t.recorder.start)) {
		return
	}
	for _, p := range t.Processes {
		t.cpuAtStart[p.PID] = cpuTime(p.PID)
	}
	if len(t.Faults) > 0 {
		t.recorder.recordError(t.mock.startScript(ctx, t.Config.Faults))
	}
}

func (t *loadTest) settings() report.Settings {
	return report.Settings{
		Command: t.Command, URL: t.URL, API: t.API, Mix: t.Mix.Name, Rate: t.Rate, InFlight: t.InFlight, Batch: t.Batch, Apps: len(t.Apps), HTTP2: t.HTTP2, WarmUp: t.WarmUp.Seconds(),
	}
}
