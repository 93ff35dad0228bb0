// SPDX-License-Identifier: Apache-2.0

package api

import (
	_ "embed"
	"encoding/json"
	"net/http"
)

// NotReady is one reason why the gateway is not ready.
type NotReady struct {
	Name   string `json:"name"`   // the component, such as shop/apns
	Reason string `json:"reason"` // the reason and what to do; no secret
}

// health is the body of the health responses.
type health struct {
	Status   string     `json:"status"` // alive, ready or not ready
	NotReady []NotReady `json:"not_ready,omitempty"`
}

// showLive says that the process serves HTTP. It does not depend on providers, because a restart
// does not repair them.
func showLive(w *response, _ *http.Request) *problem {
	return writeJSON(w, http.StatusOK, health{Status: "alive"})
}

func (s *server) showReady(w *response, _ *http.Request) *problem {
	if s.ready != nil {
		if missing := s.ready(); len(missing) > 0 {
			return writeJSON(w, http.StatusServiceUnavailable, health{Status: "not ready", NotReady: missing})
		}
	}
	return writeJSON(w, http.StatusOK, health{Status: "ready"})
}

// showStatus handles GET /v1/status.
func (s *server) showStatus(w *response, r *http.Request) *problem {
	apps, p := s.readableApps(w, r)
	if p != nil {
		return p
	}
	if s.status == nil {
		return writeJSON(w, http.StatusOK, struct{}{})
	}
	return writeJSON(w, http.StatusOK, s.status(apps))
}

func writeJSON(w *response, status int, v any) *problem {
	body, err := json.Marshal(v)
	if err != nil {
		a := problem{kind: internal, detail: "the response cannot be encoded"}
		return &a
	}
	reply{status: status, contentType: jsonType, body: append(body, '\n')}.write(w)
	return nil
}

//go:embed openapi.yaml
var openAPI []byte

// OpenAPI returns the OpenAPI 3.1 document of the HTTP API in YAML. The caller must not modify it.
func OpenAPI() []byte { return openAPI }

func showOpenAPI(w *response, _ *http.Request) *problem {
	reply{status: http.StatusOK, contentType: openAPIType, body: openAPI}.write(w)
	return nil
}
