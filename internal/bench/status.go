// SPDX-License-Identifier: Apache-2.0

package bench

import (
	"context"
	"encoding/json"
	"net/http"
	"net/url"
	"time"
)

// status is what is read of GET /v1/status.
type status struct {
	Services []struct {
		Pool struct {
			Endpoints []struct {
				Address, State, Reason string
				Connections            int
				EjectedUntil           *time.Time `json:"ejected_until"`
			}
		}
	}
}

// pollStatus looks at a gateway's endpoints every second, or as often as the timeline has steps, until ctx ends. Where the
// status cannot be had, for the key may lack the scope, the report has none.
func (t *loadTest) pollStatus(ctx context.Context) {
	if t.API != "sluice" {
		return
	}
	client := &http.Client{Timeout: 2 * time.Second, Transport: &http.Transport{}}
	defer client.CloseIdleConnections()
	for {
		if s, err := t.fetchStatus(ctx, client); err == nil {
			t.recorder.recordEndpoints(s.countEndpoints())
		}
		if !sleep(ctx, max(t.recorder.stepLength, time.Second)) {
			return
		}
	}
}

func (t *loadTest) fetchStatus(ctx context.Context, client *http.Client) (s status, err error) {
	at, err := url.JoinPath(t.URL, "v1/status")
	if err != nil {
		return s, err
	}
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, at, nil)
	if err != nil {
		return s, err
	}
	request.Header.Set("Authorization", "Bearer "+t.Key)
	answer, err := client.Do(request)
	if err != nil {
		return s, err
	}
	defer func() { _ = answer.Body.Close() }()
	return s, json.NewDecoder(answer.Body).Decode(&s)
}

// countEndpoints counts the endpoints that are well, and says of the others what is wrong.
func (s *status) countEndpoints() (live int, troubled map[string]string) {
	troubled = map[string]string{}
	for _, service := range s.Services {
		for _, e := range service.Pool.Endpoints {
			switch {
			case e.EjectedUntil != nil:
				troubled[e.Address] = "ejected"
			case e.State != "closed" && e.State != "":
				troubled[e.Address] = e.State
			case e.Connections == 0:
				troubled[e.Address] = "no connection"
			default:
				live++
			}
		}
	}
	return live, troubled
}
