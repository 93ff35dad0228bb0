// SPDX-License-Identifier: Apache-2.0

//go:build !unix

package jetstream

import (
	"fmt"
	"os"
)

// lockFile does not exclude other processes on this platform: do not start two on one directory.
func lockFile(name string) (*os.File, error) {
	file, err := os.OpenFile(name, os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return nil, fmt.Errorf("jetstream: %w", err)
	}
	return file, nil
}

// verifyUnlocked does nothing on this platform.
func verifyUnlocked(string) error { return nil }

// freeBytes is not implemented on this platform. A full disk shows when a write fails.
func freeBytes(string) (left uint64, ok bool) { return 0, false }

// syncDir has no effect on this platform: a directory cannot be synced.
func syncDir(string) error { return nil }
