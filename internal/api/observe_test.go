// SPDX-License-Identifier: Apache-2.0

package api_test

import (
	"fmt"
	"slices"
	"testing"

	"github.com/sluice-push/sluice/internal/api"
)

func TestObserveGetsRouteAndStatus(t *testing.T) {
	var told []string
	d := newTestAPI(t, func(cfg *api.Config) {
		cfg.Observe = func(route string, status int) { told = append(told, fmt.Sprint(route, " ", status)) }
	})
	d.request("POST", singlePath, validBody)
	d.request("POST", singlePath, "{")
	d.request("GET", "/livez", "")
	d.request("GET", "/nowhere/"+canary, "")
	want := []string{"/v1/apps/{app}/notifications 200", "/v1/apps/{app}/notifications 400", "/livez 200", " 404"}
	if !slices.Equal(told, want) {
		t.Errorf("%q, want %q", told, want)
	}
}
