// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"time"
)

// reader are the flags of commands that read from the API of a gateway.
type reader struct {
	target
	Timeout time.Duration `default:"60s" help:"How long to wait for each response."`
}

// read reads a response of the API into v. command is the name of the command, for errors.
func (r reader) read(ctx context.Context, command, key, path string, query url.Values, v any) error {
	client, base, err := r.connect()
	if err != nil {
		return err
	}
	defer client.CloseIdleConnections()
	ctx, cancel := context.WithTimeout(ctx, r.Timeout)
	defer cancel()
	address := base.JoinPath(path)
	address.RawQuery = query.Encode()
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, address.String(), nil)
	if err != nil {
		return usageError{err}
	}
	request.Header.Set("Authorization", "Bearer "+key)
	response, err := client.Do(request)
	if err != nil {
		return r.noResponse(command, err)
	}
	defer func() { _ = response.Body.Close() }()
	text, err := io.ReadAll(io.LimitReader(response.Body, maxStatus))
	switch {
	case err != nil:
		return fmt.Errorf("%s: incomplete response from %s: %w", command, r.URL, err)
	case response.StatusCode != http.StatusOK && isProblem(text):
		return fmt.Errorf("%s: HTTP status %d: %s", command, response.StatusCode, bytes.TrimSpace(text))
	case response.StatusCode != http.StatusOK || json.Unmarshal(text, v) != nil:
		return fmt.Errorf("%s: %w", command, intermediaryError(response))
	}
	return nil
}

// set sets the parameters that are not empty.
func set(query url.Values, values map[string]string) {
	for name, value := range values {
		if value != "" {
			query.Set(name, value)
		}
	}
}
