// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"net/http"
	"os"
	"slices"
	"strconv"
	"strings"
	"time"

	loadbench "github.com/sluice-push/sluice/internal/bench"
	loadreport "github.com/sluice-push/sluice/internal/report"
)

type benchCmd struct {
	Rate     rateFlag      `xor:"loop" placeholder:"5000/s" help:"Open loop: so many notifications are due in a second, whatever becomes of them."`
	InFlight int           `xor:"loop" placeholder:"N" help:"Closed loop: so many calls are in flight (default 64, without --rate)."`
	Batch    int           `default:"1" placeholder:"N" help:"Notifications in a call; default 1."`
	Mix      string        `placeholder:"FILE" help:"What is sent: weighted templates, in YAML, or on lines of JSON (.ndjson)."`
	Duration time.Duration `default:"30s" help:"How long to measure."`
	WarmUp   time.Duration `default:"5s" help:"How long to send before measuring."`

	Dev       bool           `xor:"where" help:"Start mock providers and a gateway for the test, as processes of their own."`
	ReadyFile string         `xor:"where" placeholder:"FILE" help:"Where gateway dev or mock wrote what it listens on (their --ready-file)."`
	URL       string         `name:"url" xor:"where" env:"GATEWAY_URL" help:"The gateway."`
	Key       string         `env:"SLUICE_KEY,GATEWAY_KEY" help:"API key with the scopes send and read. Better set the variable: other users of this machine can see flags."`
	App       string         `help:"App to send for."`
	API       string         `enum:"sluice,gorush,pushsphere" default:"sluice" help:"Whose API it is: sluice, gorush or pushsphere."`
	Pid       map[string]int `placeholder:"NAME=PID" help:"A process on this machine whose CPU and memory to report; may be given several times."`

	Mock     string `placeholder:"FILE" help:"With --dev: what the mock providers play, as for gateway mock -c."`
	Queue    bool   `negatable:"" default:"true" help:"With --dev: give the gateway a queue, which keeps the history of every notification. --no-queue gives it none."`
	Fault    string `placeholder:"FILE" help:"What goes wrong with the mock providers, in YAML (faults: a list), from the first measured second on."`
	Profile  string `placeholder:"FILE" help:"Keep a CPU profile of the gateway here, for go tool pprof."`
	AdminURL string `placeholder:"URL" help:"The gateway's admin listener, for --profile; known with --dev and --ready-file."`

	JSON    string   `name:"json" placeholder:"FILE" help:"Write the report as JSON."`
	HTML    string   `name:"html" placeholder:"FILE" help:"Write the report as one page that needs nothing else."`
	Compare bool     `help:"Instead of a test: compare the two JSON reports that follow."`
	Reports []string `arg:"" optional:"" hidden:""`
}

// Help shows an example.
func (benchCmd) Help() string {
	return `Examples:

    gateway bench --dev --rate 5000/s --duration 1m --html report.html
    gateway bench --dev --in-flight 4 --batch 500
    gateway bench --url https://gateway.staging.example --app shop --rate 200/s --mix mix.yaml
    gateway bench --compare before.json after.json --html compared.html

Latency counts from the time that a notification was due, so a stall shows in everything that it held up. A template of --mix is {weight: 8, notification: {...}} as the API takes it; in its texts {{n}} becomes the notification's number and {{hex}} the same as an APNs device token. With --dev or --ready-file the count is held against the mock's ledger: if they differ, the report says by how many, and the exit code is 1. Ctrl-C ends the test early, with a report. With --dev, SLUICE_... variables change the gateway's configuration.`
}

// rateFlag is a number of notifications a second.
type rateFlag float64

// UnmarshalText reads 5000 or 5000/s.
func (r *rateFlag) UnmarshalText(text []byte) error {
	n, err := strconv.ParseFloat(strings.TrimSuffix(string(text), "/s"), 64)
	if err != nil || n <= 0 {
		return fmt.Errorf("%q must be a number of notifications a second, such as 5000/s", text)
	}
	*r = rateFlag(n)
	return nil
}

// Run runs the test and reports, or compares.
func (b benchCmd) Run(p process) error {
	if b.Compare || len(b.Reports) > 0 {
		return b.compare(p)
	}
	cfg, err := b.loadConfig()
	if err != nil {
		return usageError{err}
	}
	house, err := b.newEnv(p)
	if err != nil {
		return err
	}
	defer house.stop()
	house.applyTo(&cfg)
	if cfg.URL == "" {
		return usageError{errors.New("bench: what is to be tested? Give --dev, --ready-file or --url")}
	}
	panel := loadreport.Panel{Output: p.stderr, Terminal: isTerminal(p.stderr)}
	cfg.OnProgress, cfg.ProgressInterval = func(s loadbench.Snapshot) { panel.Show(toProgress(s)) }, panel.Interval()
	profiled := b.startProfile(p, house.AdminURL)
	r, err := loadbench.Run(p, cfg)
	panel.Clear()
	if err == nil {
		err = <-profiled
	}
	if err != nil {
		return errors.Join(err, house.exitedOutput())
	}
	return errors.Join(r.Text(p.stdout), b.writeReports(r), checkLedger(r))
}

