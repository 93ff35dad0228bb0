// SPDX-License-Identifier: Apache-2.0

//go:build !unix

package main

import "os"

// watchSize returns a channel that never receives: the next refresh has the new size.
func watchSize() (resized <-chan os.Signal, stop func()) { return nil, func() {} }
