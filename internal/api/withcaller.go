// SPDX-License-Identifier: Apache-2.0

package api

import (
	"context"
	"net/http"

	"github.com/sluice-push/sluice/internal/identity"
)

// callerKey is the key of a context for the caller.
type callerKey struct{}

// WithCaller returns a copy of r, which has no credential, with its caller. The console calls the API
// in this way for those who have signed in: it does not keep their credentials.
func WithCaller(r *http.Request, caller *identity.Caller) *http.Request {
	return r.WithContext(context.WithValue(r.Context(), callerKey{}, caller))
}
