// SPDX-License-Identifier: Apache-2.0

package api

import (
	"net/http"
	"net/netip"
	"testing"
)

func TestCallerAddress(t *testing.T) {
	trusted := []netip.Prefix{netip.MustParsePrefix("10.0.0.0/8"), netip.MustParsePrefix("fd00::/8")}
	for _, c := range []struct {
		peer      string
		forwarded []string
		trusted   []netip.Prefix
		want      string
	}{
		{"192.0.2.1:4711", nil, trusted, "192.0.2.1"},
		{"192.0.2.1:4711", []string{"198.51.100.7"}, trusted, "192.0.2.1"}, // anybody can write the header
		{"10.1.1.1:4711", []string{"198.51.100.7"}, trusted, "198.51.100.7"},
		{"10.1.1.1:4711", []string{"198.51.100.7"}, nil, "10.1.1.1"},
		{"10.1.1.1:4711", []string{"203.0.113.9, 198.51.100.7", "10.2.2.2"}, trusted, "198.51.100.7"},
		{"10.1.1.1:4711", []string{"10.3.3.3", "10.2.2.2"}, trusted, "10.3.3.3"},
		{"10.1.1.1:4711", []string{"198.51.100.7, unknown"}, trusted, "10.1.1.1"},
		{"10.1.1.1:4711", nil, trusted, "10.1.1.1"},
		{"[::ffff:10.1.1.1]:4711", []string{"::ffff:198.51.100.7"}, trusted, "198.51.100.7"},
		{"[fd00::1]:4711", []string{"2001:db8::7"}, trusted, "2001:db8::7"},
		{"@", []string{"198.51.100.7"}, trusted, "198.51.100.7"}, // a Unix socket
		{"@", []string{"198.51.100.7"}, nil, ""},
	} {
		r := &http.Request{RemoteAddr: c.peer, Header: http.Header{"X-Forwarded-For": c.forwarded}}
		if got := CallerAddress(r, c.trusted); got != c.want {
			t.Errorf("%s with %q: got %q, want %q", c.peer, c.forwarded, got, c.want)
		}
	}
}
