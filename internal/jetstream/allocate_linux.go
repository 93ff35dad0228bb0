// SPDX-License-Identifier: Apache-2.0

package jetstream

import (
	"errors"
	"os"
	"syscall"
)

// allocate creates a file with allocated space, or grows it. If the file system does not support that, it
// removes the file and returns errors.ErrUnsupported.
func allocate(name string, size int64) error {
	file, err := os.OpenFile(name, os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return err
	}
	err = errors.Join(syscall.Fallocate(int(file.Fd()), 0, 0, size), file.Close())
	if errors.Is(err, errors.ErrUnsupported) {
		err = errors.Join(err, os.Remove(name))
	}
	return err
}
