// SPDX-License-Identifier: Apache-2.0

// Command scorecard simulates faults of push services for a gateway under load and compares the
// measured figures with fixed bounds. A row passes, fails, or is not implemented.
package main

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
	"time"
)

const usage = `usage: scorecard [-gateway FILE] [-json FILE] [-logs DIR] [-loopback] [ROW ...]

Runs the given rows, or all rows, and prints a line for each. The exit status is 0 if every row passed.
`

func main() {
	if config := os.Getenv(memberEnv); config != "" {
		os.Exit(runMember(config))
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	os.Exit(runScorecard(ctx))
}

func runScorecard(ctx context.Context) int {
	binary := flag.String("gateway", "", "`binary` of the gateway; default: built from this module")
	out := flag.String("json", "scorecard.json", "`file` for the results as JSON")
	logs := flag.String("logs", "", "existing `directory` for the logs of the gateways")
	loopback := flag.Bool("loopback", false, "use loopback addresses instead of network namespaces, for rows that allow it")
	isolated := flag.Bool("isolated", false, "run one row and write its result as JSON to standard output; used by the command itself")
	flag.Usage = func() { _, _ = fmt.Fprint(os.Stderr, usage); flag.PrintDefaults() }
	flag.Parse()
	dir, err := os.MkdirTemp("", "scorecard-")
	if err != nil {
		return printError(err)
	}
	defer func() { _ = os.RemoveAll(dir) }()
	selected, err := selectRows(flag.Args())
	if err != nil {
		return printError(err)
	}
	if *binary == "" {
		if *binary, err = build(ctx, dir); err != nil {
			return printError(err)
		}
	}
	opts := options{ctx: ctx, tempDir: dir, binary: *binary, logs: *logs, inNamespace: *isolated, noNamespaces: *loopback}
	if *isolated {
		return printResult(selected[0].runLocal(opts))
	}
	return runRows(opts, selected, *out)
}

func printError(err error) int {
	_, _ = fmt.Fprintf(os.Stderr, "scorecard: %v\n", err)
	return 2
}

// build builds the gateway as users do and returns the path of the binary.
func build(ctx context.Context, dir string) (string, error) {
	binary := filepath.Join(dir, "gateway")
	cmd := exec.CommandContext(ctx, "go", "build", "-trimpath", "-o", binary, "github.com/sluice-push/sluice/cmd/gateway")
	if text, err := cmd.CombinedOutput(); err != nil {
		return "", fmt.Errorf("building the gateway: %w\n%s", err, text)
	}
	return binary, nil
}

// selectRows returns the rows with these IDs, or all rows without IDs.
func selectRows(names []string) ([]row, error) {
	if len(names) == 0 {
		return rows, nil
	}
	var selected []row
	for _, name := range names {
		before := len(selected)
		for _, r := range rows {
			if strings.EqualFold(r.id, name) {
				selected = append(selected, r)
			}
		}
		if len(selected) == before {
			var known []string
			for _, r := range rows {
				known = append(known, r.id)
			}
			return nil, fmt.Errorf("unknown row %q (%s)", name, strings.Join(known, ", "))
		}
	}
	return selected, nil
}

// printResult writes one result as JSON for the command that started this process.
func printResult(result rowResult) int {
	if err := json.NewEncoder(os.Stdout).Encode(result); err != nil {
		return printError(err)
	}
	return 0
}

// runRows runs the rows one after the other, because each needs the machine for itself. It prints
// the results, writes them to out and returns the exit status.
func runRows(opts options, selected []row, out string) int {
	var results []rowResult
	counts := map[outcome]int{}
	for _, r := range selected {
		if opts.ctx.Err() != nil {
			break
		}
		result := r.run(opts)
		fmt.Println(result)
		results = append(results, result)
		counts[result.Result]++
	}
	fmt.Println(summaryLine(counts))
	text, err := json.MarshalIndent(struct {
		Date    time.Time   `json:"date"`
		Machine string      `json:"machine"`
		Rows    []rowResult `json:"rows"`
	}{time.Now().UTC().Truncate(time.Second), fmt.Sprintf("%s/%s, %d cores", runtime.GOOS, runtime.GOARCH, runtime.NumCPU()), results}, "", "  ")
	if err == nil {
		err = os.WriteFile(out, append(text, '\n'), 0o644)
	}
	if err != nil {
		return printError(err)
	}
	if counts[outcomePassed] < len(selected) {
		return 1
	}
	return 0
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
