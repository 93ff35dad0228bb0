// SPDX-License-Identifier: Apache-2.0

package fcm

import (
	"cmp"
	"context"
	"net/http"
	"net/url"
	"os"
	"time"

	"github.com/go-json-experiment/json"
	"golang.org/x/oauth2"
)

// metadataAddress is where every machine of Google Cloud, and every workload of its Kubernetes, finds its metadata server.
const metadataAddress = "169.254.169.254"

// metadataToken asks the metadata server for the access token of the service account that the machine runs as. The oauth2
// package's own source for it takes no context and repeats by itself; this is one request, like every exchange.
func metadataToken(ctx context.Context) (*oauth2.Token, error) {
	link := "http://" + cmp.Or(os.Getenv("GCE_METADATA_HOST"), metadataAddress) +
		"/computeMetadata/v1/instance/service-accounts/default/token?scopes=" + url.QueryEscape(scope)
	r, err := http.NewRequestWithContext(ctx, http.MethodGet, link, nil)
	if err != nil {
		return nil, err
	}
	r.Header.Set("Metadata-Flavor", "Google")
	answer, err := oauth2.NewClient(ctx, nil).Do(r)
	if err != nil {
		return nil, err
	}
	defer func() { _ = answer.Body.Close() }()
	var in struct {
		AccessToken string `json:"access_token"`
		ExpiresIn   int64  `json:"expires_in"`
	}
	if err := json.UnmarshalRead(answer.Body, &in); err != nil {
		return nil, err
	}
	return &oauth2.Token{AccessToken: in.AccessToken, Expiry: time.Now().Add(time.Duration(in.ExpiresIn) * time.Second)}, nil
}

// directTransport reaches the metadata server without a proxy, which could not, and keeps no connection between two exchanges.
func directTransport() http.RoundTripper {
	return &http.Transport{DisableKeepAlives: true}
}
