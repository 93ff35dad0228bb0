// SPDX-License-Identifier: Apache-2.0

//go:build !unix

package engine

import (
	"fmt"
	"os"
)

// lockFile cannot keep a second process out here; do not start one on the same folder.
func lockFile(name string) (*os.File, error) {
	file, err := os.OpenFile(name, os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return nil, fmt.Errorf("engine: %w", err)
	}
	return file, nil
}

// freeBytes is not known here; a full disk shows when a write fails.
func freeBytes(string) (left uint64, ok bool) { return 0, false }
