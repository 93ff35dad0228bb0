// SPDX-License-Identifier: Apache-2.0

package main

import (
	"fmt"
	"net/url"
	"os"
	"os/exec"
	"time"

	nats "github.com/nats-io/nats-server/v2/server"
)

// memberEnv, in the environment of a process of this binary, makes it a server of a JetStream cluster: its number, a port
// for clients and one for the cluster of each member, and its folder.
const memberEnv = "SLUICE_SCORECARD_MEMBER"

const clusterSize = 3

// startClusterMember starts one; it ends with the row.
func (s *scenario) startClusterMember(self, what string) {
	cmd := exec.Command(self)
	cmd.Env = append(os.Environ(), memberEnv+"="+what)
	cmd.Stderr = os.Stderr
	s.noError(cmd.Start())
	s.Cleanup(func() { _, _ = cmd.Process.Kill(), cmd.Wait() })
}

// runMember is the main of such a process.
func runMember(what string) int {
	var me int
	var ports [2 * clusterSize]int
	var dir string
	if _, err := fmt.Sscan(what, &me, &ports[0], &ports[1], &ports[2], &ports[3], &ports[4], &ports[5], &dir); err != nil {
		return printError(err)
	}
	o := &nats.Options{
		ServerName: fmt.Sprint("member", me), Host: "127.0.0.1", Port: ports[me], NoSigs: true, NoLog: true,
		JetStream: true, StoreDir: dir, SyncAlways: true,
		Cluster: nats.ClusterOpts{Name: "scorecard", Host: "127.0.0.1", Port: ports[clusterSize+me]},
	}
	for _, port := range ports[clusterSize:] {
		o.Routes = append(o.Routes, &url.URL{Scheme: "nats", Host: fmt.Sprintf("127.0.0.1:%d", port)})
	}
	server, err := nats.NewServer(o)
	if err != nil {
		return printError(err)
	}
	server.Start()
	for parent := os.Getppid(); parent == os.Getppid(); time.Sleep(time.Second) {
	}
	return 0 // whoever started it has died
}
