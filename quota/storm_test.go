// SPDX-License-Identifier: Apache-2.0

package quota_test

import (
	"bytes"
	"flag"
	"fmt"
	"os"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/sluice-push/sluice/push"
	"github.com/sluice-push/sluice/quota"
)

var update = flag.Bool("update", false, "update docs/storm.svg")

// secondCounts counts the responses of the provider in one second.
type secondCounts struct{ accepted, refused int }

// runStorm sends 3,000 per second for two minutes to a provider that allows 1,000 and otherwise
// answers 429 with Retry-After: 5. The rate limiter has no configured limit.
func runStorm(t *testing.T) (seen [120]secondCounts) {
	synctest.Test(t, func(*testing.T) {
		l := quota.New(quota.Config{})
		var mu sync.Mutex
		start, tokens, filled := time.Now(), 1000.0, time.Now()
		provider := func() push.Outcome {
			mu.Lock()
			defer mu.Unlock()
			now := time.Now()
			tokens, filled = min(tokens+1000*now.Sub(filled).Seconds(), 1000), now
			s := &seen[min(int(now.Sub(start)/time.Second), len(seen)-1)]
			if tokens < 1 {
				s.refused++
				return throttled(push.ScopeProject, 5*time.Second)
			}
			tokens--
			s.accepted++
			return push.Outcome{Verdict: push.Accepted}
		}
		var wg sync.WaitGroup
		for range 3 * 1000 * (len(seen) - 1) {
			wg.Go(func() {
				if n := toToken("t"); acquire(l, n, 500*time.Millisecond) {
					o := provider()
					time.Sleep(50 * time.Millisecond) // response time
					l.Record(n, o)
				}
			})
			time.Sleep(time.Second / 3000)
		}
		wg.Wait()
	})
	return seen
}

func TestLearnedRateEndsRefusalStorm(t *testing.T) {
	if testing.Short() {
		t.Skip("360,000 notifications")
	}
	seen := runStorm(t)
	var accepted, refused int
	for _, s := range seen[5:] {
		accepted += s.accepted
		refused += s.refused
	}
	t.Logf("after five seconds: %d accepted, %d refused", accepted, refused)
	if refused > accepted/50 {
		t.Errorf("%d of %d refused after five seconds", refused, accepted+refused)
	}
	if *update {
		if err := os.WriteFile("../docs/storm.svg", drawSVG(seen[:]), 0o644); err != nil {
			t.Fatal(err)
		}
	}
}

// drawSVG plots the counts per second: accepted and, stacked on top, refused.
func drawSVG(seen []secondCounts) []byte {
	const width, height, bar = 760, 260, 6
	var b bytes.Buffer
	y := func(n int) int { return height - 30 - n*200/3000 }
	fmt.Fprintf(&b, `<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 %d %d" font-family="sans-serif" font-size="11">`+"\n", width, height)
	fmt.Fprintf(&b, `<title>Notifications a second at a provider that grants 1,000, while 3,000 are offered</title>`+"\n")
	for i, s := range seen {
		x := 34 + i*bar
		fmt.Fprintf(&b, `<rect x="%d" y="%d" width="5" height="%d" fill="#2a7"/>`, x, y(s.accepted), y(0)-y(s.accepted))
		fmt.Fprintf(&b, `<rect x="%d" y="%d" width="5" height="%d" fill="#c33"/>`+"\n", x, y(s.accepted+s.refused), y(s.accepted)-y(s.accepted+s.refused))
	}
	for _, n := range []int{0, 1000, 2000, 3000} {
		fmt.Fprintf(&b, `<line x1="30" x2="%d" y1="%d" y2="%d" stroke="#999" stroke-width="0.5"/><text x="2" y="%d">%d</text>`+"\n", width-6, y(n), y(n), y(n)+4, n)
	}
	for s := 0; s <= len(seen); s += 20 {
		fmt.Fprintf(&b, `<text x="%d" y="%d">%d s</text>`+"\n", 34+s*bar, height-12, s)
	}
	b.WriteString("</svg>\n")
	return b.Bytes()
}
