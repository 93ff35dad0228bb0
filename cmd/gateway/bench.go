// SPDX-License-Identifier: Apache-2.0

package main

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sync/errgroup"

	loadbench "github.com/sluice-push/sluice/internal/bench"
	loadreport "github.com/sluice-push/sluice/internal/report"
)

type benchCmd struct {
	Rate     rateFlag      `xor:"loop" placeholder:"5000/s" help:"Open loop: number of notifications due per second."`
	InFlight int           `xor:"loop" placeholder:"N" help:"Closed loop: number of calls in flight. The default is 64 without --rate."`
	Batch    int           `default:"1" placeholder:"N" help:"Notifications per call. The default is 1."`
	Mix      string        `placeholder:"FILE" help:"Weighted templates of the notifications, as YAML or as lines of JSON (.ndjson)."`
	Duration time.Duration `default:"30s" help:"How long to measure."`
	WarmUp   time.Duration `default:"5s" help:"How long to send before measuring."`

	Dev       bool   `xor:"ready,url" help:"Start mock providers and a gateway as separate processes for the test."`
	ReadyFile string `xor:"ready" placeholder:"FILE" help:"File that gateway dev or gateway mock wrote (their --ready-file)."`
	URL       string `name:"url" xor:"url" help:"Base URL of the gateway. The default is $GATEWAY_URL, unless --dev or --ready-file names one."`
	Key       string `help:"API key with the scopes send and read. The default is $SLUICE_KEY or $GATEWAY_KEY, unless --dev or --ready-file names one. Prefer the environment variable: other users of the machine can see flags."`
	tlsFlags
	App   []string       `help:"App to send for. Repeatable: the calls go to the apps in turn."`
	API   string         `enum:"sluice,gorush,pushsphere" default:"sluice" help:"API to use: sluice, gorush or pushsphere."`
	HTTP2 bool           `name:"http2" help:"Make the calls over HTTP/2 (without TLS if the URL is http). Calls share connections."`
	Pid   map[string]int `placeholder:"NAME=PID" help:"Process on this machine whose CPU time and memory to report. Repeatable."`

	Mock     string `placeholder:"FILE" help:"With --dev: configuration of the mock providers, as for gateway mock -c."`
	Apps     int    `default:"1" placeholder:"N" help:"With --dev: number of apps, with the same credentials. The calls go to the apps in turn."`
	Queue    bool   `negatable:"" default:"true" help:"With --dev: run the gateway with a queue and a history. --no-queue runs it without."`
	Fault    string `placeholder:"FILE" help:"Fault script of the mock providers in YAML (the list faults), played from the start of the measurement."`
	Profile  string `placeholder:"DIR" help:"Write profiles of the gateway to this directory, for go tool pprof: cpu.pb.gz, allocs.pb.gz and mutex.pb.gz."`
	AdminURL string `placeholder:"URL" help:"URL of the gateway's admin listener, for --profile. Not needed with --dev and --ready-file."`

	JSON    string   `name:"json" placeholder:"FILE" help:"Write the report to this file as JSON."`
	HTML    string   `name:"html" placeholder:"FILE" help:"Write the report to this file as a self-contained HTML page."`
	Compare bool     `help:"Compare the two JSON reports given as arguments instead of running a test."`
	Reports []string `arg:"" optional:"" help:"The two JSON reports of --compare."`
}

// Help returns the description and examples.
func (benchCmd) Help() string {
	return `Examples:

    gateway bench --dev --rate 5000/s --duration 1m --html report.html
    gateway bench --dev --in-flight 4 --batch 500
    gateway bench --url https://gateway.staging.example --app shop --rate 200/s --mix mix.yaml
    gateway bench --compare before.json after.json --html compared.html

Latency counts from the time at which a notification was due, so a stall shows in every notification that it delays. A template of --mix is {weight: 8, notification: {...}}, with the notification in the format of the API. In its strings, {{n}} is replaced with the number of the notification and {{hex}} with that number in the form of an APNs device token. With --dev or --ready-file, the report compares its count with the mock's ledger; if the counts differ, the exit code is 1. Ctrl-C ends the test early and still prints the report. With --dev, SLUICE_... variables override the configuration of the gateway.`
}

// rateFlag is a number of notifications per second.
type rateFlag float64

// UnmarshalText parses 5000 or 5000/s.
func (r *rateFlag) UnmarshalText(text []byte) error {
	n, err := strconv.ParseFloat(strings.TrimSuffix(string(text), "/s"), 64)
	if err != nil || n <= 0 {
		return fmt.Errorf("%q must be a number of notifications per second, such as 5000/s", text)
	}
	*r = rateFlag(n)
	return nil
}