func (b benchCmd) loadConfig() (loadbench.Config, error) {
	cfg := loadbench.Config{
		URL: b.URL, Key: b.Key, App: b.App, API: b.API, Rate: float64(b.Rate), InFlight: b.InFlight, Batch: b.Batch, Duration: b.Duration, WarmUp: b.WarmUp,
		Version: version(), Command: b.commandLine(),
	}
	for _, name := range slices.Sorted(maps.Keys(b.Pid)) {
		cfg.Processes = append(cfg.Processes, loadbench.Process{Name: name, PID: b.Pid[name]})
	}
	var err error
	if b.Mix != "" {
		cfg.Mix, err = loadbench.ReadMix(b.Mix)
	}
	if b.Fault != "" && err == nil {
		cfg.Faults, err = os.ReadFile(b.Fault)
	}
	if err != nil {
		err = fmt.Errorf("bench: %w", err)
	}
	return cfg, err
}

// commandLine is the command line without its secret.
func (b benchCmd) commandLine() string {
	args := append([]string{"gateway"}, os.Args[1:]...)
	for i, arg := range args {
		if b.Key != "" {
			args[i] = strings.ReplaceAll(arg, b.Key, "…")
		}
	}
	return strings.Join(args, " ")
}

// toProgress is a snapshot as the panel shows it.
func toProgress(s loadbench.Snapshot) loadreport.Progress {
	return loadreport.Progress{
		Elapsed: s.Elapsed, WarmUp: s.WarmUp, Total: s.Total, Offered: s.Offered, Answered: s.Answered, Latency: s.Latency, InFlight: s.InFlight,
		Verdicts: s.Verdicts, Healthy: s.Healthy, Unhealthy: s.Unhealthy,
	}
}

func (b benchCmd) writeReports(r *loadreport.Report) error {
	var err error
	if b.JSON != "" {
		err = r.Write(b.JSON)
	}
	if b.HTML == "" {
		return err
	}
	return errors.Join(err, writeFile(b.HTML, r.Page))
}

func writeFile(path string, write func(io.Writer) error) error {
	file, err := os.Create(path)
	if err != nil {
		return err
	}
	return errors.Join(write(file), file.Close())
}

// checkLedger fails if the count is not the ledger's. The report has said so.
func checkLedger(r *loadreport.Report) error {
	if r.Ledger != nil && !r.Ledger.Equal() {
		return errReported
	}
	return nil
}

// compare holds two reports side by side.
func (b benchCmd) compare(p process) error {
	if !b.Compare || len(b.Reports) != 2 {
		return usageError{errors.New("bench: --compare takes two reports: gateway bench --compare before.json after.json")}
	}
	var both [2]*loadreport.Report
	for i, path := range b.Reports {
		r, err := loadreport.Read(path)
		if err != nil {
			return usageError{fmt.Errorf("bench: %w", err)}
		}
		both[i] = r
	}
	c := loadreport.Comparison{A: both[0], B: both[1], NameA: b.Reports[0], NameB: b.Reports[1]}
	err := c.Text(p.stdout)
	if b.HTML != "" {
		err = errors.Join(err, writeFile(b.HTML, c.Page))
	}
	return err
}

// startProfile has the gateway's processor time profiled while it is measured. A run that is ended early has its report, and
// no profile: pprof gives none of a part of its time.
func (b benchCmd) startProfile(ctx context.Context, admin string) <-chan error {
	done := make(chan error, 1)
	if b.Profile == "" {
		done <- nil
		return done
	}
	if b.AdminURL != "" {
		admin = b.AdminURL
	}
	go func() {
		select {
		case <-time.After(b.WarmUp):
		case <-ctx.Done():
		}
		err := download(ctx, fmt.Sprintf("%s/debug/pprof/profile?seconds=%d", admin, max(int(b.Duration.Seconds()), 1)), b.Profile)
		if ctx.Err() != nil {
			err = nil
		}
		done <- err
	}()
	return done
}

func download(ctx context.Context, url, file string) error {
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return fmt.Errorf("bench: --profile: %w", err)
	}
	answer, err := http.DefaultClient.Do(request)
	if err != nil {
		return fmt.Errorf("bench: --profile: %w", err)
	}
	defer answer.Body.Close()
	if answer.StatusCode != http.StatusOK {
		return fmt.Errorf("bench: --profile: the gateway's admin listener answers %s", answer.Status)
	}
	return writeFile(file, func(to io.Writer) error {
		_, err := io.Copy(to, answer.Body)
		return err
	})
}

// readReadyFile returns what a ready file says.
func readReadyFile(path string) (at readyInfo, err error) {
	text, err := os.ReadFile(path)
	if err != nil {
		return at, usageError{fmt.Errorf("bench: --ready-file: %w", err)}
	}
	if err := json.Unmarshal(text, &at); err != nil {
		return at, usageError{fmt.Errorf("bench: --ready-file %s: %w", path, err)}
	}
	return at, nil
}
