// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"time"

	"golang.org/x/term"

	"github.com/sluice-push/sluice/internal/gateway"
)

type statusCmd struct {
	statusFlags
	JSON bool `name:"json" help:"Print the response of the gateway as JSON."`
}

// statusFlags are the flags of the commands that show the status of a gateway.
type statusFlags struct {
	target
	Key     string        `env:"SLUICE_KEY,GATEWAY_KEY" help:"API key with the scope read. The admin listener needs none. Prefer the environment variable: other users of the machine can see flags."`
	NoColor bool          `help:"Print no colors. So does the environment variable NO_COLOR."`
	Timeout time.Duration `default:"10s" help:"How long to wait for the response."`
}

// Help returns the description and examples.
func (statusCmd) Help() string {
	return `Examples:

    gateway status
    gateway status --url http://127.0.0.1:9090      # the admin listener: all apps, without a key

Prints GET /v1/status of a running gateway as a table: apps, pools, endpoints with state, latency and requests in flight, quotas, the queue, webhooks and outages of providers. Exits with 0 if the gateway works, and with 1 if it does not respond or is degraded: it drains, its queue cannot store notifications, a provider is unavailable, a pool has no usable endpoint or is in panic mode, or a webhook is disabled. Single ejected endpoints and closed quotas are normal operation.`
}

// Run prints the status.
func (s statusCmd) Run(p process) error {
	text, status, err := s.fetch(p)
	if err != nil {
		return err
	}
	problems := degradations(status)
	if s.JSON {
		var pretty bytes.Buffer
		_ = json.Indent(&pretty, text, "", "  ") // it has been parsed
		printf(p.stdout, "%s\n", bytes.TrimSpace(pretty.Bytes()))
	} else {
		v := s.view(p.stdout)
		for _, line := range v.render(status) {
			printf(p.stdout, "%s\n", line)
		}
	}
	if len(problems) > 0 {
		return errReported
	}
	return nil
}

// view returns how the status is shown on an output: within the width of a terminal.
func (s statusCmd) view(w io.Writer) statusView {
	v := statusView{url: s.URL, now: time.Now()}
	if file, ok := w.(output); ok {
		w = file.Writer
	}
	if file, ok := w.(*os.File); ok && term.IsTerminal(int(file.Fd())) {
		v.width, v.height, _ = term.GetSize(int(file.Fd())) // 0 if it is unknown
		v.color = !s.NoColor && os.Getenv("NO_COLOR") == "" && os.Getenv("TERM") != "dumb"
	}
	return v
}

// fetch gets the status, as the gateway sent it and parsed.
func (s statusCmd) fetch(ctx context.Context) (text []byte, status *gateway.Status, err error) {
	client, base, err := s.connect()
	if err != nil {
		return nil, nil, err
	}
	defer client.CloseIdleConnections()
	ctx, cancel := context.WithTimeout(ctx, s.Timeout)
	defer cancel()
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, base.JoinPath("v1/status").String(), nil)
	if err != nil {
		return nil, nil, usageError{err}
	}
	if s.Key != "" {
		request.Header.Set("Authorization", "Bearer "+s.Key)
	}
	response, err := client.Do(request)
	if err != nil {
		return nil, nil, s.noResponse("status", err)
	}
	defer func() { _ = response.Body.Close() }()
	text, err = io.ReadAll(io.LimitReader(response.Body, maxStatus))
	switch {
	case err != nil:
		return nil, nil, fmt.Errorf("status: incomplete response from %s: %w", s.URL, err)
	case response.StatusCode == http.StatusUnauthorized, response.StatusCode == http.StatusForbidden:
		return nil, nil, errors.New("status: the gateway requires an API key with the scope read: set SLUICE_KEY or --key, or use the admin listener (--url)")
	case response.StatusCode != http.StatusOK && isProblem(text):
		return nil, nil, fmt.Errorf("status: HTTP status %d: %s", response.StatusCode, bytes.TrimSpace(text))
	case response.StatusCode != http.StatusOK || json.Unmarshal(text, &status) != nil:
		return nil, nil, fmt.Errorf("status: %w", intermediaryError(response))
	}
	return text, status, nil
}

// maxStatus limits the response of a gateway, in bytes.
const maxStatus = 64 << 20

// degradations says why the gateway does not work as it should.
func degradations(s *gateway.Status) (problems []string) {
	add := func(format string, args ...any) { problems = append(problems, fmt.Sprintf(format, args...)) }
	if s.Draining {
		add("the gateway is draining")
	}
	if s.Queue != nil && !s.Queue.Writable {
		add("the queue cannot store notifications: %s", s.Queue.Reason)
	}
	for _, service := range s.Services {
		pool := &service.Pool
		switch {
		case service.Outage != nil:
			add("%s: unavailable since %s: %s", pool.Name, service.Outage.Since.Format(time.TimeOnly), service.Outage.Cause)
		case !pool.Ready && !pool.Idle:
			add("%s: not ready: %s", pool.Name, pool.Reason)
		case pool.Panic:
			add("%s: panic mode: most endpoints are ejected, so all are used", pool.Name)
		}
	}
	for _, w := range s.Webhooks {
		if !w.DisabledSince.IsZero() {
			add("webhook %s/%s: disabled by its receiver since %s", w.App, w.Name, w.DisabledSince.Format(time.DateTime))
		}
	}
	return problems
}
