// SPDX-License-Identifier: Apache-2.0

package scorecard

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func TestAuditIsReadFromItsReport(t *testing.T) {
	for name, c := range map[string]struct {
		script  string
		lost    int
		problem string
	}{
		"clean":   {`echo '{"lost":0}'`, 0, ""},
		"lost":    {`echo '{"lost":3,"findings":[{"kind":"lost"}]}'; echo warning >&2; exit 1`, 3, "exit status 1"},
		"other":   {`echo '{"lost":0,"twice":1}'; exit 1`, 0, `"twice":1`},
		"failure": {`echo 'gateway: connection lost' >&2; exit 1`, 0, "connection lost"},
		"no JSON": {`echo 'nothing was lost'`, 0, "invalid character"},
	} {
		binary := filepath.Join(t.TempDir(), "gateway")
		if err := os.WriteFile(binary, []byte("#!/bin/sh\n"+c.script+"\n"), 0o700); err != nil {
			t.Fatal(err)
		}
		s := &scenario{options: options{ctx: t.Context(), binary: binary}}
		lost, problem := s.runAudit("gateway.yaml")
		if lost != c.lost || (problem == "") != (c.problem == "") || !strings.Contains(problem, c.problem) {
			t.Errorf("%s: got %d, %q", name, lost, problem)
		}
	}
}
