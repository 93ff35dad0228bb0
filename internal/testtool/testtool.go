// SPDX-License-Identifier: Apache-2.0

// Package testtool ends tests whose requirements are missing, such as a program: with CI set in the
// environment such a test fails, otherwise it is skipped. Only tests import it.
package testtool

import (
	"os"
	"os/exec"
)

// TB is the part of testing.TB that the package needs.
type TB interface {
	Helper()
	Fatal(args ...any)
	Skip(args ...any)
}

// Require ends the test unless the program is in the path.
func Require(t TB, program string) {
	t.Helper()
	if _, err := exec.LookPath(program); err != nil {
		Missing(t, program+" is missing")
	}
}

// Missing ends the test because of what is missing.
func Missing(t TB, reason string) {
	t.Helper()
	if os.Getenv("CI") != "" {
		t.Fatal(reason)
	}
	t.Skip(reason)
}
