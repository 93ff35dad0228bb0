// SPDX-License-Identifier: Apache-2.0

// Command broadcast draws the charts of docs/broadcasts.md from a run of row S32: how many devices are in
// each state, and how many a second have accepted the message.
package main

import (
	"encoding/json"
	"errors"
	"flag"
	"log"
	"os"
	"path/filepath"

	"gonum.org/v1/plot"
	"gonum.org/v1/plot/plotter"
	"gonum.org/v1/plot/plotutil"
	"gonum.org/v1/plot/vg"
)

// point is an element of the file that -broadcast-series of the scorecard writes.
type point struct {
	Seconds                   float64
	Pending, Queued, Accepted float64
}

func main() {
	log.SetFlags(0)
	in, out := flag.String("in", "../data/broadcast.json", "`file` with the states over time"), flag.String("out", "../docs", "`directory` of the charts")
	flag.Parse()
	if err := run(*in, *out); err != nil {
		log.Fatal(err)
	}
}

func run(in, out string) error {
	text, err := os.ReadFile(in)
	if err != nil {
		return err
	}
	var series []point
	if err := json.Unmarshal(text, &series); err != nil {
		return err
	}
	if len(series) < 2 {
		return errors.New("the file has no series")
	}
	var pending, queued, accepted, rate plotter.XYs
	before := series[0]
	for _, p := range series {
		pending = append(pending, plotter.XY{X: p.Seconds, Y: p.Pending / 1000})
		queued = append(queued, plotter.XY{X: p.Seconds, Y: p.Queued / 1000})
		accepted = append(accepted, plotter.XY{X: p.Seconds, Y: p.Accepted / 1000})
		if p.Seconds-before.Seconds >= 1 {
			rate = append(rate, plotter.XY{X: p.Seconds, Y: (p.Accepted - before.Accepted) / (p.Seconds - before.Seconds)})
			before = p
		}
	}
	return errors.Join(
		draw(filepath.Join(out, "broadcast-states.svg"), "Devices by state", "thousands of devices", "pending", pending, "queued", queued, "accepted", accepted),
		draw(filepath.Join(out, "broadcast-rate.svg"), "Accepted per second", "per second", rate),
	)
}

// draw draws lines, given as plotter.XYs, with or without names before them, over the seconds since the start.
func draw(file, title, unit string, lines ...any) error {
	p := plot.New()
	p.Title.Text, p.X.Label.Text, p.Y.Label.Text, p.Y.Min = title, "seconds since the start", unit, 0
	p.Legend.Left, p.Legend.YOffs = true, 2*vg.Centimeter // where the states leave space
	if err := plotutil.AddLines(p, lines...); err != nil {
		return err
	}
	return p.Save(18*vg.Centimeter, 8*vg.Centimeter, file)
}
