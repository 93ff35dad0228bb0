// SPDX-License-Identifier: Apache-2.0

package script

import (
	"math"
	"time"
)

// latency is a log-normal distribution. Its zero value is no latency.
type latency struct {
	median, p99 time.Duration
	roundTrip   time.Duration // added to every draw
	tail        float64       // share of responses that take 1 s longer, or more
}

// profiles are plausible values and not measurements: neither Apple nor Google publishes latencies.
var profiles = map[string]map[string]latency{
	"none": {},
	"lan": {
		APNs: {roundTrip: time.Millisecond}, APNsManage: {roundTrip: time.Millisecond}, FCM: {roundTrip: time.Millisecond},
		OAuth: {roundTrip: time.Millisecond}, WebPush: {roundTrip: time.Millisecond},
	},
	"typical": typical(0),
	"far":     typical(200 * time.Millisecond),
}

// ValidLatency reports whether there is a latency profile of that name.
func ValidLatency(name string) bool {
	_, ok := profiles[name]
	return ok
}

func typical(roundTrip time.Duration) map[string]latency {
	const ms = time.Millisecond
	return map[string]latency{
		APNs:       {median: 45 * ms, p99: 250 * ms, roundTrip: roundTrip, tail: 0.001},
		APNsManage: {median: 45 * ms, p99: 250 * ms, roundTrip: roundTrip},
		FCM:        {median: 80 * ms, p99: 700 * ms, roundTrip: roundTrip},
		OAuth:      {median: 85 * ms, p99: 150 * ms, roundTrip: roundTrip},
		WebPush:    {median: 80 * ms, p99: 500 * ms, roundTrip: roundTrip},
		"tls":      {median: 90 * ms, p99: 150 * ms, roundTrip: roundTrip},
	}
}

// draw returns the latency of one response.
func (l latency) draw(random *dice) time.Duration {
	d := l.roundTrip
	if l.median > 0 {
		d += logNormal(l.median, l.p99, random.normal())
	}
	if l.tail > 0 && random.chance(l.tail) {
		d += time.Second + time.Duration(math.Abs(random.normal())*float64(time.Second))
	}
	return d
}

// logNormal maps a standard normal z so that half of the results are below the median and one in a
// hundred is above p99.
func logNormal(median, p99 time.Duration, z float64) time.Duration {
	if p99 <= median {
		return median
	}
	sigma := math.Log(float64(p99)/float64(median)) / 2.326
	return time.Duration(float64(median) * math.Exp(sigma*z))
}

// latency draws the latency of the profile for one response of a service.
func (i *Injector) latency(service string) time.Duration {
	if l := i.profile[service]; l != (latency{}) {
		return l.draw(&i.dice)
	}
	return 0
}

// delay returns the delay that the fault adds to one response.
func (r *Rule) delay(random *dice, start time.Time) time.Duration {
	switch {
	case r.RampTo > 0:
		return r.ramp(time.Since(start))
	case r.Delay > 0 && r.P99 > 0:
		return logNormal(r.Delay, r.P99, random.normal())
	}
	return r.Delay
}

// ramp returns the delay at that age of the script.
func (r *Rule) ramp(age time.Duration) time.Duration {
	progress := float64(age-r.From) / float64(r.Until-r.From)
	return r.Delay + time.Duration(progress*float64(r.RampTo-r.Delay))
}
