// SPDX-License-Identifier: Apache-2.0

package jetstreamtest

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"testing"
)

// CrashedCopy returns a copy of dir as a process that is killed now would leave it behind. A server may
// write to dir meanwhile: a file that it removes or renames before it is copied is left out.
func CrashedCopy(t testing.TB, dir string) string {
	t.Helper()
	crashed := t.TempDir()
	err := filepath.WalkDir(dir, func(path string, entry fs.DirEntry, err error) error {
		if err == nil {
			err = copyEntry(filepath.Join(crashed, path[len(dir):]), path, entry)
		}
		if errors.Is(err, fs.ErrNotExist) {
			return nil
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return crashed
}

func copyEntry(dst, src string, entry fs.DirEntry) error {
	if entry.IsDir() {
		return os.MkdirAll(dst, 0o700)
	}
	data, err := os.ReadFile(src)
	if err != nil {
		return err
	}
	return os.WriteFile(dst, data, 0o600)
}
