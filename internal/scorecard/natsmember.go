// SPDX-License-Identifier: Apache-2.0

package main

import (
	"fmt"
	"net/url"
	"os"
	"os/exec"
	"time"

	nats "github.com/nats-io/nats-server/v2/server"

	"github.com/sluice-push/sluice/internal/subprocess"
)

// memberEnv is an environment variable that makes a process of this binary a server of a NATS
// cluster. Its value is the index of the server, the client ports and the cluster ports of all
// servers, and the data directory.
const memberEnv = "SLUICE_SCORECARD_MEMBER"

const clusterSize = 3

// startClusterMember starts a server of the cluster that stops at the end of the row.
func (s *scenario) startClusterMember(self, config string) {
	cmd := exec.Command(self)
	cmd.Env = append(os.Environ(), memberEnv+"="+config)
	cmd.Stderr = os.Stderr
	member, err := subprocess.Start(cmd, nil)
	s.noError(err)
	s.Cleanup(member.Kill)
}

// runMember is the main function of a server process.
func runMember(config string) int {
	var index int
	var ports [2 * clusterSize]int
	var dir string
	if _, err := fmt.Sscan(config, &index, &ports[0], &ports[1], &ports[2], &ports[3], &ports[4], &ports[5], &dir); err != nil {
		return printError(err)
	}
	o := &nats.Options{
		ServerName: fmt.Sprint("member", index), Host: "127.0.0.1", Port: ports[index], NoSigs: true, NoLog: true,
		JetStream: true, StoreDir: dir, SyncAlways: true,
		Cluster: nats.ClusterOpts{Name: "scorecard", Host: "127.0.0.1", Port: ports[clusterSize+index]},
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
