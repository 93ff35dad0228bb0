// SPDX-License-Identifier: Apache-2.0

//go:build unix

package gateway

import (
	"io/fs"
	"os"
	"syscall"
	"testing"
)

// fileOf is a file with a mode and an owner.
type fileOf struct {
	fs.FileInfo
	mode fs.FileMode
	uid  int
}

func (f fileOf) Mode() fs.FileMode { return f.mode }
func (f fileOf) Sys() any          { return &syscall.Stat_t{Uid: uint32(f.uid)} }

func TestWhoElseReadsKeyFile(t *testing.T) {
	own, other := os.Geteuid(), os.Geteuid()+1
	for _, c := range []struct {
		mode fs.FileMode
		uid  int
		want bool
	}{
		{0o600, own, false}, {0o400, own, false}, {0o640, own, true}, {0o604, own, true},
		{0o440, other, false}, {0o640, other, false}, {0o660, other, true}, {0o444, other, true},
	} {
		if got := readableByOthers(fileOf{mode: c.mode, uid: c.uid}); got != c.want {
			t.Errorf("mode %#o, own file %v: %v, want %v", c.mode, c.uid == own, got, c.want)
		}
	}
}
