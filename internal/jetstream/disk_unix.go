// SPDX-License-Identifier: Apache-2.0

//go:build unix

package jetstream

import (
	"errors"
	"fmt"
	"os"
	"syscall"
)

// lockFile locks the file for this process. The system releases the lock when the process ends.
func lockFile(name string) (*os.File, error) {
	file, err := os.OpenFile(name, os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return nil, fmt.Errorf("jetstream: %w", err)
	}
	if err := syscall.Flock(int(file.Fd()), syscall.LOCK_EX|syscall.LOCK_NB); err != nil {
		return nil, errors.Join(fmt.Errorf("%w: %s (%w)", ErrLocked, name, err), file.Close())
	}
	return file, nil
}

// verifyUnlocked returns ErrLocked if another process has locked the file. It does not create the
// file, and holds a shared lock for a moment.
func verifyUnlocked(name string) error {
	file, err := os.Open(name)
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("jetstream: %w", err)
	}
	err = syscall.Flock(int(file.Fd()), syscall.LOCK_SH|syscall.LOCK_NB)
	if err != nil {
		err = fmt.Errorf("%w: %s (%w)", ErrLocked, name, err)
	}
	return errors.Join(err, file.Close())
}

// freeBytes returns how many bytes this process can still write to the disk of dir.
func freeBytes(dir string) (left uint64, ok bool) {
	var s syscall.Statfs_t
	if syscall.Statfs(dir, &s) != nil {
		return 0, false
	}
	return uint64(s.Bavail) * uint64(s.Bsize), true
}

// syncDir syncs the names in a directory to disk.
func syncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}
