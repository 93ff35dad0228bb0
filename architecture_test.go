// SPDX-License-Identifier: Apache-2.0

package sluice_test

import (
	"go/doc"
	"go/parser"
	"go/token"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
)

const module = "github.com/sluice-push/sluice"

// floors is the plan of the house: which room stands on which floor, and which
// of our rooms it may import. An import only ever goes down. docs/design.md
// draws the same plan for people; change both in one commit.
var floors = map[string]struct {
	floor      int
	mayImport  []string
	mayNotFrom string // why a tempting import is not there
}{
	"push":         {floor: 0},
	"wire":         {floor: 0},
	"config":       {floor: 0},
	"object":       {floor: 0},
	"engine":       {floor: 0},
	"internet":     {floor: 0},
	"source":       {floor: 0},
	"mockprovider/ledger": {floor: 0},
	"mockprovider": {floor: 3, mayImport: []string{"mockprovider/ledger"},
		mayNotFrom: "only its own packages, so that it can find mistakes in the rest"},

	"providers/apns":    {floor: 1, mayImport: []string{"object", "push", "wire"}},
	"providers/fcm":     {floor: 1, mayImport: []string{"object", "push", "wire"}},
	"providers/webpush": {floor: 1, mayImport: []string{"push", "wire"}},
	"providers/providertest": {floor: 1, mayImport: []string{"push", "wire"},
		mayNotFrom: "a provider is handed to it; it knows none"},
	"engine/enginetest": {floor: 1, mayImport: []string{"engine"},
		mayNotFrom: "the rooms' tests come to it; it knows none"},
	"pool":  {floor: 1, mayImport: []string{"internet", "push", "wire"}},
	"retry": {floor: 1, mayImport: []string{"push"}},
	"quota": {floor: 1, mayImport: []string{"push"}},
	"rest":  {floor: 1, mayImport: []string{"push"}},
	"share": {floor: 1, mayImport: []string{"engine"},
		mayNotFrom: "it asks gates through an interface of its own"},

	"queue": {floor: 1, mayImport: []string{"engine", "object", "push"}},
	"history": {floor: 1, mayImport: []string{"engine", "push"},
		mayNotFrom: "the queue asks it through an interface of its own"},

	"webhook": {floor: 1, mayImport: []string{"internet", "push"}},

	"delivery": {floor: 2, mayImport: []string{"push", "wire", "pool", "retry", "quota"}},
	"zone":     {floor: 2, mayImport: []string{"pool"}},

	"loadtest":        {floor: 3, mayImport: []string{"push"}},
	"loadtest/report": {floor: 2, mayNotFrom: "it draws what it is told"},
	"loadtest/bench": {floor: 4, mayImport: []string{"loadtest/report", "mockprovider"},
		mayNotFrom: "it knows gateways by their API, as it knows their peers"},
	"client": {floor: 3, mayImport: []string{"push", "wire", "delivery", "pool", "zone", "retry"},
		mayNotFrom: "it knows gateways by their API; its tests alone run real ones"},

	"metrics": {floor: 3, mayImport: []string{"push", "delivery", "pool", "quota", "queue", "history", "webhook"}},

	"gateway": {floor: 4, mayImport: []string{
		"push", "wire", "config", "providers/apns", "providers/fcm", "providers/webpush", "pool", "retry", "quota", "rest", "delivery", "zone", "metrics",
		"engine", "history", "queue", "share", "webhook",
	}, mayNotFrom: "the mock is a stand-in for the world outside; only cmd and tests may bring it in"},

	"cmd/gateway": {floor: 5, mayImport: []string{"gateway", "config", "source", "engine", "history", "loadtest/bench", "loadtest/report", "mockprovider", "providers/webpush", "push", "rest"}},
	"loadtest/scorecard": {floor: 5, mayImport: []string{"client", "loadtest", "mockprovider", "pool", "push"},
		mayNotFrom: "it knows the gateway as operators do: by its binary, its configuration and its API; pool is the client's, whose events it reads"},
}

