// SPDX-License-Identifier: Apache-2.0

package jetstreamtest

import (
	"testing"
	"time"

	nats "github.com/nats-io/nats-server/v2/server"
)

// StartServer starts a server in this process that gateways can share, and returns its URL. It
// stops when the test ends.
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
