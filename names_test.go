// SPDX-License-Identifier: Apache-2.0

package sluice_test

import (
	"go/ast"
	"go/parser"
	"go/token"
	"os"
	"os/exec"
	"strings"
	"testing"

	"github.com/sluice-push/sluice/internal/testtool"
)

// retiredIdentifiers are former names of this project that have a standard
// term in the field. They must not come back.
var retiredIdentifiers = strings.Fields(`
	Admission Apart Asleep Brake Ceiling ChannelAct Crew DeadTokens EndpointProven ErrForgotten ErrKeyBusy FirstAlone
	InLane Insist KeepKeys Leaving MayFollow Misfit Misplaced NoAnswer Passage Patience Patient Redraw Spend
	StandIn Surveyor ToldUpTo Whereabouts
	asker atOnce aviary barred beat beatWait benchHouse bury byStreak carry comeIn confess convalescent coarse crew deathbed
	departed doubtful errElsewhere errand everyRow farewell fate forgotten founding gateClosed giveBack goneAway governor
	graveyard greatestWait greed guest handout hands hangUp harbour heal healed healWait hire house hurry inTruth justFetched knows
	laggard leaf leastWait longestBeat mercy misfit mostBytes mostWait newHouse notNoted nobody onHand overShare party passage
	patience pile putBack putKey rejuvenate rouse salvage scout shedAwhile shelf shelves sick sight speechless spareTheDoubtful
	spoilt stadium stranger strangers survey takeUp tenants tide told tooLate town turnAway twins unheard unlucky watermelon
	whereabouts worlds yields
`)

// retiredText are former names of metrics, configuration keys and error codes.
var retiredText = []string{
	"sluice_gate_", "sluice_brake_", "sluice_ceiling_", "dead_tokens", "keep_keys", "send_time:", "target_time:", "body_time:",
}

// TestRetiredNamesStayRetired is part of make lint.
func TestRetiredNamesStayRetired(t *testing.T) {
	retired := map[string]bool{}
	for _, name := range retiredIdentifiers {
		retired[name] = true
	}
	for _, file := range goFiles(t) {
		set := token.NewFileSet()
		parsed, err := parser.ParseFile(set, file, nil, 0)
		if err != nil {
			t.Fatal(err)
		}
		ast.Inspect(parsed, func(node ast.Node) bool {
			if id, ok := node.(*ast.Ident); ok && retired[id.Name] {
				t.Errorf("%s: %s is a retired name; use the field's term", set.Position(id.Pos()), id.Name)
			}
			return true
		})
	}
}

func TestRetiredTextStaysRetired(t *testing.T) {
	files, err := exec.CommandContext(t.Context(), "git", "ls-files", "*.go", "*.md", "*.yaml").Output()
	if err != nil {
		testtool.Missing(t, "not a git checkout") // an archive of the sources has no index
	}
	for _, file := range strings.Fields(string(files)) {
		if file == "CHANGELOG.md" || file == "names_test.go" || strings.HasPrefix(file, "internal/config/") {
			continue // they name what was renamed
		}
		text, err := os.ReadFile(file)
		if err != nil {
			continue // deleted and not committed yet
		}
		for _, old := range retiredText {
			if strings.Contains(string(text), old) {
				t.Errorf("%s has the retired name %s", file, old)
			}
		}
	}
}
