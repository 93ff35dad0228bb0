// SPDX-License-Identifier: Apache-2.0

package mockprovider_test

import (
	"context"
	"crypto/tls"
	"fmt"
	"net/http"
	"strings"

	"github.com/sluice-push/sluice/mockprovider"
)

// A mock accepts pushes from any client, fails as its script specifies, and records all requests. In a
// test, mockprovider.Start(t) replaces New, Run and the cleanup.
func Example() {
	script, err := mockprovider.ParseScript([]byte(`
faults:
  - service: apns
    token: 00fc*
    status: 429
    times: 1
`))
	if err != nil {
		panic(err)
	}
	mock, err := mockprovider.New(mockprovider.Config{Endpoints: 1, Script: script})
	if err != nil {
		panic(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error)
	go func() { done <- mock.Run(ctx) }()

	config := mock.ClientTLS()
	config.Certificates = []tls.Certificate{mock.ClientCertificate()}
	client := &http.Client{Transport: &http.Transport{TLSClientConfig: config, ForceAttemptHTTP2: true}}
	for range 2 {
		url := "https://" + mock.APNsAddrs()[0].String() + "/3/device/00fc13adff785122b4ad28809a342098"
		resp, err := client.Post(url, "application/json", strings.NewReader(`{"aps":{"alert":"Hello"}}`))
		if err != nil {
			panic(err)
		}
		_ = resp.Body.Close()
		fmt.Println(resp.StatusCode)
	}
	fmt.Println(mock.Ledger().Summary().Services[mockprovider.APNs].Accepted, "accepted")

	client.CloseIdleConnections()
	cancel()
	fmt.Println(<-done)
	// Output:
	// 429
	// 200
	// 1 accepted
	// <nil>
}
