// SPDX-License-Identifier: Apache-2.0

package mockprovider

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"strconv"
	"time"

	"github.com/sluice-push/sluice/mockprovider/ledger"
)

// admin is the HTTP API of the mock itself, without TLS:
//
//	GET    /ledger?service=&endpoint=&token=&apns_id=&reason=&status=&accepted=&after=&limit=&await=&timeout=
//	GET    /ledger/summary
//	DELETE /ledger
//	GET    /script
//	PUT    /script           YAML or JSON
//	DELETE /script
//	POST   /subscriptions    {"flavour":"mozilla","server_key":"…"}; returns a PushSubscription
//	DELETE /subscriptions?endpoint=
type admin struct {
	mock     *Mock
	listener net.Listener
}

func newAdmin(m *Mock, addr string) (*admin, error) {
	listener, err := net.Listen("tcp", addr)
	return &admin{mock: m, listener: listener}, err
}

// run serves until ctx ends.
func (a *admin) run(ctx context.Context) error {
	server := &http.Server{Handler: a.handler(), ReadHeaderTimeout: 10 * time.Second}
	stop := context.AfterFunc(ctx, func() { _ = server.Close() })
	defer stop()
	if err := server.Serve(a.listener); !errors.Is(err, http.ErrServerClosed) {
		return err
	}
	return nil
}

func (a *admin) handler() http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /ledger", a.entries)
	mux.HandleFunc("GET /ledger/summary", func(w http.ResponseWriter, _ *http.Request) { writeJSON(w, a.mock.ledger.Summary()) })
	mux.HandleFunc("DELETE /ledger", a.clear)
	mux.HandleFunc("GET /script", a.script)
	mux.HandleFunc("PUT /script", a.setScript)
	mux.HandleFunc("DELETE /script", a.setScript)
	mux.HandleFunc("POST /subscriptions", a.subscribe)
	mux.HandleFunc("DELETE /subscriptions", a.unsubscribe)
	return mux
}

// entriesResponse is the response of GET /ledger.
type entriesResponse struct {
	Entries   []ledger.Entry `json:"entries"`   // oldest first
	Truncated bool           `json:"truncated"` // there are older entries; use a greater limit
}

func (a *admin) entries(w http.ResponseWriter, r *http.Request) {
	values := r.URL.Query()
	n, timeout, err := parseAwait(values)
	if err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	q, err := parseQuery(values)
	if err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	ctx, cancel := context.WithTimeout(r.Context(), timeout)
	defer cancel()
	if _, err := a.mock.ledger.Await(ctx, q, n); err != nil {
		http.Error(w, err.Error(), http.StatusRequestTimeout)
		return
	}
	q.Limit++
	found := a.mock.ledger.Entries(q)
	more := len(found) == q.Limit
	if more {
		found = found[1:]
	}
	writeJSON(w, entriesResponse{Entries: append([]ledger.Entry{}, found...), Truncated: more})
}

// parseAwait removes await and timeout from a query and returns how many entries to wait for, and how
// long.
func parseAwait(v url.Values) (n int, timeout time.Duration, err error) {
	timeout = 10 * time.Second
	if text := v.Get("await"); text != "" {
		if n, err = strconv.Atoi(text); err != nil || n < 0 {
			return 0, 0, fmt.Errorf("await: %q is not allowed (a number of entries)", text)
		}
	}
	if text := v.Get("timeout"); text != "" {
		if timeout, err = time.ParseDuration(text); err != nil || timeout < 0 || timeout > 10*time.Minute {
			return 0, 0, fmt.Errorf("timeout: %q is not allowed (at most 10m)", text)
		}
	}
	v.Del("await")
	v.Del("timeout")
	return n, timeout, nil
}

// parseQuery rejects unknown filters, because a misspelt one would match everything.
func parseQuery(v url.Values) (ledger.Query, error) {
	q := ledger.Query{Limit: 1000}
	for key := range v {
		var err error
		value := v.Get(key)
		switch key {
		case "service":
			q.Service = value
		case "endpoint":
			q.Endpoint = value
		case "token":
			q.Token = value
		case "apns_id":
			q.ID = value
		case "reason":
			q.Reason = value
		case "status":
			q.Status, err = strconv.Atoi(value)
		case "accepted":
			var accepted bool
			accepted, err = strconv.ParseBool(value)
			q.Accepted = &accepted
		case "after":
			q.After, err = strconv.ParseUint(value, 10, 64)
		case "limit":
			q.Limit, err = strconv.Atoi(value)
		default:
			return q, fmt.Errorf("%s: no such filter (allowed: service, endpoint, token, apns_id, reason, status, accepted, after, limit, await, timeout)", key)
		}
		if err != nil || q.Limit < 1 || q.Limit > 1_000_000 {
			return q, fmt.Errorf("%s: %q is not allowed", key, value)
		}
	}
	return q, nil
}

func (a *admin) clear(w http.ResponseWriter, _ *http.Request) {
	a.mock.ledger.Clear()
	w.WriteHeader(http.StatusNoContent)
}

func (a *admin) script(w http.ResponseWriter, _ *http.Request) {
	text, err := a.mock.Script().YAML()
	if err != nil {
		http.Error(w, err.Error(), http.StatusInternalServerError)
		return
	}
	w.Header().Set("Content-Type", "application/yaml")
	_, _ = w.Write(text)
}

// setScript replaces the script. An empty body is an empty script.
func (a *admin) setScript(w http.ResponseWriter, r *http.Request) {
	text, err := io.ReadAll(http.MaxBytesReader(w, r.Body, 1<<20))
	if err != nil {
		http.Error(w, err.Error(), http.StatusRequestEntityTooLarge)
		return
	}
	var s Script
	if len(text) > 0 {
		s, err = ParseScript(text)
	}
	if err == nil {
		err = a.mock.SetScript(s)
	}
	if err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	w.WriteHeader(http.StatusNoContent)
}

// subscribe makes a Web Push subscription, by default of Mozilla and without restriction to a key.
func (a *admin) subscribe(w http.ResponseWriter, r *http.Request) {
	body := struct {
		Flavour   Flavour `json:"flavour"`
		ServerKey string  `json:"server_key"`
	}{Flavour: Mozilla}
	dec := json.NewDecoder(http.MaxBytesReader(w, r.Body, 1<<20))
	dec.DisallowUnknownFields()
	if err := dec.Decode(&body); err != nil && !errors.Is(err, io.EOF) {
		http.Error(w, "the body must be an object in JSON with the texts flavour and server_key, both optional", http.StatusBadRequest)
		return
	}
	subscription, err := a.mock.Subscribe(body.Flavour, body.ServerKey)
	if err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(http.StatusCreated)
	_ = json.NewEncoder(w).Encode(subscription)
}

func (a *admin) unsubscribe(w http.ResponseWriter, r *http.Request) {
	if !a.mock.Unsubscribe(r.URL.Query().Get("endpoint")) {
		http.Error(w, "endpoint: no such subscription", http.StatusNotFound)
		return
	}
	w.WriteHeader(http.StatusNoContent)
}

func writeJSON(w http.ResponseWriter, v any) {
	w.Header().Set("Content-Type", "application/json")
	_ = json.NewEncoder(w).Encode(v)
}
