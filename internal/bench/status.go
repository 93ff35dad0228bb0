// SPDX-License-Identifier: Apache-2.0

package bench

import (
	"context"
	"encoding/json"
	"net/http"
	"net/url"
	"time"

	"github.com/sluice-push/sluice/internal/sleep"
)

// status holds the fields of GET /v1/status that bench reads.
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

// pollStatus reads the state of the gateway's endpoints once per timeline step, at most once a
// second, until ctx is done. It ignores errors, for example if the key lacks the scope; the report
// then has no endpoint states.
func (t *loadTest) pollStatus(ctx context.Context) {
	if t.API != "sluice" {
		return
	}
	client := &http.Client{Timeout: 2 * time.Second, Transport: &http.Transport{TLSClientConfig: t.TLS.Clone()}}
	defer client.CloseIdleConnections()
	for {
		if s, err := t.fetchStatus(ctx, client); err == nil {
			t.recorder.recordEndpoints(s.countEndpoints())
		}
		if !sleep.For(ctx, max(t.recorder.stepLength, time.Second)) {
			return
		}
	}
}

func (t *loadTest) fetchStatus(ctx context.Context, client *http.Client) (s status, err error) {
	endpoint, err := url.JoinPath(t.URL, "v1/status")
	if err != nil {
		return s, err
	}
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, endpoint, nil)
	if err != nil {
		return s, err
	}
	request.Header.Set("Authorization", "Bearer "+t.Key)
	response, err := client.Do(request)
	if err != nil {
		return s, err
	}
	defer func() { _ = response.Body.Close() }()
	return s, json.NewDecoder(response.Body).Decode(&s)
}

// countEndpoints returns the number of healthy endpoints and the state of the others by address.
func (s *status) countEndpoints() (healthy int, unhealthy map[string]string) {
	unhealthy = map[string]string{}
	for _, service := range s.Services {
		for _, e := range service.Pool.Endpoints {
			switch {
			case e.EjectedUntil != nil:
				unhealthy[e.Address] = "ejected"
			case e.State != "closed" && e.State != "":
				unhealthy[e.Address] = e.State
			case e.Connections == 0:
				unhealthy[e.Address] = "no connection"
			default:
				healthy++
			}
		}
	}
	return healthy, unhealthy
}
