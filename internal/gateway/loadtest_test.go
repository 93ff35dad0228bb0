// SPDX-License-Identifier: Apache-2.0

package gateway_test

import (
	"cmp"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/sluice-push/sluice/internal/bench"
	loadreport "github.com/sluice-push/sluice/internal/report"
	"github.com/sluice-push/sluice/mockprovider"
)

// runBench runs a load test, for a second unless c has a duration.
func (r shopGateway) runBench(t testing.TB, c bench.Config) *loadreport.Report {
	t.Helper()
	c.URL, c.Key, c.Apps, c.Duration = r.url, r.key, []string{"shop"}, cmp.Or(c.Duration, time.Second)
	c.Ledger, c.Script = r.mock.LedgerURL(), r.mock.ScriptURL()
	got, err := bench.Run(t.Context(), c)
	if err != nil {
		t.Fatal(err)
	}
	if got.Answered != got.Offered || got.Lost != 0 {
		t.Errorf("%d offered, %d answered: %v", got.Offered, got.Answered, got.Reasons)
	}
	return got
}

func TestBenchCountsMatchLedger(t *testing.T) {
	r := newShopGateway(t, mockprovider.Config{}, slowTimeouts)
	for name, c := range map[string]bench.Config{
		"single calls": {Rate: 100, WarmUp: 200 * time.Millisecond}, "batches": {Rate: 1000, Batch: 50}, "a closed loop": {InFlight: 2},
	} {
		got := r.runBench(t, c)
		if got.Ledger == nil || !got.Ledger.Equal() || got.Ledger.Accepted < got.Offered || got.Verdicts["accepted"] != got.Offered {
			t.Errorf("%s: %d offered, %v, ledger %+v", name, got.Offered, got.Verdicts, got.Ledger)
		}
	}
}

func TestBenchInjectsAndReportsFaults(t *testing.T) {
	r := newShopGateway(t, mockprovider.Config{}, slowTimeouts)
	var got *loadreport.Report
	duration := time.Second
	for ; ; duration *= 2 { // a busy machine can miss the fault, or the time around it
		faults := fmt.Appendf(nil, `faults: [{service: apns, status: 410, from: %s, until: %s}]`, duration/5, duration*7/10)
		got = r.runBench(t, bench.Config{Rate: 100, Duration: duration, Faults: faults})
		if got.Verdicts["unregistered"] > 0 && got.Verdicts["accepted"] > 0 || duration > 30*time.Second {
			break
		}
	}
	if n := got.Verdicts["unregistered"]; n == 0 || got.Verdicts["accepted"] == 0 || n+got.Verdicts["accepted"] != got.Offered || !got.Ledger.Equal() {
		t.Errorf("%d offered, %v, ledger %+v", got.Offered, got.Verdicts, got.Ledger)
	}
	if len(got.Faults) != 1 || got.Faults[0].Description != "apns, status 410" || got.Faults[0].From != duration.Seconds()/5 || len(r.mock.Script().Faults) != 0 {
		t.Errorf("faults %+v; the mock still plays %+v", got.Faults, r.mock.Script())
	}
	var page strings.Builder
	if err := got.Page(&page); err != nil || !strings.Contains(page.String(), "apns, status 410") {
		t.Errorf("the page does not show the fault: %v", err)
	}
}
