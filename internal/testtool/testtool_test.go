// SPDX-License-Identifier: Apache-2.0

package testtool_test

import (
	"fmt"
	"testing"

	"github.com/sluice-push/sluice/internal/testtool"
)

// fakeTB records how a test ends.
type fakeTB struct{ end string }

func (f *fakeTB) Helper()           {}
func (f *fakeTB) Fatal(args ...any) { f.end += "failed: " + fmt.Sprint(args...) + ";" }
func (f *fakeTB) Skip(args ...any)  { f.end += "skipped: " + fmt.Sprint(args...) + ";" }

func TestRequire(t *testing.T) {
	for _, c := range []struct{ ci, program, end string }{
		{"", "go", ""},
		{"true", "go", ""},
		{"", "no-such-program", "skipped: no-such-program is missing;"},
	} {
		t.Setenv("CI", c.ci)
		f := new(fakeTB)
		if testtool.Require(f, c.program); f.end != c.end {
			t.Errorf("CI=%q, %s: %q", c.ci, c.program, f.end)
		}
	}
}

func TestMissingFailsInCI(t *testing.T) {
	t.Setenv("CI", "true")
	f := new(failingTB)
	defer func() {
		if recover() != errFailed || f.end != "failed: x;" {
			t.Errorf("%q", f.end)
		}
	}()
	testtool.Missing(f, "x")
}

// failingTB panics at the end, as t.Fatal ends the goroutine.
type failingTB struct{ fakeTB }

var errFailed = fmt.Errorf("failed")

func (f *failingTB) Fatal(args ...any) { f.fakeTB.Fatal(args...); panic(errFailed) }
