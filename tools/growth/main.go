// SPDX-License-Identifier: Apache-2.0

// Command growth measures how the CPU time of the gateway grows with the notifications in flight,
// the endpoints, the apps and the callers. It runs gateway bench --dev, in which the mock providers,
// the gateway and the load are three processes, draws a chart for each, and prints the figures.
// Rounds alternate over all measurements, because the speed of a machine varies.
package main

import (
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"log"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"gonum.org/v1/plot"
	"gonum.org/v1/plot/plotter"
	"gonum.org/v1/plot/plotutil"
	"gonum.org/v1/plot/vg"
)

// chart shows the CPU time at some values of one quantity.
type chart struct {
	file, title, quantity string
	lines                 []line
}

// line is one way to send.
type line struct {
	name   string
	at     []int
	setup  func(n int) run
	points []point // one for each value of at
}

// run is how to send with one value of the quantity.
type run struct {
	args      string // of gateway bench
	endpoints int    // of the mock and of the pool; default 8
	inFlight  int    // requests in flight on one endpoint; default that of the gateway
}

// point has the CPU-seconds per 100,000 notifications of each round.
type point struct{ cpu []float64 }

func (p point) median() float64 {
	sorted := slices.Sorted(slices.Values(p.cpu))
	return (sorted[(len(sorted)-1)/2] + sorted[len(sorted)/2]) / 2
}

// charts returns what is measured. A pool in which no notification waits or is rejected shows the cost
// of the quantity alone.
func charts() []*chart {
	const wide = 1000
	callers := func(flags string) func(int) run {
		return func(n int) run {
			return run{args: fmt.Sprintf("--in-flight %d %s", n, flags), inFlight: wide}
		}
	}
	return []*chart{
		{"in-flight", "Notifications in flight, in batches of 100", "notifications in flight", []line{
			{name: "batches", at: []int{100, 200, 500, 1000, 2000, 4000}, setup: func(n int) run {
				return run{args: fmt.Sprintf("--batch 100 --in-flight %d", n/100), inFlight: wide}
			}},
		}},
		{"endpoints", "Endpoints, with 5 batches of 100 in flight", "endpoints", []line{
			{name: "batches", at: []int{8, 16, 32, 64}, setup: func(n int) run { return run{args: "--batch 100 --in-flight 5", endpoints: n} }},
		}},
		{"apps", "Apps with the same credentials", "apps", []line{
			{name: "batches of 100, 5 in flight", at: []int{1, 10, 100, 1000}, setup: func(n int) run { return run{args: fmt.Sprintf("--batch 100 --in-flight 5 --apps %d", n)} }},
			{name: "single calls, 64 in flight", at: []int{1, 10, 100, 1000}, setup: func(n int) run { return run{args: fmt.Sprintf("--in-flight 64 --apps %d", n)} }},
		}},
		{"callers", "Callers that send single notifications", "callers", []line{
			{name: "HTTP/1.1, a connection each", at: []int{16, 64, 250, 1000, 2000}, setup: callers("")},
			{name: "HTTP/2, shared connections", at: []int{16, 64, 250, 1000, 2000}, setup: callers("--http2")},
		}},
	}
}

func main() {
	var m measurement
	flag.StringVar(&m.gateway, "gateway", "../bin/gateway", "the binary to measure")
	flag.DurationVar(&m.duration, "duration", 8*time.Second, "length of each measurement")
	flag.DurationVar(&m.warmUp, "warm-up", 3*time.Second, "load before each measurement")
	flag.IntVar(&m.rounds, "rounds", 3, "measurements of each value")
	only := flag.String("only", "", "the chart to draw: in-flight, endpoints, apps or callers; default all")
	out := flag.String("out", "../docs", "directory of the charts")
	flag.Parse()
	all := slices.DeleteFunc(charts(), func(c *chart) bool { return *only != "" && c.file != *only })
	if err := m.measure(all); err != nil {
		log.Fatal(err)
	}
	if err := write(all, *out); err != nil {
		log.Fatal(err)
	}
}

// measurement runs the gateway.
type measurement struct {
	gateway          string
	duration, warmUp time.Duration
	rounds           int
}

func (m measurement) measure(charts []*chart) error {
	for round := range m.rounds {
		for _, c := range charts {
			for i := range c.lines {
				l := &c.lines[i]
				l.points = append(l.points, make([]point, len(l.at)-len(l.points))...)
				for k, n := range l.at {
					r, err := m.run(l.setup(n))
					if err != nil {
						return fmt.Errorf("%d %s, %s: %w", n, c.quantity, l.name, err)
					}
					l.points[k].cpu = append(l.points[k].cpu, r)
					log.Printf("round %d, %d %s, %s: %.2f", round+1, n, c.quantity, l.name, r)
				}
			}
		}
	}
	return nil
}

