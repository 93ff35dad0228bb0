// SPDX-License-Identifier: Apache-2.0

package api

import (
	_ "embed"
	"encoding/json"
	"net/http"
)

// NotReady is one thing that keeps the gateway from serving.
type NotReady struct {
	Name   string `json:"name"`   // what, such as shop/apns
	Reason string `json:"reason"` // why, and what to do; no secret
}

// health is the answer of the health calls.
type health struct {
	Status   string     `json:"status"` // alive, ready or not ready
	NotReady []NotReady `json:"not_ready,omitempty"`
}

// showLive says that the process serves HTTP, and nothing about providers: a restart would not mend those.
func showLive(w *response, _ *http.Request) *problem {
	return writeJSON(w, http.StatusOK, health{Status: "alive"})
}

func (a *server) showReady(w *response, _ *http.Request) *problem {
	if a.ready != nil {
		if missing := a.ready(); len(missing) > 0 {
			return writeJSON(w, http.StatusServiceUnavailable, health{Status: "not ready", NotReady: missing})
		}
	}
	return writeJSON(w, http.StatusOK, health{Status: "ready"})
}

func (a *server) showStatus(w *response, _ *http.Request) *problem {
	if a.status == nil {
		return writeJSON(w, http.StatusOK, struct{}{})
	}
	return writeJSON(w, http.StatusOK, a.status())
}

func writeJSON(w *response, status int, v any) *problem {
	body, err := json.Marshal(v)
	if err != nil {
		a := problem{kind: internal, detail: "the answer has no JSON form"}
		return &a
	}
	reply{status: status, contentType: jsonType, body: append(body, '\n')}.write(w)
	return nil
}

//go:embed openapi.yaml
var openAPI []byte

// OpenAPI returns the OpenAPI 3.1 document of the HTTP face, in YAML. It must not be changed.
func OpenAPI() []byte { return openAPI }

func showOpenAPI(w *response, _ *http.Request) *problem {
	reply{status: http.StatusOK, contentType: yamlType, body: openAPI}.write(w)
	return nil
}
