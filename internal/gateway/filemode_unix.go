// SPDX-License-Identifier: Apache-2.0

//go:build unix

package gateway

import (
	"io/fs"
	"os"
	"syscall"
)

// readableByOthers reports whether users other than that of the gateway can read a key file. If the file
// belongs to another user, the gateway itself reads it as a member of its group, such as a secret that
// Kubernetes mounts: then the group may read.
func readableByOthers(info fs.FileInfo) bool {
	others := fs.FileMode(0o077)
	if stat, ok := info.Sys().(*syscall.Stat_t); ok && int(stat.Uid) != os.Geteuid() {
		others = 0o037
	}
	return info.Mode().Perm()&others != 0
}
