// SPDX-License-Identifier: Apache-2.0

package console

import (
	"net/http"
	"strconv"
)

// Mock controls the mock providers of gateway dev.
type Mock interface {
	// Services returns the mock services with the addresses of their endpoints.
	Services() []MockService
	// Faults describes the faults that are active.
	Faults() []string
	// Apply adds a fault: break, slow, goaway, refuse or hang. The endpoint is an index, or -1 for all.
	// recover removes all faults.
	Apply(kind, service string, endpoint int) error
	// Traffic sends test notifications for a while, or stops it.
	Traffic(start bool)
	// Sending reports whether Traffic sends.
	Sending() bool
}

// MockService is one service of the mock.
type MockService struct {
	Name      string
	Endpoints []string
}

// faultKinds are the faults of the page, in this order.
var faultKinds = []faultKind{
	{"break", "Break", "Answers every request with status 500. The breaker opens, and a spare replaces the endpoint."},
	{"slow", "Slow down", "Delays every response by about a second. Outlier detection ejects a slow endpoint if others are fast."},
	{"hang", "Hang", "Reads requests and never answers. Attempts end as unknown after their timeout."},
	{"goaway", "GOAWAY", "Ends the open connections gracefully. Requests move to other connections and none fails."},
	{"refuse", "Refuse tokens", "Answers as if a third of the tokens were no longer registered."},
}

type faultKind struct{ Kind, Label, Effect string }

// faultsData is the data of the page that controls the mock.
type faultsData struct {
	Kinds    []faultKind
	Services []MockService
	Active   []string
	Sending  bool
	Error    string
	Service  string
	Endpoint string
}

func (c *Console) faultsData() faultsData {
	m := c.cfg.Dev.Mock
	return faultsData{Kinds: faultKinds, Services: m.Services(), Active: m.Faults(), Sending: m.Sending()}
}

func (c *Console) showFaults(w http.ResponseWriter, r *http.Request, v *viewer) {
	c.page(w, r, v, "faults", "Faults", c.faultsData())
}

// setFault handles the buttons.
func (c *Console) setFault(w http.ResponseWriter, r *http.Request, v *viewer) {
	text, mock := "", c.cfg.Dev.Mock
	kind, service, endpoint := r.PostFormValue("kind"), r.PostFormValue("service"), r.PostFormValue("endpoint")
	switch kind {
	case "start", "stop":
		mock.Traffic(kind == "start")
	default:
		number, err := strconv.Atoi(endpoint)
		if err != nil {
			number = -1
		}
		if err := mock.Apply(kind, service, number); err != nil {
			text = err.Error()
		}
	}
	data := c.faultsData()
	data.Error, data.Service, data.Endpoint = text, service, endpoint
	if isPart(r) {
		c.renderPart(w, "faults-form", data)
		return
	}
	c.page(w, r, v, "faults", "Faults", data)
}
