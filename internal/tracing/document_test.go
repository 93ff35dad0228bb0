// SPDX-License-Identifier: Apache-2.0

package tracing_test

import (
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// TestAttributesAreDocumented compares the tables in docs/tracing.md with the code.
func TestAttributesAreDocumented(t *testing.T) {
	code, err := os.ReadFile("spans.go")
	if err != nil {
		t.Fatal(err)
	}
	page, err := os.ReadFile("../../docs/tracing.md")
	if err != nil {
		t.Fatal(err)
	}
	_, table, _ := strings.Cut(string(page), "\n## Attributes\n")
	table, _, _ = strings.Cut(table, "\n## ")
	var used, documented []string
	for _, m := range regexp.MustCompile(`attribute\.(?:String|Int)\("([a-z_.]+)"`).FindAllStringSubmatch(string(code), -1) {
		used = append(used, m[1])
	}
	for row := range strings.SplitSeq(table, "\n") {
		names, _, _ := strings.Cut(strings.TrimPrefix(row, "|"), "|")
		for _, m := range regexp.MustCompile("`([a-z_.]+)`").FindAllStringSubmatch(names, -1) {
			if strings.HasPrefix(row, "| `") {
				documented = append(documented, m[1])
			}
		}
	}
	slices.Sort(used)
	slices.Sort(documented)
	if diff := cmp.Diff(slices.Compact(used), documented); diff != "" || len(used) < 20 {
		t.Errorf("code (-) and document (+):\n%s", diff)
	}
}
