// SPDX-License-Identifier: Apache-2.0

package mockprovider

import (
	"math"
	"time"
)

// latency is a log-normal distribution. Its zero value is no latency.
type latency struct {
	median, p99 time.Duration
	plus        time.Duration // added always: the way there and back
	tail        float64       // share of answers that take 1 to 5 s
}

// profiles are choices, not measurements: neither Apple nor Google publishes its latency.
var profiles = map[string]map[string]latency{
	"none":    {},
	"lan":     {APNs: {plus: time.Millisecond}, APNsManage: {plus: time.Millisecond}, FCM: {plus: time.Millisecond}, OAuth: {plus: time.Millisecond}, WebPush: {plus: time.Millisecond}},
	"typical": typical(0),
	"far":     typical(200 * time.Millisecond),
}

func typical(plus time.Duration) map[string]latency {
	const ms = time.Millisecond
	return map[string]latency{
		APNs:       {median: 45 * ms, p99: 250 * ms, plus: plus, tail: 0.001},
		APNsManage: {median: 45 * ms, p99: 250 * ms, plus: plus},
		FCM:        {median: 80 * ms, p99: 700 * ms, plus: plus},
		OAuth:      {median: 85 * ms, p99: 150 * ms, plus: plus},
		WebPush:    {median: 80 * ms, p99: 500 * ms, plus: plus},
		"tls":      {median: 90 * ms, p99: 150 * ms, plus: plus},
	}
}

// draw is how long one answer takes.
func (l latency) draw(m *Mock) time.Duration {
	d := l.plus
	if l.median > 0 {
		d += logNormal(l.median, l.p99, m.normal())
	}
	if l.tail > 0 && m.chance(l.tail) {
		d += time.Second + time.Duration(math.Abs(m.normal())*float64(time.Second))
	}
	return d
}

// logNormal maps a standard normal z so that half are below the median and one in a hundred is above p99.
func logNormal(median, p99 time.Duration, z float64) time.Duration {
	if p99 <= median {
		return median
	}
	sigma := math.Log(float64(p99)/float64(median)) / 2.326
	return time.Duration(float64(median) * math.Exp(sigma*z))
}

// delay is how long a request is held back by the profile and by a fault, if it met one.
func (m *Mock) delay(service string, r *rule) time.Duration {
	var d time.Duration
	if l := m.latency[service]; l != (latency{}) {
		d = l.draw(m)
	}
	if r == nil || r.Delay == 0 && r.RampTo == 0 {
		return d
	}
	if r.RampTo > 0 {
		return d + r.ramp(time.Since(r.began))
	}
	if r.P99 == 0 {
		return d + r.Delay
	}
	return d + logNormal(r.Delay, r.P99, m.normal())
}

// ramp is the delay at that age of the script.
func (r *rule) ramp(age time.Duration) time.Duration {
	done := float64(age-r.From) / float64(r.Until-r.From)
	return r.Delay + time.Duration(done*float64(r.RampTo-r.Delay))
}
