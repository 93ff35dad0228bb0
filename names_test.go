// SPDX-License-Identifier: Apache-2.0

package sluice_test

import (
	"go/ast"
	"go/parser"
	"go/token"
	"os"
	"os/exec"
	"path"
	"slices"
	"strings"
	"testing"

	"github.com/sluice-push/sluice/internal/testtool"
)

// retiredIdentifiers are former names of this project that have a standard
// term in the field. They must not come back.
var retiredIdentifiers = strings.Fields(`
	Admission Again Apart Asleep Born Brake Caught Ceiling Chance ChannelAct Crew Dead DeadTokens EndpointProven
	ErrForgotten ErrKeyBusy FirstAlone Gate Hold InLane Insist KeepKeys Leave Leaving MayFollow Mirror Misfit
	Misplaced NoAnswer Note Over Parked Passage Patience Patient Place Positions Reach Redraw Settled Spend
	StandIn Surveyor ToldUpTo Trial Tries Turn Whereabouts Word
	ask asked asker atOnce aviary away barred beat beatWait benchHouse briefly bury byStreak card carry cleared
	coarse comeIn confess convalescent crew deathbed departed dismiss door doubtful durable errand errElsewhere
	everyRow excused explain face farewell fate forgotten founding gateClosed giveBack goneAway governor graveyard
	greatestWait greed guest hand handout hands hangUp harbour heal healed healWait hear heed hire house hurry
	insist inTruth justFetched knows laggard leaf learn leastWait longestBeat mercy met misfit mostBytes mostWait
	newHouse nobody notNoted onHand origins overShare owed parked party passage passing patience pile putBack
	putKey rejuvenate rouse salvage say scout search shedAwhile shelf shelves sick sight spareTheDoubtful
	speechless spends spoilt spot stadium stage standing stands stranger strangers survey takeUp tell tenants tide
	timely told tooLate touch town trial turnAway twins unheard unlucky watermelon whereabouts willing worlds
	worse yields
`)

// retiredTypes are former names of types that are also the standard name of something else.
var retiredTypes = []string{"sending"}

// retiredText are former names of metrics, configuration keys and error codes.
var retiredText = []string{
	"sluice_gate_", "sluice_brake_", "sluice_ceiling_", "dead_tokens", "keep_keys", "send_time:", "target_time:", "body_time:",
	"NOT_NOTED", "history.behind", "history.rebuilt", "_told_", "events-forgotten", "EventsForgotten",
}

// TestRetiredNamesStayRetired is part of make lint.
func TestRetiredNamesStayRetired(t *testing.T) {
	retired := map[string]bool{}
	for _, name := range retiredIdentifiers {
		retired[name] = true
	}
	for _, file := range trackedFiles(t, "*.go") {
		if base, _, _ := strings.Cut(path.Base(file), "_test.go"); retired[strings.TrimSuffix(base, ".go")] {
			t.Errorf("%s has a retired name", file)
		}
		set := token.NewFileSet()
		parsed, err := parser.ParseFile(set, file, nil, 0)
		if err != nil {
			t.Error(err)
			continue
		}
		ast.Inspect(parsed, func(node ast.Node) bool {
			switch n := node.(type) {
			case *ast.Ident:
				if retired[n.Name] {
					t.Errorf("%s: %s is a retired name; use the field's term", set.Position(n.Pos()), n.Name)
				}
			case *ast.TypeSpec:
				if slices.Contains(retiredTypes, n.Name.Name) {
					t.Errorf("%s: %s is a retired name of a type", set.Position(n.Pos()), n.Name.Name)
				}
			}
			return true
		})
	}
}

// trackedFiles lists the files of the repository that match the patterns, also those of nested modules
// and examples. A file that was deleted and not committed yet is left out.
func trackedFiles(t *testing.T, patterns ...string) (files []string) {
	t.Helper()
	out, err := exec.CommandContext(t.Context(), "git", append([]string{"ls-files", "--"}, patterns...)...).Output()
	if err != nil {
		testtool.Missing(t, "not a git checkout") // an archive of the sources has no index
	}
	for _, file := range strings.Fields(string(out)) {
		if _, err := os.Stat(file); err == nil {
			files = append(files, file)
		}
	}
	return files
}

func TestRetiredTextStaysRetired(t *testing.T) {
	for _, file := range trackedFiles(t, "*.go", "*.md", "*.yaml") {
		if file == "CHANGELOG.md" || file == "names_test.go" || strings.HasPrefix(file, "internal/config/") {
			continue // they name what was renamed
		}
		text, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		for _, old := range retiredText {
			if strings.Contains(string(text), old) {
				t.Errorf("%s has the retired name %s", file, old)
			}
		}
	}
}
