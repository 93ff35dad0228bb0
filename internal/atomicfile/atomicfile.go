// SPDX-License-Identifier: Apache-2.0

// Package atomicfile replaces files as a whole.
package atomicfile

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
)

// Write replaces a file. A reader, and a start after a crash, find either its old content or data. Only
// the owner can read the file. The content is synced before the file is replaced. Two calls for one file
// must not run at the same time. After an error, the old file is unchanged.
func Write(name string, data []byte) error {
	temp := name + ".new"
	if err := os.Remove(temp); err != nil && !errors.Is(err, fs.ErrNotExist) { // left by a crash
		return fmt.Errorf("atomicfile: %w", err)
	}
	file, err := os.OpenFile(temp, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o600)
	if err != nil {
		return fmt.Errorf("atomicfile: %w", err)
	}
	_, err = file.Write(data)
	if err = errors.Join(err, file.Sync(), file.Close()); err == nil {
		err = os.Rename(temp, name)
	}
	if err != nil {
		return fmt.Errorf("atomicfile: %w", errors.Join(err, os.Remove(temp)))
	}
	return nil
}
