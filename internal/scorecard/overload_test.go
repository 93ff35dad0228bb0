// SPDX-License-Identifier: Apache-2.0

package scorecard

import (
	"bytes"
	"fmt"
	"net/http"
	"os"
	"time"

	"github.com/sluice-push/sluice/internal/load"
	"github.com/sluice-push/sluice/mockprovider"
	"github.com/sluice-push/sluice/push"
)

// overload is S22. First the load is three times what the endpoints can handle, with 10 % critical
// notifications. Then one of two apps that share a credential offers ten times its load, more than
// the endpoints can handle, while the other does not change. Every response takes 150 ms, and an
// endpoint handles twelve at a time. The load consists of single calls, because items of a batch
// wait where a single call is rejected.
func overload(s *scenario) {
	const responseTime, inFlight = 150 * time.Millisecond, 12
	m := s.startMock(mockprovider.Config{Endpoints: poolSize, Script: script(mockprovider.Fault{Delay: responseTime})})
	block := apnsBlock(m, s.writeMockFiles(m), fmt.Sprintf(", pool: {in_flight: %d}", inFlight))
	config := s.writeConfig("", app{shopApp, block}, app{noisyApp, block})
	s.replaceInFile(config, "level: debug", "level: info") // at debug level, each single call would be logged
	g := s.startFull(poolSize, config)
	capacity := s.measureCapacity(g, 2*poolSize*inFlight)
	s.note("capacity %.0f/s; the response time allows %.0f/s", capacity, poolSize*inFlight/responseTime.Seconds())
	s.checkOverload(g, m, capacity)
	s.sleep(3 * time.Second)
	s.checkNoisyNeighbor(g, capacity)
	atMost(&s.rowResult, "memory, MiB", g.maxMemory()>>20, 256)
	s.expectDialBudget(g, m, mockprovider.APNs)
}

const noisyApp = "noisy"

// measureCapacity returns the notifications per second that the gateway delivers when more are
// always waiting.
func (s *scenario) measureCapacity(g *gateway, window int) float64 {
	const count = 4000
	s.startLoad(g, load.Generator{Count: count / 4, InFlight: window}, apnsNotification).wait() // warms up the process
	results := s.startLoad(g, load.Generator{Count: count, InFlight: window}, apnsNotification).wait()
	var end time.Duration
	for _, sample := range results.Samples {
		end = max(end, sample.Due+sample.Latency)
	}
	return float64(count-results.Samples.Count(notAccepted)) / end.Seconds()
}

// checkOverload offers half of the capacity, then three times the capacity, and half again.
func (s *scenario) checkOverload(g *gateway, m *mockprovider.Mock, capacity float64) {
	const calm, overloaded, after = 10 * time.Second, 20 * time.Second, 6 * time.Second
	critical := withLane(push.LaneCritical, apnsNotification)
	baseline := s.startCalls(g, shopApp, 0.45*capacity, calm+overloaded+after, apnsNotification)
	criticalBefore := s.startCalls(g, shopApp, 0.05*capacity, calm, critical).wait()
	start := time.Now()
	extra, criticalDuring := s.startCalls(g, shopApp, 2.25*capacity, overloaded, apnsNotification), s.startCalls(g, shopApp, 0.3*capacity, overloaded, critical)
	end := start.Add(overloaded)
	criticalResults, extraResults, baselineResults := criticalDuring.wait(), extra.wait(), baseline.wait()

	accepted := requestTimes(m, mockprovider.APNs).accepted
	atLeast(&s.rowResult, "goodput, relative to the capacity", accepted.rateFraction(start.Add(time.Second), end, capacity), 0.95)
	atLeast(&s.rowResult, "critical delivered", fractionOf(len(criticalResults.Samples)-s.countNotAccepted(criticalResults.Samples), len(criticalResults.Samples)), 0.999)
	calmSamples := criticalBefore.Between(criticalBefore.Started.Add(warmUp), start)
	atMost(&s.rowResult, "critical p99", criticalResults.Samples.LatencyQuantile(0.99), 2*calmSamples.LatencyQuantile(0.99))
	rejected := append(rejectedOf(extraResults.Samples), rejectedOf(baselineResults.Between(start, end))...)
	s.expect("shed", fmt.Sprint(len(rejected)), len(rejected) > 0)
	atMost(&s.rowResult, "rejected within, p99", rejected.LatencyQuantile(0.99), 10*time.Millisecond)
	s.note("half of the rejections arrived within %s, all within %s", format(rejected.LatencyQuantile(0.5)), format(rejected.LatencyQuantile(1)))
	s.expectZero("rejected without 429 or 503 and Retry-After", baseline.invalidRejections()+extra.invalidRejections()+criticalDuring.invalidRejections())
	atMost(&s.rowResult, "recovered after", recoveryTime(baselineResults, end, baselineResults.Started.Add(calm+overloaded+after), 0.999), 2*time.Second)
}

func rejectedOf(samples load.Samples) (rejected load.Samples) {
	for i := range samples {
		if notAccepted(&samples[i]) {
			rejected = append(rejected, samples[i])
		}
	}
	return rejected
}

// checkNoisyNeighbor uses two apps with one credential, one of which becomes noisy.
func (s *scenario) checkNoisyNeighbor(g *gateway, capacity float64) {
	const quietPeriod, noisyPeriod = 12 * time.Second, 12 * time.Second
	quiet := s.startCalls(g, shopApp, 0.15*capacity, quietPeriod+noisyPeriod, apnsNotification)
	s.startCalls(g, noisyApp, 0.15*capacity, quietPeriod, apnsNotification).wait()
	noisyStart := time.Now()
	noisyResults := s.startCalls(g, noisyApp, 1.5*capacity, noisyPeriod, apnsNotification).wait()
	quietResults := quiet.wait()
	s.expect("an app at ten times its load: shed", fmt.Sprint(len(rejectedOf(noisyResults.Samples))), len(rejectedOf(noisyResults.Samples)) > 0)
	before, duringNoise := quietResults.Between(quietResults.Started.Add(warmUp), noisyStart), quietResults.Between(noisyStart, noisyStart.Add(noisyPeriod))
	s.expectMaxChange("p99 of the other app", before.LatencyQuantile(0.99), duringNoise.LatencyQuantile(0.99), 0.1)
	s.expectZero("not accepted for the other app", s.countNotAccepted(quietResults.Samples))
}

// startCalls starts rate single calls per second for the given duration.
func (s *scenario) startCalls(g *gateway, app string, rate float64, duration time.Duration, newNotification func(int) *push.Notification) *loadRun {
	l := load.Generator{Apps: []string{app}, Rate: rate, Count: int(rate * duration.Seconds()), MaxConnections: 10_000}
	return s.run(s.generator(g, l, newNotification))
}

// invalidRejections counts the responses that are neither 200 nor 429 or 503 with Retry-After.
func (l *loadRun) invalidRejections() int {
	return l.results.Samples.Count(func(sample *load.Sample) bool {
		rejected := sample.HTTPStatus == http.StatusTooManyRequests || sample.HTTPStatus == http.StatusServiceUnavailable
		return sample.HTTPStatus != http.StatusOK && (!rejected || sample.RetryAfter == "")
	})
}

// maxMemory returns the peak resident memory of the gateway in bytes. It needs Linux.
func (g *gateway) maxMemory() int {
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", g.PID()))
	g.scenario.noError(err)
	var kib int
	if _, after, ok := bytes.Cut(text, []byte("VmHWM:")); ok {
		_, err = fmt.Sscan(string(after), &kib)
		g.scenario.noError(err)
	}
	return kib << 10
}
