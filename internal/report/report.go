// SPDX-License-Identifier: Apache-2.0

// Package report tells what came of a load test: as text, as data, as one page that needs nothing else, and beside another
// one. It measures nothing.
package report

import (
	"encoding/json"
	"fmt"
	"os"
	"time"
)

// Report is one load test. Times are seconds counted from Began, latencies milliseconds.
type Report struct {
	// Began is when the measured time began: the warm-up is before it, and in no figure but the ledger's.
	Start time.Time `json:"began"`
	// Seconds is how long notifications were offered.
	Seconds float64 `json:"seconds"`
	// Early says that the run was ended before its time.
	Early bool `json:"ended_early,omitempty"`

	Setting Setting `json:"setting"`
	Machine Machine `json:"machine"`

	// Offered notifications were due, Answered ones have a verdict, and the rest is lost: sent without an answer, or never
	// sent because there was no connection for it in time.
	Offered  int `json:"offered"`
	Answered int `json:"answered"`
	Lost     int `json:"lost"`
	// OfferedRate and Rate are those offered and answered in a second.
	OfferedRate float64 `json:"offered_rate"`
	Rate        float64 `json:"rate"`

	// Verdicts counts notifications by the status of their receipt, Reasons those that were not accepted by status and reason.
	Verdicts map[string]int `json:"verdicts"`
	Reasons  map[string]int `json:"reasons,omitempty"`

	// Latency is counted from the time that a notification was due, so a stall shows in all that it held up.
	Latency Latency `json:"latency"`
	// Own is the part of a single call's latency, from its sending on, that no attempt accounts for: the gateway's own time
	// and that of the way to it and back. Nothing of it can be told of batches.
	Overhead *Latency `json:"own,omitempty"`
	// Late is how long after their time this program began to send calls, for want of processor time or of a connection.
	SendDelay *Latency `json:"late,omitempty"`
	// Distribution counts answers by latency, in classes that grow evenly on a logarithmic scale.
	Distribution []Bucket `json:"distribution"`
	// Timeline is the run in equal steps.
	Step     float64        `json:"step"`
	Timeline []TimelineStep `json:"timeline"`

	// Endpoints are those that receipts name, by address.
	Endpoints []Endpoint `json:"endpoints,omitempty"`
	Faults    []Fault    `json:"faults,omitempty"`
	Processes []Process  `json:"processes,omitempty"`
	Ledger    *Ledger    `json:"ledger,omitempty"`
	// Notes say what went wrong with the test itself.
	Notes []string `json:"notes,omitempty"`
}

// Setting is what was asked for.
type Setting struct {
	Command  string  `json:"command"`
	URL      string  `json:"url"`
	API      string  `json:"api"`
	Mix      string  `json:"mix"`
	Rate     float64 `json:"rate,omitempty"`      // offered in a second; 0 in a closed loop
	InFlight int     `json:"in_flight,omitempty"` // calls in flight in a closed loop
	Batch    int     `json:"batch"`
	WarmUp   float64 `json:"warm_up"`
}

// Loop says how notifications were offered.
func (s Setting) Loop() string {
	calls := "single calls"
	if s.Batch > 1 {
		calls = fmt.Sprintf("batches of %d", s.Batch)
	}
	if s.Rate > 0 {
		return fmt.Sprintf("open loop, %s/s in %s", FormatCount(s.Rate), calls)
	}
	return fmt.Sprintf("closed loop, %d %s in flight", s.InFlight, calls)
}

// Machine is where the test ran.
type Machine struct {
	System   string  `json:"system"`
	CPUs     int     `json:"cpus"`
	Model    string  `json:"model,omitempty"`
	Go       string  `json:"go"`
	Version  string  `json:"version"`        // of this program
	Load     float64 `json:"load,omitempty"` // the system's load average over a minute, when the run began and ended
	LoadThen float64 `json:"load_then,omitempty"`
}

