// SPDX-License-Identifier: Apache-2.0

package sluice_test

import (
	"maps"
	"os"
	"path"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
)

// design is docs/design.md.
const design = "docs/design.md"

var (
	codeSpan   = regexp.MustCompile("`([^`]+)`")
	testSpan   = regexp.MustCompile(`^(?:([\w/]+): )?(Test\w+)(…?)$`)
	fileSpan   = regexp.MustCompile(`^(?:([\w/]+): )?([\w./-]+\.(?:go|md|yaml|json))$`)
	layerLine  = regexp.MustCompile(`^    ([0-9])  (.+)$`)
	braceGroup = regexp.MustCompile(`^(.*)\{(.+)\}$`)
	testFunc   = regexp.MustCompile(`(?m)^func (Test\w+)\(`)
)

func designLines(t *testing.T) []string {
	t.Helper()
	text, err := os.ReadFile(design)
	if err != nil {
		t.Fatal(err)
	}
	return strings.Split(string(text), "\n")
}

// TestDesignNamesExistingFilesAndTests checks the files and tests that docs/design.md names. A name
// without a folder is in a folder that the same line names before, or in a provider.
func TestDesignNamesExistingFilesAndTests(t *testing.T) {
	tests := map[string][]string{} // by package
	for _, file := range goFiles(t) {
		if !strings.HasSuffix(file, "_test.go") {
			continue
		}
		text, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		for _, m := range testFunc.FindAllStringSubmatch(string(text), -1) {
			tests[path.Dir(file)] = append(tests[path.Dir(file)], m[1])
		}
	}
	for i, line := range designLines(t) {
		dirs, pkg := []string{".", "docs"}, ""
		if strings.Contains(line, "in the provider") {
			dirs = append(dirs, "providers/apns", "providers/fcm", "providers/webpush")
		}
		for _, span := range codeSpan.FindAllStringSubmatch(line, -1) {
			if m := testSpan.FindStringSubmatch(span[1]); m != nil {
				if m[1] != "" {
					pkg = m[1]
				}
				if !hasTest(tests, pkg, m[2], m[3] != "") {
					t.Errorf("%s:%d: the package %q has no test %s", design, i+1, pkg, m[2])
				}
			}
			if m := fileSpan.FindStringSubmatch(span[1]); m != nil {
				if m[1] != "" {
					dirs = append(dirs, m[1])
				}
				if !slices.ContainsFunc(dirs, func(dir string) bool { _, err := os.Stat(filepath.Join(dir, m[2])); return err == nil }) {
					t.Errorf("%s:%d: no file %s", design, i+1, m[2])
				}
				dirs = append(dirs, path.Dir(m[2]))
			}
		}
	}
}

// hasTest reports whether a package has a test of this name or, with prefix, one that begins with it.
// Without a package, any may have it.
func hasTest(tests map[string][]string, pkg, name string, prefix bool) bool {
	for dir, names := range tests {
		if (pkg == "" || dir == pkg) && slices.ContainsFunc(names, func(n string) bool { return n == name || prefix && strings.HasPrefix(n, name) }) {
			return true
		}
	}
	return false
}

// TestDesignListsEveryPackage compares the tables of packages and the list of layers with
// architecture_test.go.
func TestDesignListsEveryPackage(t *testing.T) {
	inTable, layers := map[string]bool{}, map[string]int{}
	table := false
	for i, line := range designLines(t) {
		cells := strings.Split(strings.Trim(line, "| "), " | ")
		switch {
		case strings.HasPrefix(line, "| package |"):
			table = true
		case table && line == "":
			table = false
		case table && strings.HasPrefix(line, "| `"):
			checkPackageRow(t, i+1, cells, inTable)
		}
		if m := layerLine.FindStringSubmatch(line); m != nil {
			layer, _ := strconv.Atoi(m[1]) // a digit
			for _, name := range expandPackages(m[2]) {
				layers[name] = layer
			}
		}
	}
	for name, rule := range packages {
		if !inTable[name] {
			t.Errorf("%s: no table of packages has %s", design, name)
		}
		if layer, listed := layers[name]; !listed || layer != rule.layer {
			t.Errorf("%s: %s must be in layer %d of the list of layers", design, name, rule.layer)
		}
	}
	for name := range layers {
		if _, known := packages[name]; !known {
			t.Errorf("%s: the layers have %s, which is not a package", design, name)
		}
	}
}

// checkPackageRow checks a row of a table of packages: name, purpose, imports. The imports are checked
// if they are a list of packages.
func checkPackageRow(t *testing.T, line int, cells []string, inTable map[string]bool) {
	t.Helper()
	want := map[string]bool{}
	for _, span := range codeSpan.FindAllStringSubmatch(cells[0], -1) {
		for _, name := range expandPackages(span[1]) {
			rule, known := packages[name]
			if !known {
				t.Errorf("%s:%d: %s is not a package", design, line, name)
			}
			inTable[name] = true
			for _, imported := range rule.mayImport {
				want[imported] = true
			}
		}
	}
	got := map[string]bool{}
	for name := range strings.SplitSeq(strings.TrimPrefix(cells[len(cells)-1], "–"), ", ") {
		if _, known := packages[name]; !known && name != "" {
			return // a sentence
		}
		got[name] = name != ""
	}
	delete(got, "")
	if !maps.Equal(got, want) {
		t.Errorf("%s:%d: %s may import %v", design, line, cells[0], slices.Sorted(maps.Keys(want)))
	}
}

// expandPackages returns the packages of a list in which a/{b,c} means a/b and a/c.
func expandPackages(list string) (names []string) {
	for name := range strings.FieldsSeq(list) {
		m := braceGroup.FindStringSubmatch(name)
		if m == nil {
			names = append(names, name)
			continue
		}
		for last := range strings.SplitSeq(m[2], ",") {
			names = append(names, m[1]+last)
		}
	}
	return names
}
