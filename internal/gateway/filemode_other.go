// SPDX-License-Identifier: Apache-2.0

//go:build !unix

package gateway

import "io/fs"

// readableByOthers returns false: on this system, modes do not say who can read a file.
func readableByOthers(fs.FileInfo) bool { return false }
