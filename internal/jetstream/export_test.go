// SPDX-License-Identifier: Apache-2.0

package jetstream

import "errors"

// FailWrites makes the embedded server restart, as after a failed write.
func FailWrites(e *Engine) { e.server.recordFailure(errors.New("test")) }