// run measures once and returns the CPU-seconds of the gateway per 100,000 notifications.
func (m measurement) run(r run) (float64, error) {
	dir, err := os.MkdirTemp("", "sluice-growth-")
	if err != nil {
		return 0, err
	}
	defer func() { _ = os.RemoveAll(dir) }()
	endpoints := max(r.endpoints, 8)
	mock, result := filepath.Join(dir, "mock.yaml"), filepath.Join(dir, "report.json")
	if err := os.WriteFile(mock, fmt.Appendf(nil, "endpoints: %d\n", endpoints), 0o600); err != nil {
		return 0, err
	}
	args := []string{"bench", "--dev", "--no-queue", "--mock", mock, "--json", result, "--duration", m.duration.String(), "--warm-up", m.warmUp.String()}
	cmd := exec.Command(m.gateway, append(args, strings.Fields(r.args)...)...)
	cmd.Env = append(os.Environ(), fmt.Sprint("SLUICE_POOL_SIZE=", endpoints))
	if r.inFlight > 0 {
		cmd.Env = append(cmd.Env, fmt.Sprint("SLUICE_POOL_IN_FLIGHT=", r.inFlight))
	}
	if output, err := cmd.CombinedOutput(); err != nil {
		return 0, fmt.Errorf("%w\n%s", err, output)
	}
	text, err := os.ReadFile(result)
	if err != nil {
		return 0, err
	}
	return gatewayCPU(text)
}

// gatewayCPU reads the report of a load test. A notification that was not accepted is an error,
// because its cost is another one.
func gatewayCPU(text []byte) (float64, error) {
	var r struct {
		Offered   int
		Verdicts  map[string]int
		Reasons   map[string]int
		Processes []struct {
			Name       string
			CPUPer100k float64 `json:"cpu_per_100k"`
		}
	}
	if err := json.Unmarshal(text, &r); err != nil {
		return 0, err
	}
	if r.Offered == 0 || r.Verdicts["accepted"] != r.Offered {
		return 0, fmt.Errorf("%d of %d notifications were accepted: %v", r.Verdicts["accepted"], r.Offered, r.Reasons)
	}
	for _, p := range r.Processes {
		if p.Name == "gateway" {
			return p.CPUPer100k, nil
		}
	}
	return 0, errors.New("the report has no CPU time of the gateway")
}

// write draws the charts and prints the figures as Markdown.
func write(charts []*chart, dir string) error {
	for _, c := range charts {
		fmt.Printf("\n| %s |", c.quantity)
		for _, n := range c.lines[0].at {
			fmt.Printf(" %d |", n)
		}
		fmt.Printf("\n|---|%s\n", strings.Repeat("--:|", len(c.lines[0].at)))
		for _, l := range c.lines {
			fmt.Printf("| %s |", l.name)
			for _, p := range l.points {
				fmt.Printf(" %.2f |", p.median())
			}
			fmt.Println()
		}
		if err := c.draw(filepath.Join(dir, "growth-"+c.file+".svg")); err != nil {
			return err
		}
	}
	return nil
}

// draw draws the medians, and bars from the lowest to the highest round.
func (c *chart) draw(file string) error {
	plot.DefaultFont.Variant = "Sans"
	p := plot.New()
	p.Title.Text, p.X.Label.Text, p.Y.Label.Text = c.title, c.quantity, "CPU-seconds per 100,000 notifications"
	p.X.Scale, p.Y.Min, p.Legend.Top, p.Legend.YOffs = plot.LogScale{}, 0, true, -vg.Millimeter
	p.Add(plotter.NewGrid())
	var ticks plot.ConstantTicks
	for i, l := range c.lines {
		points := rounds{at: l.at, points: l.points}
		drawn, dots, err := plotter.NewLinePoints(points)
		if err != nil {
			return err
		}
		bars, err := plotter.NewYErrorBars(points)
		if err != nil {
			return err
		}
		drawn.Color, dots.Color, bars.Color, dots.Shape = plotutil.Color(i), plotutil.Color(i), plotutil.Color(i), plotutil.Shape(i)
		p.Add(drawn, dots, bars)
		p.Legend.Add(l.name, drawn, dots)
	}
	for _, n := range c.lines[0].at {
		ticks = append(ticks, plot.Tick{Value: float64(n), Label: strconv.Itoa(n)})
	}
	p.X.Tick.Marker = ticks
	p.Y.Max *= 1.25 // room for the legend
	return p.Save(16*vg.Centimeter, 9*vg.Centimeter, file)
}

// rounds adapts points to the plotter.
type rounds struct {
	at     []int
	points []point
}

func (r rounds) Len() int                { return len(r.at) }
func (r rounds) XY(i int) (x, y float64) { return float64(r.at[i]), r.points[i].median() }
func (r rounds) YError(i int) (low, high float64) {
	m := r.points[i].median()
	return m - slices.Min(r.points[i].cpu), slices.Max(r.points[i].cpu) - m
}
