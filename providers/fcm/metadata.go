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
	"github.com/go-json-experiment/json/jsontext"
	"golang.org/x/oauth2"
)

// metadataAddress is the address of the metadata server on Google Cloud, including its Kubernetes
// service.
const metadataAddress = "169.254.169.254"

// metadataToken gets an access token for the machine's service account from the metadata server.
// Unlike the oauth2 package's token source, it takes a context and does not retry.
func metadataToken(ctx context.Context) (*oauth2.Token, error) {
	link := "http://" + cmp.Or(os.Getenv("GCE_METADATA_HOST"), metadataAddress) +
		"/computeMetadata/v1/instance/service-accounts/default/token?scopes=" + url.QueryEscape(scope)
	r, err := http.NewRequestWithContext(ctx, http.MethodGet, link, nil)
	if err != nil {
		return nil, err
	}
	r.Header.Set("Metadata-Flavor", "Google")
	response, err := oauth2.NewClient(ctx, nil).Do(r)
	if err != nil {
		return nil, err
	}
	defer func() { _ = response.Body.Close() }()
	var in struct {
		AccessToken string         `json:"access_token"`
		ExpiresIn   jsontext.Value `json:"expires_in"`
	}
	if err := json.UnmarshalRead(response.Body, &in); err != nil {
		return nil, err
	}
	lifetime := time.Duration(lifetimeSeconds(in.ExpiresIn)) * time.Second
	return &oauth2.Token{AccessToken: in.AccessToken, Expiry: time.Now().Add(lifetime)}, nil
}

// directTransport returns a transport to the metadata server. It uses no proxy, because a proxy
// cannot reach the server, and keeps no idle connection between exchanges.
func directTransport() http.RoundTripper {
	return &http.Transport{DisableKeepAlives: true}
}