// noSuchRoom holds the names under which code goes to be forgotten.
var noSuchRoom = []string{"util", "utils", "common", "helpers", "types", "models", "misc", "internal"}

func TestEveryImportGoesDown(t *testing.T) {
	for _, file := range goFiles(t) {
		room := path.Dir(file)
		if room == "." || strings.HasSuffix(file, "_test.go") {
			continue
		}
		plan, known := floors[room]
		if !known {
			t.Errorf("%s: the room %q is not in the plan (floors in architecture_test.go, rooms in docs/design.md)", file, room)
			continue
		}
		for _, imported := range ourImports(t, file) {
			if !slices.Contains(plan.mayImport, imported) {
				t.Errorf("%s: %s may not import %s; it may import %v %s", file, room, imported, plan.mayImport, plan.mayNotFrom)
			}
		}
	}
}

func TestThePlanItselfHasNoArrowUpOrSideways(t *testing.T) {
	for room, plan := range floors {
		for _, below := range plan.mayImport {
			if floors[below].floor >= plan.floor {
				t.Errorf("the plan lets %s (floor %d) import %s (floor %d)", room, plan.floor, below, floors[below].floor)
			}
		}
	}
}

func TestNoRoomIsNamedForNothing(t *testing.T) {
	for _, file := range goFiles(t) {
		for part := range strings.SplitSeq(path.Dir(file), "/") {
			if slices.Contains(noSuchRoom, part) {
				t.Errorf("%s: what two rooms share is a word (push) or the wrong floor plan; there is no room %q", file, part)
			}
		}
	}
}

func TestEveryRoomSaysWhatItIsAndWhatItIsNot(t *testing.T) {
	docs := map[string]string{}
	for _, file := range goFiles(t) {
		if strings.HasSuffix(file, "_test.go") || path.Dir(file) == "." {
			continue
		}
		parsed, err := parser.ParseFile(token.NewFileSet(), file, nil, parser.ParseComments|parser.PackageClauseOnly)
		if err != nil {
			t.Fatal(err)
		}
		if text := parsed.Doc.Text(); text != "" {
			if docs[path.Dir(file)] != "" {
				t.Errorf("%s: the package has a second package comment", file)
			}
			docs[path.Dir(file)] = new(doc.Package).Synopsis(text)
		} else if docs[path.Dir(file)] == "" {
			docs[path.Dir(file)] = ""
		}
	}
	for room, synopsis := range docs {
		if synopsis == "" {
			t.Errorf("%s has no package comment", room)
		}
	}
}

func TestEveryFileNamesItsLicence(t *testing.T) {
	for _, file := range goFiles(t) {
		text, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		if !strings.HasPrefix(string(text), "// SPDX-License-Identifier: Apache-2.0\n") {
			t.Errorf("%s: the first line is not the SPDX line", file)
		}
	}
}

// goFiles lists the module's Go files by their slash-separated path. The
// modules below this one (tools, compatibility tests) have houses of their own.
func goFiles(t *testing.T) []string {
	t.Helper()
	var files []string
	err := filepath.WalkDir(".", func(name string, entry fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if entry.IsDir() && name != "." {
			if strings.HasPrefix(entry.Name(), ".") || entry.Name() == "testdata" || entry.Name() == "examples" {
				return filepath.SkipDir
			}
			if _, err := os.Stat(filepath.Join(name, "go.mod")); err == nil {
				return filepath.SkipDir
			}
		}
		if strings.HasSuffix(name, ".go") {
			files = append(files, filepath.ToSlash(name))
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return files
}

// ourImports lists the rooms that a file imports.
func ourImports(t *testing.T, file string) []string {
	t.Helper()
	parsed, err := parser.ParseFile(token.NewFileSet(), file, nil, parser.ImportsOnly)
	if err != nil {
		t.Fatal(err)
	}
	var rooms []string
	for _, spec := range parsed.Imports {
		name, err := strconv.Unquote(spec.Path.Value)
		if err != nil {
			t.Fatal(err)
		}
		if room, ours := strings.CutPrefix(name, module+"/"); ours {
			rooms = append(rooms, room)
		}
	}
	return rooms
}
