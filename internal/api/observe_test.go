// SPDX-License-Identifier: Apache-2.0

package api_test

import (
	"fmt"
	"slices"
	"testing"
)

func TestObserveGetsRouteAndStatus(t *testing.T) {
	var got []string
	ts := newTestAPI(t, func(cfg *testConfig) {
		cfg.Observe = func(route string, status int) { got = append(got, fmt.Sprint(route, " ", status)) }
	})
	ts.request("POST", singlePath, validBody)
	ts.request("POST", singlePath, "{")
	ts.request("GET", "/livez", "")
	ts.request("GET", "/nowhere/"+canary, "")
	want := []string{"/v1/apps/{app}/notifications 200", "/v1/apps/{app}/notifications 400", "/livez 200", " 404"}
	if !slices.Equal(got, want) {
		t.Errorf("%q, want %q", got, want)
	}
}
