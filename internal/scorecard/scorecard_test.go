// SPDX-License-Identifier: Apache-2.0

package scorecard

import (
	"context"
	"encoding/json"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/sluice-push/sluice/internal/jetstream/jetstreamtest"
)

var (
	enabled  = flag.Bool("scorecard", false, "run the rows; -run TestScorecard/ROW selects one")
	minRows  = flag.Int("rows", 1, "`number` of rows that must run: fewer mean that -run has a name that is not a row")
	binary   = flag.String("gateway", "", "absolute `path` of the gateway; default: built from this module")
	out      = flag.String("results", "", "`file` for the results as JSON")
	logs     = flag.String("logs", "", "existing `directory` for the logs of the gateways")
	loopback = flag.Bool("loopback", false, "use loopback addresses instead of network namespaces, for rows that allow it")
	isolated = flag.Bool("isolated", false, "the process has a network namespace of its own; used by the test itself")
)

// results are those of the rows that have run.
var results []rowResult

func TestMain(m *testing.M) {
	tests := jetstreamtest.Main(m)
	flag.Parse()
	code := tests.Run()
	if *enabled {
		if err := reportResults(); err != nil {
			_, _ = fmt.Fprintf(os.Stderr, "scorecard: %v\n", err)
			code = 1
		}
	}
	os.Exit(code)
}

// TestScorecard runs the rows one after the other, because each needs the machine for itself. It prints
// a line for each: a row passes, fails, or is not implemented, which also fails the test. Without
// -scorecard it does nothing.
func TestScorecard(t *testing.T) {
	if !*enabled {
		return
	}
	ctx, stop := signal.NotifyContext(t.Context(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if *binary == "" {
		*binary = build(t)
	}
	for _, r := range rows {
		if ctx.Err() != nil {
			break
		}
		t.Run(r.id, func(t *testing.T) {
			result := r.run(options{t: t, ctx: ctx, tempDir: t.TempDir(), binary: *binary, logs: *logs, inNamespace: *isolated, noNamespaces: *loopback})
			fmt.Println(result)
			results = append(results, result)
			if result.Result != outcomePassed {
				t.Fail()
			}
		})
	}
}

// build builds the gateway as users do and returns the path of the binary.
func build(t *testing.T) string {
	file := filepath.Join(t.TempDir(), "gateway")
	cmd := exec.CommandContext(t.Context(), "go", "build", "-trimpath", "-o", file, "github.com/sluice-push/sluice/cmd/gateway")
	if text, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("building the gateway: %v\n%s", err, text)
	}
	return file
}

// resultsFile is the content of the file for -results.
type resultsFile struct {
	Date    time.Time   `json:"date"`
	Machine string      `json:"machine"`
	Rows    []rowResult `json:"rows"`
}

// reportResults prints the last line of the output, and writes the file for -results.
func reportResults() error {
	counts := map[outcome]int{}
	for _, r := range results {
		counts[r.Result]++
	}
	fmt.Println(summaryLine(counts))
	if *out != "" {
		machine := fmt.Sprintf("%s/%s, %d cores", runtime.GOOS, runtime.GOARCH, runtime.NumCPU())
		text, err := json.MarshalIndent(resultsFile{time.Now().UTC().Truncate(time.Second), machine, results}, "", "  ")
		if err == nil {
			err = os.WriteFile(*out, append(text, '\n'), 0o644)
		}
		if err != nil {
			return err
		}
	}
	if len(results) < *minRows {
		return fmt.Errorf("%d rows ran instead of %d; the rows are %s", len(results), *minRows, strings.Join(rowIDs(), ", "))
	}
	return nil
}

func rowIDs() (ids []string) {
	for _, r := range rows {
		ids = append(ids, r.id)
	}
	return ids
}

// summaryLine returns the last line of the output.
func summaryLine(counts map[outcome]int) string {
	line := fmt.Sprintf("scorecard: %d passed", counts[outcomePassed])
	if n := counts[outcomeFailed]; n > 0 {
		line += fmt.Sprintf(", %d failed", n)
	}
	if n := counts[outcomeNotImplemented]; n > 0 {
		line += fmt.Sprintf(", %d not implemented", n)
	}
	return line
}

// runTest runs TestScorecard with flags in a process of the test binary, which cmd can change.
func runTest(ctx context.Context, row string, change func(*exec.Cmd), flags ...string) (output []byte, err error) {
	self, err := os.Executable()
	if err != nil {
		return nil, err
	}
	cmd := exec.CommandContext(ctx, self, append([]string{"-test.run=^TestScorecard$/^" + row + "$", "-test.timeout=0", "-scorecard"}, flags...)...)
	change(cmd)
	return cmd.CombinedOutput()
}
