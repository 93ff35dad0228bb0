// SPDX-License-Identifier: Apache-2.0

// Package report presents the results of a load test as text, JSON or one self-contained HTML page,
// and compares two of them. It does not measure.
package report

import (
	"encoding/json"
	"fmt"
	"os"
	"time"
)

// Report is the result of one load test. Times are seconds since Start, latencies are milliseconds.
type Report struct {
	// Start is when the measurement started. The warm-up precedes it and counts only in Ledger.
	Start time.Time `json:"start"`
	// Seconds is how long notifications were offered after Start.
	Seconds float64 `json:"seconds"`
	// Interrupted reports that the run ended before its planned duration.
	Interrupted bool `json:"interrupted,omitempty"`

	Settings Settings `json:"settings"`
	Machine  Machine  `json:"machine"`

	// Offered counts the notifications that were due, Answered those with a verdict. The rest is
	// Lost: sent without a response, or not sent because no connection was free in time.
	Offered  int `json:"offered"`
	Answered int `json:"answered"`
	Lost     int `json:"lost"`
	// OfferedRate and Rate are the notifications offered and answered per second.
	OfferedRate float64 `json:"offered_rate"`
	Rate        float64 `json:"rate"`

	// Verdicts counts notifications by receipt status. Reasons counts those that were not accepted
	// by status and reason.
	Verdicts map[string]int `json:"verdicts"`
	Reasons  map[string]int `json:"reasons,omitempty"`

	// Latency counts from the time at which a notification was due, so a stall shows in every
	// notification that it delays.
	Latency Latency `json:"latency"`
	// Overhead is the time from sending a single call to its response, minus its attempts: the time
	// spent in the gateway and on the network to it. Batches have no overhead.
	Overhead *Latency `json:"overhead,omitempty"`
	// SendDelay is how long after their due time calls were sent, because CPU time or a connection
	// was missing.
	SendDelay *Latency `json:"send_delay,omitempty"`
	// Distribution counts notifications by latency, in buckets of equal width on a logarithmic
	// scale.
	Distribution []Bucket `json:"distribution"`
	// Timeline divides the run into steps of Step seconds.
	Step     float64        `json:"step"`
	Timeline []TimelineStep `json:"timeline"`

	// Endpoints are the endpoints named in receipts, sorted by address.
	Endpoints []Endpoint `json:"endpoints,omitempty"`
	Faults    []Fault    `json:"faults,omitempty"`
	Processes []Process  `json:"processes,omitempty"`
	Ledger    *Ledger    `json:"ledger,omitempty"`
	// Notes list problems of the test itself.
	Notes []string `json:"notes,omitempty"`
}

// Settings are the parameters of the test.
type Settings struct {
	Command  string  `json:"command"`
	URL      string  `json:"url"`
	API      string  `json:"api"`
	Mix      string  `json:"mix"`
	Rate     float64 `json:"rate,omitempty"`      // offered per second; 0 in a closed loop
	InFlight int     `json:"in_flight,omitempty"` // calls in flight in a closed loop
	Batch    int     `json:"batch"`
	Apps     int     `json:"apps,omitempty"`
	HTTP2    bool    `json:"http2,omitempty"`
	WarmUp   float64 `json:"warm_up"`
}

// LoadModel describes how notifications were offered.
func (s Settings) LoadModel() string {
	calls := "single calls"
	if s.Batch > 1 {
		calls = fmt.Sprintf("batches of %d", s.Batch)
	}
	over := ""
	if s.HTTP2 {
		over = " over HTTP/2"
	}
	if s.Apps > 1 {
		over += fmt.Sprintf(" for %d apps", s.Apps)
	}
	if s.Rate > 0 {
		return fmt.Sprintf("open loop, %s/s in %s%s", FormatCount(s.Rate), calls, over)
	}
	return fmt.Sprintf("closed loop, %d %s in flight%s", s.InFlight, calls, over)
}

