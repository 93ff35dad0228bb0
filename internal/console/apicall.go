// SPDX-License-Identifier: Apache-2.0

package console

import (
	"bytes"
	"context"
	"net/http"
)

// apiResponse is the response of the API to a call of the console.
type apiResponse struct {
	Status int
	header http.Header
	body   bytes.Buffer
}

var _ http.ResponseWriter = (*apiResponse)(nil)

// Header implements http.ResponseWriter.
func (a *apiResponse) Header() http.Header { return a.header }

// WriteHeader implements http.ResponseWriter.
func (a *apiResponse) WriteHeader(status int) { a.Status = status }

// Write implements http.ResponseWriter.
func (a *apiResponse) Write(p []byte) (int, error) { return a.body.Write(p) }

func newAPIRequest(ctx context.Context, method, path string, body []byte) (*http.Request, error) {
	r, err := http.NewRequestWithContext(ctx, method, path, bytes.NewReader(body))
	if err == nil {
		r.Header.Set("Content-Type", "application/json")
	}
	return r, err
}
