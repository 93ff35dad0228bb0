// SPDX-License-Identifier: Apache-2.0

//go:build unix

package main

import "syscall"

// restrictFileModes makes files and directories that the process creates accessible to their owner
// only. They contain device tokens, texts of notifications and keys. Libraries, such as the embedded
// NATS server, would let the group or everyone read them.
func restrictFileModes() { syscall.Umask(0o077) }
