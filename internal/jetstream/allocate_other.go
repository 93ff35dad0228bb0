// SPDX-License-Identifier: Apache-2.0

//go:build !linux

package jetstream

import "errors"

// allocate is not implemented on this platform: other programs can use the reserve.
func allocate(string, int64) error { return errors.ErrUnsupported }