// Run runs a test and prints its report, or compares two reports.
func (b benchCmd) Run(p process) error {
	if b.Compare || len(b.Reports) > 0 {
		return b.compare(p)
	}
	cfg, err := b.loadConfig()
	if err != nil {
		return usageError{err}
	}
	env, err := b.newEnv(p)
	if err != nil {
		return err
	}
	defer env.stop()
	env.applyTo(&cfg)
	cfg.URL = cmp.Or(cfg.URL, os.Getenv("GATEWAY_URL"))
	cfg.Key = cmp.Or(cfg.Key, os.Getenv("SLUICE_KEY"), os.Getenv("GATEWAY_KEY"))
	if cfg.URL == "" {
		return usageError{errors.New("bench: no target: set --dev, --ready-file or --url")}
	}
	panel := loadreport.Panel{Output: p.stderr, Terminal: isTerminal(p.stderr)}
	cfg.OnProgress, cfg.ProgressInterval = func(s loadbench.Snapshot) { panel.Show(toProgress(s)) }, panel.Interval()
	profileErr := b.startProfiles(p, env.AdminURL)
	r, err := loadbench.Run(p, cfg)
	panel.Clear()
	if err == nil {
		err = <-profileErr
	}
	if err != nil {
		return errors.Join(err, env.exitedOutput())
	}
	return errors.Join(r.Text(p.stdout), b.writeReports(r), checkLedger(r))
}

func (b benchCmd) loadConfig() (loadbench.Config, error) {
	cfg := loadbench.Config{
		URL: b.URL, Key: b.Key, Apps: b.App, API: b.API, HTTP2: b.HTTP2, Rate: float64(b.Rate), InFlight: b.InFlight, Batch: b.Batch, Duration: b.Duration, WarmUp: b.WarmUp,
		Version: version(), Command: b.commandLine(),
	}
	for _, name := range slices.Sorted(maps.Keys(b.Pid)) {
		cfg.Processes = append(cfg.Processes, loadbench.Process{Name: name, PID: b.Pid[name]})
	}
	var err error
	if cfg.TLS, err = b.config(); err != nil {
		return cfg, err
	}
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

// commandLine returns the command line without the API key.
func (b benchCmd) commandLine() string {
	args := append([]string{"gateway"}, os.Args[1:]...)
	for i, arg := range args {
		if b.Key != "" {
			args[i] = strings.ReplaceAll(arg, b.Key, "…")
		}
	}
	return strings.Join(args, " ")
}

// toProgress converts a snapshot for the panel.
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

// checkLedger returns errReported if the count differs from the ledger. The report shows the
// difference.
func checkLedger(r *loadreport.Report) error {
	if r.Ledger != nil && !r.Ledger.Equal() {
		return errReported
	}
	return nil
}

// compare prints the comparison of two reports.
func (b benchCmd) compare(p process) error {
	if !b.Compare || len(b.Reports) != 2 {
		return usageError{errors.New("bench: --compare takes two reports: gateway bench --compare before.json after.json")}
	}
	var reports [2]*loadreport.Report
	for i, path := range b.Reports {
		r, err := loadreport.Read(path)
		if err != nil {
			return usageError{fmt.Errorf("bench: %w", err)}
		}
		reports[i] = r
	}
	c := loadreport.Comparison{A: reports[0], B: reports[1], NameA: b.Reports[0], NameB: b.Reports[1]}
	err := c.Text(p.stdout)
	if b.HTML != "" {
		err = errors.Join(err, writeFile(b.HTML, c.Page))
	}
	return err
}

// startProfiles profiles the gateway during the measurement. An interrupted run has no profiles,
// because pprof returns them only after their full duration.
func (b benchCmd) startProfiles(ctx context.Context, admin string) <-chan error {
	done := make(chan error, 1)
	if b.Profile == "" {
		done <- nil
		return done
	}
	if b.AdminURL != "" {
		admin = b.AdminURL
	}
	if err := os.MkdirAll(b.Profile, 0o700); err != nil {
		done <- err
		return done
	}
	go func() {
		select {
		case <-time.After(b.WarmUp):
		case <-ctx.Done():
		}
		var downloads errgroup.Group
		for name, profile := range map[string]string{"cpu": "profile", "allocs": "allocs", "mutex": "mutex"} {
			downloads.Go(func() error {
				url := fmt.Sprintf("%s/debug/pprof/%s?seconds=%d", admin, profile, max(int(b.Duration.Seconds()), 1))
				return download(ctx, url, filepath.Join(b.Profile, name+".pb.gz"))
			})
		}
		err := downloads.Wait()
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
	response, err := http.DefaultClient.Do(request)
	if err != nil {
		return fmt.Errorf("bench: --profile: %w", err)
	}
	defer response.Body.Close()
	if response.StatusCode != http.StatusOK {
		return fmt.Errorf("bench: --profile: the gateway's admin listener responded %s", response.Status)
	}
	return writeFile(file, func(w io.Writer) error {
		_, err := io.Copy(w, response.Body)
		return err
	})
}

// readReadyFile reads a ready file.
func readReadyFile(path string) (info readyInfo, err error) {
	text, err := os.ReadFile(path)
	if err != nil {
		return info, usageError{fmt.Errorf("bench: --ready-file: %w", err)}
	}
	if err := json.Unmarshal(text, &info); err != nil {
		return info, usageError{fmt.Errorf("bench: --ready-file %s: not a ready file of gateway mock or gateway dev", path)}
	}
	return info, nil
}
