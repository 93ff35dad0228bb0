// SPDX-License-Identifier: Apache-2.0

// Package bench offers a gateway, or a peer of it, a load and measures what comes of it: at a rate that no answer can
// change, or with so many calls in flight. It draws nothing, and judges only whether its count is that of the mock's ledger.
package bench

import (
	"context"
	"errors"
	"fmt"
	"net/url"
	"os"
	"time"

	"github.com/sluice-push/sluice/internal/report"
)

// Config is one load test.
type Config struct {
	// URL is where the API is, such as http://127.0.0.1:8080.
	URL string
	// Key is the API key and App whom it belongs to; of Pushsphere, its access token and its group and set as GROUP/SET.
	Key, App string
	// API is whose API it is: sluice, gorush or pushsphere; default sluice.
	API string
	// Mix is what is sent; default DefaultMix.
	Mix *Mix
	// Rate is how many notifications are due in a second, whatever becomes of them: an open loop. 0 closes the loop.
	Rate float64
	// InFlight is how many calls a closed loop keeps in flight; default 64.
	InFlight int
	// Batch is how many notifications go into one call; default 1, a call of its own for each.
	Batch int
	// Duration is how long notifications are offered and measured, after they have been offered for WarmUp unmeasured.
	// Duration's default is 30 s.
	Duration, WarmUp time.Duration
	// Timeout is how long a call waits for more of its answer, and Grace how long the end waits for calls under way; default 30 s both.
	Timeout, DrainTimeout time.Duration
	// Connections bounds those of an open loop; default 1,000. What is due while all are busy waits for one, and that time
	// is part of its latency.
	MaxConnections int
	// Ledger and Script are the URLs of a mock's ledger and of its script; empty: there is no mock that would be known.
	Ledger, Script string
	// Faults are played on the mock from the beginning of the measured time on, in YAML.
	Faults []byte
	// Watch are processes on this machine whose processor time and memory are looked at; this one is always among them.
	Processes []Process
	// Tell is called every TellEvery (default 1 s) while the test runs.
	OnProgress       func(Snapshot)
	ProgressInterval time.Duration
	// Version and Command are what the report says of this program and of how it was called.
	Version, Command string
}

// Process is one to watch.
type Process struct {
	Name string
	PID  int
}

func (c *Config) setDefaults() {
	set := func(d *time.Duration, to time.Duration) {
		if *d == 0 {
			*d = to
		}
	}
	set(&c.Duration, 30*time.Second)
	set(&c.Timeout, 30*time.Second)
	set(&c.DrainTimeout, 30*time.Second)
	set(&c.ProgressInterval, time.Second)
	c.Batch = max(c.Batch, 1)
	if c.InFlight == 0 {
		c.InFlight = 64
	}
	if c.MaxConnections == 0 {
		c.MaxConnections = 1000
	}
	if c.API == "" {
		c.API = "sluice"
	}
	if c.Mix == nil {
		c.Mix = DefaultMix()
	}
}

// validate refuses what makes no sense, naming the flag and what is allowed.
func (c *Config) validate() error {
	base, err := url.Parse(c.URL)
	switch {
	case err != nil || base.Host == "" || base.Scheme != "http" && base.Scheme != "https":
		return fmt.Errorf("bench: URL %q: must be one such as http://127.0.0.1:8080", c.URL)
	case c.Rate < 0 || c.Rate > 10_000_000:
		return fmt.Errorf("bench: rate %g: must be 0 to 10,000,000 a second", c.Rate)
	case c.InFlight < 0 || c.InFlight > 100_000:
		return fmt.Errorf("bench: in flight %d: must be 1 to 100,000", c.InFlight)
	case c.Batch < 0 || c.Batch > 100_000:
		return fmt.Errorf("bench: batch %d: must be 1 to 100,000", c.Batch)
	case c.Duration < 0 || c.WarmUp < 0 || c.Duration > 30*24*time.Hour || c.WarmUp > 24*time.Hour:
		return errors.New("bench: duration and warm-up must not be negative, and at most 30 and 1 days")
	case len(c.Faults) > 0 && c.Script == "":
		return errors.New("bench: faults need a mock whose script's URL is known")
	}
	return nil
}

