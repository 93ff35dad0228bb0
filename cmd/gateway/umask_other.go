// SPDX-License-Identifier: Apache-2.0

//go:build !unix

package main

// restrictFileModes does nothing: access to a file is inherited from its directory.
func restrictFileModes() {}
