// SPDX-License-Identifier: Apache-2.0

package push

import "context"

type attemptContextKey struct{}

// WithAttemptContext returns a context for a send whose attempts have a context of their own. When ctx
// ends, the send waits for nothing more and starts no further attempt. An attempt in flight goes on
// until attempts ends, so that its response is recorded although the caller no longer waits.
func WithAttemptContext(ctx, attempts context.Context) context.Context {
	return context.WithValue(ctx, attemptContextKey{}, attempts)
}

// AttemptContext returns the context of the attempts of a send with this context.
func AttemptContext(ctx context.Context) context.Context {
	if attempts, ok := ctx.Value(attemptContextKey{}).(context.Context); ok {
		return attempts
	}
	return ctx
}
