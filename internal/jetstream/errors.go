// SPDX-License-Identifier: Apache-2.0

package jetstream

import (
	"errors"
	"fmt"

	natsserver "github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"
	natsjs "github.com/nats-io/nats.go/jetstream"
)

// mapError maps an error of the server for a write to a stream to one of this package.
func (e *Engine) mapError(stream string, err error) error {
	if err == nil {
		return nil
	}
	if errors.Is(err, nats.ErrMaxPayload) {
		return ErrTooLarge
	}
	if api, ok := errors.AsType[*natsjs.APIError](err); ok && isFull(api) {
		return fmt.Errorf("%w: %s", ErrFull, stream)
	}
	if e.server != nil && !isDisconnected(err) {
		e.server.recordFailure(err)
	}
	return fmt.Errorf("%w: %w", ErrUnwritable, err)
}

// isDisconnected reports whether the connection is down. With the embedded server that is a restart
// after a failure.
func isDisconnected(err error) bool {
	return errors.Is(err, nats.ErrDisconnected) || errors.Is(err, nats.ErrReconnectBufExceeded)
}

// isFull reports whether a stream has reached its limit. The server uses one code for all errors of
// a store, so isFull compares descriptions.
func isFull(err *natsjs.APIError) bool {
	return err.Description == natsserver.ErrMaxBytes.Error() || err.Description == natsserver.ErrMaxMsgs.Error()
}
