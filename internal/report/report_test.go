// SPDX-License-Identifier: Apache-2.0

package report_test

import (
	"bytes"
	"encoding/xml"
	"io"
	"math"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/sluice-push/sluice/internal/report"
)

// sampleReport returns a report of ten seconds with two faults.
func sampleReport() *report.Report {
	r := &report.Report{
		Start: time.Date(2026, 11, 22, 11, 0, 0, 0, time.UTC), Seconds: 10, Step: 1, Offered: 1000, Answered: 990, Lost: 10, OfferedRate: 100, Rate: 99,
		Settings: report.Settings{Command: "gateway bench --mix <b>", URL: "http://127.0.0.1:8080", API: "sluice", Mix: "a <mix>", Rate: 100, Batch: 1, WarmUp: 1},
		Machine:  report.Machine{System: "linux/amd64", CPUs: 2, Go: "go1.26", Version: "v1"},
		Verdicts: map[string]int{"accepted": 980, "unknown": 10, "lost": 10}, Reasons: map[string]int{"unknown: PING_TIMEOUT": 10, "lost: no <answer>": 10},
		Latency: report.Latency{P50: 1, P90: 2, P99: 30, P999: 900, Max: 1000, Mean: 4}, Overhead: &report.Latency{P50: 0.2, P99: 1},
		Distribution: []report.Bucket{{UpTo: 1, Count: 500}, {UpTo: 1.122, Count: 490}}, Faults: []report.Fault{{From: 3, Until: 5, Description: "apns, status 503"}, {From: 9, Description: "blackhole"}},
		Endpoints: []report.Endpoint{{Address: "192.0.2.1:443", Attempts: 600, Accepted: 590}, {Address: "192.0.2.2:443", Attempts: 400, Accepted: 390}},
		Processes: []report.Process{{Name: "gateway", PID: 7, CPU: 1, CPUPer100k: 5, RSS: 40}}, Ledger: &report.Ledger{Reported: 980, Accepted: 980},
	}
	for i := range 10 {
		r.Timeline = append(r.Timeline, report.TimelineStep{
			Start: float64(i), Offered: 100, Answered: 99, Verdicts: map[string]int{"accepted": 98, "unknown": 1}, Latency: report.Latency{P50: 1, P90: 2, P99: 30, P999: 100},
			Endpoints: map[string]int{"192.0.2.1:443": 60, "192.0.2.2:443": 40}, Unhealthy: map[string]string{"192.0.2.2:443": "ejected"},
		})
	}
	return r
}

// externalReference matches markup that makes a browser load another resource.
var externalReference = regexp.MustCompile(`(?i)\b(src|href|action|data|poster|srcset)\s*=|url\(|@import|<link|<iframe|https?:|["'(= ]//`)

// loadsResource matches code that makes a browser load another resource.
var loadsResource = regexp.MustCompile(`fetch\(|XMLHttpRequest|WebSocket|EventSource|sendBeacon|import\(|\.(src|href)\b|new Image|\beval\(|new Function`)

func TestPageIsWellFormedAndSelfContained(t *testing.T) {
	library, err := os.ReadFile("uplot/uPlot.iife.min.js")
	if err != nil {
		t.Fatal(err)
	}
	if found := loadsResource.Find(library); found != nil {
		t.Errorf("uPlot has %q", found)
	}
	pages := map[string]func(io.Writer) error{
		"a run": sampleReport().Page, "an empty run": (&report.Report{}).Page, "a comparison": report.Comparison{A: sampleReport(), B: sampleReport(), NameA: "a", NameB: "b"}.Page,
		"a comparison with nothing": report.Comparison{A: &report.Report{}, B: sampleReport()}.Page,
	}
	for name, page := range pages {
		var b bytes.Buffer
		if err := page(&b); err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		text := strings.Replace(b.String(), string(library), "", 1)
		if found := externalReference.FindString(text); found != "" {
			t.Errorf("%s: external reference in the page: %q", name, found)
		}
		if found := loadsResource.FindString(text); found != "" {
			t.Errorf("%s: the page has %q", name, found)
		}
		if strings.Contains(text, "NaN") || strings.Contains(text, "Inf") || strings.Contains(text, "ZgotmplZ") {
			t.Errorf("%s: the page contains NaN, Inf or a value rejected by html/template", name)
		}
		if charts := strings.Contains(name, "run"); charts != strings.Contains(text, "Copyright (c) 2022 Leon Sorokin") {
			t.Errorf("%s: the licence of uPlot is missing, or not needed", name)
		}
		checkWellFormed(t, name, text)
	}
}

// checkWellFormed parses the page as XML after removing the elements that only HTML allows.
func checkWellFormed(t *testing.T, name, text string) {
	t.Helper()
	text = regexp.MustCompile(`(?s)<script>.*?</script>|<style>.*?</style>|<!doctype html>`).ReplaceAllString(text, "")
	text = regexp.MustCompile(`<meta [^>]*>`).ReplaceAllString(text, "")
	for d := xml.NewDecoder(strings.NewReader(text)); ; {
		if _, err := d.Token(); err == io.EOF {
			return
		} else if err != nil {
			t.Errorf("%s: %v", name, err)
			return
		}
	}
}

func TestPageEscapesInput(t *testing.T) {
	var b bytes.Buffer
	if err := sampleReport().Page(&b); err != nil {
		t.Fatal(err)
	}
	for _, bad := range []string{"<mix>", "--mix <b>", "no <answer>"} {
		if strings.Contains(b.String(), bad) {
			t.Errorf("%q is not escaped in the page", bad)
		}
	}
}

