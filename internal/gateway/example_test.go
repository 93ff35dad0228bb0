// SPDX-License-Identifier: Apache-2.0

package gateway_test

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/pem"
	"fmt"
	"net/http"
	"os"
	"path/filepath"

	"github.com/sluice-push/sluice/internal/config"
	"github.com/sluice-push/sluice/internal/gateway"
)

// Run serves until its context ends. New reports errors in key files.
func Example() {
	folder, err := os.MkdirTemp("", "example-")
	if err != nil {
		panic(err)
	}
	defer func() { _ = os.RemoveAll(folder) }()
	cfg, err := config.Parse(filepath.Join(folder, "gateway.yaml"), []byte(`
listen: 127.0.0.1:0
admin: {listen: 127.0.0.1:0}
apps:
  shop:
    keys: [{name: backend, hash: "sha256:9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08"}]
    apns: {key_file: key.p8, key_id: ABC123DEFG, team_id: DEF123GHIJ, topic: com.example.shop, url: "https://127.0.0.1:1"}
`), nil)
	if err != nil {
		panic(err)
	}
	if err := os.WriteFile(filepath.Join(folder, "key.p8"), newAPNsKey(), 0o600); err != nil {
		panic(err)
	}
	g, err := gateway.New(cfg, nil)
	if err != nil {
		panic(err)
	}
	if err := g.Listen(); err != nil {
		panic(err)
	}
	ctx, drain := context.WithCancel(context.Background())
	ended := make(chan error)
	go func() { ended <- g.Run(ctx) }()

	response, err := http.Get("http://" + g.Addr().String() + "/livez")
	if err != nil {
		panic(err)
	}
	_ = response.Body.Close()
	drain()
	fmt.Println(response.Status, <-ended)
	// Output: 200 OK <nil>
}

// newAPNsKey returns a key like those from Apple's developer site.
func newAPNsKey() []byte {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		panic(err)
	}
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		panic(err)
	}
	return pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der})
}