// Latency is a distribution in short, in milliseconds.
type Latency struct {
	P50  float64 `json:"p50"`
	P90  float64 `json:"p90"`
	P99  float64 `json:"p99"`
	P999 float64 `json:"p99_9"`
	Max  float64 `json:"max"`
	Mean float64 `json:"mean"`
}

// Bucket is the answers whose latency is at most so many milliseconds, and above that of the class before.
type Bucket struct {
	UpTo  float64 `json:"up_to"`
	Count int     `json:"count"`
}

// TimelineStep is one step of the timeline. Latency is that of the notifications that were due in it, all else is of those that
// were answered in it.
type TimelineStep struct {
	Start     float64           `json:"at"`
	Offered   int               `json:"offered"`
	Answered  int               `json:"answered"`
	Verdicts  map[string]int    `json:"verdicts,omitempty"`
	Latency   Latency           `json:"latency"`
	Endpoints map[string]int    `json:"endpoints,omitempty"` // attempts by address
	Unhealthy map[string]string `json:"troubled,omitempty"`  // endpoints that were not well, by the gateway's status
	Healthy   int               `json:"live,omitempty"`      // endpoints that were
}

// Endpoint is one address.
type Endpoint struct {
	Address  string `json:"address"`
	Attempts int    `json:"attempts"`
	Accepted int    `json:"accepted"`
}

// Fault is one fault of the script.
type Fault struct {
	From        float64 `json:"from"`
	Until       float64 `json:"until,omitempty"` // 0: to the end
	Description string  `json:"words"`
}

// Process is one that was watched on this machine.
type Process struct {
	Name string `json:"name"`
	PID  int    `json:"pid"`
	// CPU is the seconds of processor time, user and system, in the measured time, and PerHundredThousand the same for each
	// 100,000 notifications answered in it.
	CPU                float64 `json:"cpu"`
	PerHundredThousand float64 `json:"cpu_per_100k"`
	// RSS is the most memory that it has had in its life, in MiB.
	RSS float64 `json:"rss_mib"`
}

// Ledger holds the count of notifications that were said to be accepted, in the warm-up too, against the mock's.
type Ledger struct {
	Reported int `json:"reported"`
	Accepted int `json:"took"`
	// Unsure are the notifications, in the warm-up too, that were lost or reported as unknown: the mock may have taken them.
	Uncertain int `json:"unsure,omitempty"`
}

// Equal reports whether both counts are the same.
func (l *Ledger) Equal() bool { return l.Reported == l.Accepted }

// Words say how they compare.
func (l *Ledger) Words() string {
	switch diff := l.Accepted - l.Reported; {
	case diff == 0:
		return fmt.Sprintf("equal to the mock's ledger, to the last of %s notifications", FormatCount(float64(l.Accepted)))
	case diff > 0:
		return fmt.Sprintf("the mock's ledger has %s more than the %s reported as accepted%s", FormatCount(float64(diff)), FormatCount(float64(l.Reported)), l.uncertainNote())
	default:
		return fmt.Sprintf("the mock's ledger has %s fewer than the %s reported as accepted", FormatCount(float64(-diff)), FormatCount(float64(l.Reported)))
	}
}

func (l *Ledger) uncertainNote() string {
	if l.Uncertain == 0 {
		return ""
	}
	return fmt.Sprintf(" (%s are lost or unknown, in the warm-up too: it may have taken them)", FormatCount(float64(l.Uncertain)))
}

// Read reads what Write wrote.
func Read(path string) (*Report, error) {
	text, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	r := new(Report)
	if err := json.Unmarshal(text, r); err != nil {
		return nil, fmt.Errorf("%s: no report: %w", path, err)
	}
	return r, nil
}

// Write writes the report as JSON.
func (r *Report) Write(path string) error {
	text, err := json.MarshalIndent(r, "", "  ")
	if err != nil {
		return err
	}
	return os.WriteFile(path, append(text, '\n'), 0o644)
}