// Run offers the load, waits for what is under way, and reports. The end of ctx ends the offering early, and the report
// tells of what was offered until then. An error means that there is no report.
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
	early := t.run(ctx)
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), 10*time.Second)
	defer cancel()
	after, err := t.mock.acceptedCount(ctx)
	if err != nil {
		return nil, err
	}
	r := t.recorder.report()
	r.Setting, r.Machine, r.Faults, r.Early = t.settings(), machine, t.faults, early
	r.Machine.LoadThen = loadAverage()
	r.Processes = t.processes(r.Answered)
	if before != nil {
		r.Ledger = &report.Ledger{Reported: t.recorder.totalAccepted, Accepted: *after - *before, Uncertain: t.recorder.totalUncertain}
	}
	return r, nil
}

// loadTest is a Config on its way.
type loadTest struct {
	Config
	schedule   schedule
	mock       *mock
	faults     []report.Fault
	recorder   *recorder
	workers    *workerPool
	cpuAtStart map[int]time.Duration // by each process when the measured time began
}

func newLoadTest(c Config) (*loadTest, error) {
	faults, err := parseFaults(c.Faults)
	if err != nil {
		return nil, err
	}
	spoken, err := newAPI(&c)
	if err != nil {
		return nil, err
	}
	phrases, err := c.Mix.compile(spoken)
	if err != nil {
		return nil, err
	}
	c.Processes = append([]Process{{"bench", os.Getpid()}}, c.Processes...)
	t := &loadTest{Config: c, mock: newMock(c.Ledger, c.Script), faults: faults, cpuAtStart: map[int]time.Duration{}}
	began := time.Now()
	t.schedule = schedule{start: began, duration: c.WarmUp + c.Duration, rate: c.Rate / float64(c.Batch)}
	t.recorder = newRecorder(began.Add(c.WarmUp), c.Duration)
	t.workers = &workerPool{loadTest: t, api: spoken, mix: phrases, maxWorkers: c.MaxConnections}
	if c.Rate == 0 {
		t.workers.maxWorkers = c.InFlight
	}
	return t, nil
}

// run offers everything and returns once all of it has ended. It reports whether it ended early.
func (t *loadTest) run(ctx context.Context) (early bool) {
	offering, stop := context.WithCancel(ctx)
	watching, done := context.WithCancel(context.WithoutCancel(ctx))
	hard, give := context.WithCancel(context.WithoutCancel(ctx))
	defer give()
	var others group
	others.Go(func() { t.startMeasuring(offering) })
	others.Go(func() { t.reportProgress(watching) })
	others.Go(func() { t.pollStatus(watching) })

	t.workers.ctx = hard
	if t.Rate > 0 {
		t.schedule.runOpenLoop(offering, t.workers.submit)
	} else {
		t.schedule.runClosedLoop(offering, t.InFlight, t.workers.runClosedLoop)
	}
	early = ctx.Err() != nil
	t.recorder.stop()
	stop()
	t.workers.drain(t.DrainTimeout, give)
	done()
	others.Wait()
	t.mock.stopScript(len(t.Faults) > 0)
	return early
}

// startMeasuring does what is to be done when the measured time begins.
func (t *loadTest) startMeasuring(ctx context.Context) {
	if !sleep(ctx, time.Until(t.schedule.start.Add(t.WarmUp))) {
		return
	}
	for _, p := range t.Processes {
		t.cpuAtStart[p.PID] = cpuTime(p.PID)
	}
	if len(t.Faults) > 0 {
		t.recorder.recordError(t.mock.startScript(ctx, t.Config.Faults))
	}
}

func (t *loadTest) settings() report.Setting {
	return report.Setting{
		Command: t.Command, URL: t.URL, API: t.API, Mix: t.Mix.Name, Rate: t.Rate, InFlight: t.InFlight, Batch: t.Batch, WarmUp: t.WarmUp.Seconds(),
	}
}

// sleep reports whether it slept for all of d.
func sleep(ctx context.Context, d time.Duration) bool {
	if d <= 0 {
		return ctx.Err() == nil
	}
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return true
	case <-ctx.Done():
		return false
	}
}
