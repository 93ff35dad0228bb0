// SPDX-License-Identifier: Apache-2.0

package console

import (
	"bytes"
	"context"
	"io"
	"net/http"
	"time"
)

// apiResponse is the response of the API to a call of the console.
type apiResponse struct {
	Status int
	header http.Header
	body   bytes.Buffer
	// control sets deadlines of the request that is passed on; nil for others.
	control *http.ResponseController
}

var _ http.ResponseWriter = (*apiResponse)(nil)

// Header implements http.ResponseWriter.
func (a *apiResponse) Header() http.Header { return a.header }

// WriteHeader implements http.ResponseWriter.
func (a *apiResponse) WriteHeader(status int) { a.Status = status }

// Write implements http.ResponseWriter.
func (a *apiResponse) Write(p []byte) (int, error) { return a.body.Write(p) }

// SetReadDeadline implements the method that http.ResponseController looks for.
func (a *apiResponse) SetReadDeadline(t time.Time) error {
	if a.control == nil {
		return http.ErrNotSupported
	}
	return a.control.SetReadDeadline(t)
}

func newAPIRequest(ctx context.Context, method, path string, body io.Reader) (*http.Request, error) {
	r, err := http.NewRequestWithContext(ctx, method, path, body)
	if err == nil {
		r.Header.Set("Content-Type", "application/json")
	}
	return r, err
}
