// SPDX-License-Identifier: Apache-2.0

package config_test

import (
	"fmt"

	"github.com/sluice-push/sluice/internal/config"
)

func Example() {
	cfg, err := config.Parse("/etc/sluice/gateway.yaml", []byte(`
apps:
  shop:
    keys: [{name: backend, hash: "sha256:9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08"}]
    fcm:  {service_account_file: shop.json, pool: {size: 4}}
pool: {max_age: 5m}
`), []string{"SLUICE_LISTEN=0.0.0.0:8080"})
	if err != nil {
		fmt.Println(err)
		return
	}
	fcm := cfg.Apps["shop"].FCM
	fmt.Println(cfg.Listen, fcm.ServiceAccountFile, fcm.Pool.Size, fcm.Pool.MaxAge)

	_, err = config.Parse("gateway.yaml", []byte("pol: {size: 4}"), nil)
	fmt.Println(err)
	// Output:
	// 0.0.0.0:8080 /etc/sluice/shop.json 4 5m0s
	// gateway.yaml:1:1: apps: required: at least one app, by its name
	// gateway.yaml:1:1: pol: unknown key (did you mean pool?)
}
