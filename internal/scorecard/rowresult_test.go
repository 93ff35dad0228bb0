// SPDX-License-Identifier: Apache-2.0

package scorecard

import (
	"os/exec"
	"strings"
	"testing"
	"time"
)

func TestRowPrintsFiguresAndBounds(t *testing.T) {
	r := rowResult{ID: "S01"}
	atLeast(&r, "delivered", fractionOf(99_995, 100_000), 0.9999)
	r.expectMaxIncrease("p99", 200*time.Millisecond, 212*time.Millisecond, 50*time.Millisecond)
	atMost(&r, "requests to the silent endpoint", 41, 100)
	atMost(&r, "out of rotation after", 1900*time.Millisecond, 2500*time.Millisecond)
	r.expectZero("duplicates", 0)
	const want = "S01  pass             delivered 99.995% (>= 99.99%)  p99 +12ms (<= 50ms)  requests to the silent endpoint 41 (<= 100)  out of rotation after 1.9s (<= 2.5s)  duplicates 0"
	if got := r.finish(true).String(); got != want {
		t.Errorf("got\n%s\nwant\n%s", got, want)
	}
}

func TestRowFailsOnOneFigureOrUnfinished(t *testing.T) {
	r := rowResult{ID: "S06"}
	atMost(&r, "new dials", 9, 8)
	atMost(&r, "out of rotation after", never, time.Second)
	if got, want := r.finish(true).String(), "S06  FAIL             new dials 9 (<= 8) FAIL  out of rotation after never (<= 1s) FAIL"; got != want {
		t.Errorf("got\n%s\nwant\n%s", got, want)
	}
	s := scenario{rowResult: rowResult{ID: "S07"}}
	s.note("the load did not end")
	if got, want := s.rowResult.finish(s.finished).String(), "S07  FAIL             the load did not end"; got != want {
		t.Errorf("got\n%s\nwant\n%s", got, want)
	}
}

func TestFatalfFailsTheRowAndCleansUp(t *testing.T) {
	var order []int
	r := row{id: "S99", check: func(s *scenario) {
		s.Cleanup(func() { order = append(order, 1) })
		s.Cleanup(func() { order = append(order, 2) })
		s.Fatalf("failed on purpose")
		t.Error("the row continued after Fatalf")
	}}.runLocal(options{ctx: t.Context()})
	if r.Result != outcomeFailed || len(r.Notes) != 1 || r.Notes[0] != "failed on purpose" || len(order) != 2 || order[0] != 2 {
		t.Errorf("%+v, cleanup order %v", r, order)
	}
}

func TestUnimplementedRowDoesNotPass(t *testing.T) {
	r := row{id: "S25", fault: "a day of random faults"}.runLocal(options{ctx: t.Context()})
	if got, want := r.String(), "S25  not implemented  a day of random faults"; got != want {
		t.Errorf("got\n%s\nwant\n%s", got, want)
	}
}

func TestSummaryLine(t *testing.T) {
	for want, counts := range map[string]map[outcome]int{
		"scorecard: 7 passed, 1 failed":                     {outcomePassed: 7, outcomeFailed: 1},
		"scorecard: 2 passed":                               {outcomePassed: 2},
		"scorecard: 0 passed, 2 failed, 15 not implemented": {outcomeFailed: 2, outcomeNotImplemented: 15},
	} {
		if got := summaryLine(counts); got != want {
			t.Errorf("got %q, want %q", got, want)
		}
	}
}

func TestUnknownRowFails(t *testing.T) {
	output, err := runTest(t.Context(), "S99", func(*exec.Cmd) {}, "-gateway", "/nowhere")
	if err == nil || !strings.Contains(string(output), "0 rows ran instead of 1; the rows are S01, S01b, ") {
		t.Errorf("%v: %s", err, output)
	}
}

func TestTimeInRotation(t *testing.T) {
	at := time.Unix(1000, 0)
	g := &gateway{}
	for _, e := range []struct {
		after time.Duration
		kind  string
	}{{2 * time.Second, "ejected"}, {12 * time.Second, "probing"}, {13 * time.Second, "ejected"}, {33 * time.Second, "probing"}, {34 * time.Second, "recovered"}} {
		g.events = append(g.events, event{Time: at.Add(e.after), Kind: e.kind, Endpoint: "x"})
	}
	if got, want := g.timeInRotation("x", at, 40*time.Second), (2+1+7)*time.Second; got != want {
		t.Errorf("%s in rotation, want %s", got, want)
	}
}