func TestReadReturnsWhatWriteWrote(t *testing.T) {
	path := filepath.Join(t.TempDir(), "report.json")
	if err := sampleReport().Write(path); err != nil {
		t.Fatal(err)
	}
	got, err := report.Read(path)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(sampleReport(), got); diff != "" {
		t.Error(diff)
	}
	if _, err := report.Read(filepath.Join(t.TempDir(), "none")); err == nil {
		t.Error("Read returned no error for a missing file")
	}
}

func TestTextShowsLedgerDifference(t *testing.T) {
	for _, c := range []struct {
		ledger report.Ledger
		want   string
	}{
		{report.Ledger{Reported: 1980, Accepted: 1980}, "equal to the mock's ledger (1,980 notifications)"},
		{report.Ledger{Reported: 1980, Accepted: 1989, Uncertain: 12}, "the mock's ledger has 9 more than the 1,980 reported as accepted (12 notifications are lost or unknown; the mock may have accepted them)"},
		{report.Ledger{Reported: 1980, Accepted: 1979}, "the mock's ledger has 1 fewer than the 1,980 reported as accepted"},
	} {
		r := sampleReport()
		r.Ledger = &c.ledger
		var b strings.Builder
		if err := r.Text(&b); err != nil {
			t.Fatal(err)
		}
		if !strings.Contains(b.String(), c.want) {
			t.Errorf("not found: %s\n%s", c.want, b.String())
		}
	}
}

func TestComparisonMarksBetterAndWorse(t *testing.T) {
	a, b := sampleReport(), sampleReport()
	b.Latency.P50, b.Latency.P99, b.Rate = 2, 15, 100
	var text strings.Builder
	if err := (report.Comparison{A: a, B: b, NameA: "a.json", NameB: "b.json"}).Text(&text); err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"latency p50 1.00 ms 2.00 ms × 2.00 worse", "latency p99 30.0 ms 15.0 ms × 0.50 better", "answered per second 99 100 × 1.01"} {
		if !strings.Contains(strings.Join(strings.Fields(text.String()), " "), want) {
			t.Errorf("not found: %s\n%s", want, text.String())
		}
	}
}

func TestFormatNumbers(t *testing.T) {
	for n, want := range map[float64]string{0: "0", 999: "999", 1000: "1,000", 1234567: "1,234,567", -1234: "-1,234", -0.4: "0"} {
		if got := report.FormatCount(n); got != want {
			t.Errorf("FormatCount(%g) = %q, want %q", n, got, want)
		}
	}
	for ms, want := range map[float64]string{0: "0", 0.25: "250 µs", 1.234: "1.23 ms", 12.34: "12.3 ms", 1234: "1,234 ms", 12345: "12.3 s"} {
		if got := report.FormatMillis(ms); got != want {
			t.Errorf("FormatMillis(%g) = %q, want %q", ms, got, want)
		}
	}
	if got := report.FormatPercent(999_999, 1_000_000); got != "99.99 %" {
		t.Errorf("FormatPercent(999999, 1000000) = %s, want 99.99 %%", got)
	}
}

func TestPanelRedrawsOnlyOnATerminal(t *testing.T) {
	v := report.Progress{Elapsed: 5 * time.Second, Total: 10 * time.Second, Offered: 5000, Answered: 4999, Verdicts: map[string]int{"accepted": 24_000}, Healthy: 5,
		Unhealthy: map[string]string{"192.0.2.1:443": "ejected"}}
	var b strings.Builder
	screen := report.Panel{Output: &b, Terminal: true}
	screen.Show(v)
	lines := strings.Count(b.String(), "\n")
	screen.Show(v)
	screen.Clear()
	if up := strings.Count(b.String(), "A\x1b[J"); up != 2 || lines != 5 {
		t.Errorf("drew %d lines and cleared them %d times, want 5 and 2: %q", lines, up, b.String())
	}
	b.Reset()
	plain := report.Panel{Output: &b}
	plain.Show(v)
	plain.Clear()
	if strings.Contains(b.String(), "\x1b") || strings.Count(b.String(), "\n") != 1 || !strings.Contains(b.String(), "5 healthy endpoints, 192.0.2.1:443 ejected") {
		t.Errorf("%q", b.String())
	}
}

func ExampleReport_Text() {
	r := &report.Report{
		Seconds: 60, Offered: 300_000, Answered: 300_000, OfferedRate: 5000, Rate: 5000, Verdicts: map[string]int{"accepted": 300_000},
		Settings: report.Settings{URL: "http://127.0.0.1:8080", API: "sluice", Rate: 5000, WarmUp: 5}, Machine: report.Machine{CPUs: 2, Go: "go1.26.8", Version: "v0.1.0"},
		Latency: report.Latency{P50: 1.21, P90: 2.4, P99: 7.9, P999: 12.1, Max: math.Round(31.4), Mean: 1.6}, Ledger: &report.Ledger{Reported: 325_000, Accepted: 325_000},
	}
	_ = r.Text(os.Stdout)
	// Output:
	// open loop, 5,000/s in single calls, 60 s after a warm-up of 5 s, at http://127.0.0.1:8080 (sluice)
	// 2 CPUs, load average 0.0 to 0.0, go1.26.8, v0.1.0
	//
	// offered   300,000 (5,000/s), answered 300,000 (5,000/s), lost 0
	// verdicts  300,000 accepted (100 %)
	//
	//                              p50      p90      p99    p99.9      max     mean
	//   latency from due time  1.21 ms  2.40 ms  7.90 ms  12.1 ms  31.0 ms  1.60 ms
	//
	// ledger    equal to the mock's ledger (325,000 notifications)
}
