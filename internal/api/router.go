// SPDX-License-Identifier: Apache-2.0

package api

import (
	"cmp"
	"net/http"
	"strings"
)

// route is one method of one path.
type route struct {
	method  string
	pattern string // {app} and {id} stand for one segment each that is not empty
	handler handler
}

// serve calls the handler of the route that matches. A HEAD request has the route of GET; net/http
// omits the body of its response.
func (s *server) serve(w *response, r *http.Request) *problem {
	method, path := r.Method, cmp.Or(r.URL.RawPath, r.URL.Path)
	if method == http.MethodHead {
		method = http.MethodGet
	}
	var allowed []string
	for i := range s.routes {
		route := &s.routes[i]
		segments, ok := matchPath(route.pattern, path)
		switch {
		case ok && route.method == method:
			w.route, w.segments = route.pattern, segments
			return route.handler(w, r)
		case ok:
			allowed = append(allowed, route.method)
		}
	}
	if allowed == nil {
		return &problem{kind: notFound, detail: "GET /openapi.yaml lists all endpoints"}
	}
	w.Header()["Allow"] = allowed
	if method == http.MethodOptions {
		w.WriteHeader(http.StatusNoContent)
		return nil
	}
	return &problem{kind: methodNotAllowed, detail: "the header Allow lists the allowed methods"}
}

// segments are the segments of a path that match a pattern, as they are in the request: escaped if
// they contain a slash.
type segments struct{ app, id string }

// matchPath reports whether path matches pattern.
func matchPath(pattern, path string) (s segments, ok bool) {
	for {
		prefix, rest, found := strings.Cut(pattern, "{")
		if !found {
			return s, path == pattern
		}
		if path, found = strings.CutPrefix(path, prefix); !found {
			return s, false
		}
		end := strings.IndexByte(path, '/')
		if end < 0 {
			end = len(path)
		}
		if end == 0 {
			return s, false
		}
		name, after, _ := strings.Cut(rest, "}")
		if name == "app" {
			s.app = path[:end]
		} else {
			s.id = path[:end]
		}
		path, pattern = path[end:], after
	}
}
