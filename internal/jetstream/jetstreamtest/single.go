// SPDX-License-Identifier: Apache-2.0

package jetstreamtest

import (
	"testing"
	"time"

	nats "github.com/nats-io/nats-server/v2/server"
)

// StartServer starts one server within this process, which gateways can share for the length of a test, and returns its URL.
func StartServer(t testing.TB) string {
	t.Helper()
	server, err := nats.NewServer(&nats.Options{Host: "127.0.0.1", Port: nats.RANDOM_PORT, JetStream: true, StoreDir: t.TempDir(), NoSigs: true})
	if err != nil {
		t.Fatal(err)
	}
	server.Start()
	t.Cleanup(func() { server.Shutdown(); server.WaitForShutdown() })
	if !server.ReadyForConnections(time.Minute) {
		t.Fatal("NATS does not start")
	}
	return server.ClientURL()
}