// Machine describes the machine on which bench ran.
type Machine struct {
	System  string `json:"system"`
	CPUs    int    `json:"cpus"`
	Model   string `json:"model,omitempty"`
	Go      string `json:"go"`
	Version string `json:"version"` // of this program
	// LoadAtStart and LoadAtEnd are the system's one-minute load averages.
	LoadAtStart float64 `json:"load_at_start,omitempty"`
	LoadAtEnd   float64 `json:"load_at_end,omitempty"`
}

// Latency summarizes a latency distribution, in milliseconds.
type Latency struct {
	P50  float64 `json:"p50"`
	P90  float64 `json:"p90"`
	P99  float64 `json:"p99"`
	P999 float64 `json:"p99_9"`
	Max  float64 `json:"max"`
	Mean float64 `json:"mean"`
}

// Bucket counts the notifications with a latency of at most UpTo milliseconds and above the UpTo of
// the previous bucket.
type Bucket struct {
	UpTo  float64 `json:"up_to"`
	Count int     `json:"count"`
}

// TimelineStep is one step of the timeline. Offered and Latency describe the notifications that
// were due in the step, all other fields those that were answered in it.
type TimelineStep struct {
	Start     float64           `json:"at"`
	Offered   int               `json:"offered"`
	Answered  int               `json:"answered"`
	Verdicts  map[string]int    `json:"verdicts,omitempty"`
	Latency   Latency           `json:"latency"`
	Endpoints map[string]int    `json:"endpoints,omitempty"` // attempts by address
	Unhealthy map[string]string `json:"unhealthy,omitempty"` // state by endpoint, from the gateway's status
	Healthy   int               `json:"healthy,omitempty"`   // number of healthy endpoints
}

// Endpoint counts the attempts on one address.
type Endpoint struct {
	Address  string `json:"address"`
	Attempts int    `json:"attempts"`
	Accepted int    `json:"accepted"`
}

// Fault is one fault of the script, with times in seconds since Report.Start.
type Fault struct {
	From        float64 `json:"from"`
	Until       float64 `json:"until,omitempty"` // 0 means until the end
	Description string  `json:"description"`
}

// Process is the resource usage of a process on this machine.
type Process struct {
	Name string `json:"name"`
	PID  int    `json:"pid"`
	// CPU is the user and system CPU time during the measurement, in seconds. CPUPer100k is the
	// same per 100,000 answered notifications.
	CPU        float64 `json:"cpu"`
	CPUPer100k float64 `json:"cpu_per_100k"`
	// RSS is the peak resident memory over the life of the process, in MiB.
	RSS float64 `json:"rss_mib"`
}

// Ledger compares the notifications reported as accepted with the mock's ledger, warm-up included.
type Ledger struct {
	Reported int `json:"reported"`
	Accepted int `json:"took"` // by the mock
	// Uncertain counts the notifications that were lost or reported as unknown. The mock may have
	// accepted them.
	Uncertain int `json:"uncertain,omitempty"`
}

// Equal reports whether both counts are equal.
func (l *Ledger) Equal() bool { return l.Reported == l.Accepted }

// Description describes the result of the comparison.
func (l *Ledger) Description() string {
	switch diff := l.Accepted - l.Reported; {
	case diff == 0:
		return fmt.Sprintf("equal to the mock's ledger (%s notifications)", FormatCount(float64(l.Accepted)))
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
	return fmt.Sprintf(" (%s notifications are lost or unknown; the mock may have accepted them)", FormatCount(float64(l.Uncertain)))
}

// Read reads a report that Write wrote.
func Read(path string) (*Report, error) {
	text, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	r := new(Report)
	if err := json.Unmarshal(text, r); err != nil {
		return nil, fmt.Errorf("%s: not a load test report", path)
	}
	return r, nil
}

// Write writes the report to a file as JSON.
func (r *Report) Write(path string) error {
	text, err := json.MarshalIndent(r, "", "  ")
	if err != nil {
		return err
	}
	return os.WriteFile(path, append(text, '\n'), 0o644)
}
