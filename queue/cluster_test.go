// SPDX-License-Identifier: Apache-2.0

package queue_test

import (
	"context"
	"fmt"
	"net"
	"net/url"
	"os"
	"os/exec"
	"strings"
	"sync"
	"testing"
	"time"

	server "github.com/nats-io/nats-server/v2/server"

	"github.com/sluice-push/sluice/engine"
	"github.com/sluice-push/sluice/push"
	"github.com/sluice-push/sluice/queue"
)

// clusterNode, in the environment of a child, makes it a server of a cluster: its number, then a port for clients and one
// for the cluster of each server, then its folder.
const clusterNode = "SLUICE_CLUSTER_NODE"

const nodes = 3

// serve is the main of such a child.
func serve(node string) error {
	var me int
	var ports [2 * nodes]int
	var dir string
	if _, err := fmt.Sscan(node, &me, &ports[0], &ports[1], &ports[2], &ports[3], &ports[4], &ports[5], &dir); err != nil {
		return err
	}
	o := &server.Options{
		ServerName: fmt.Sprint("node", me), Host: "127.0.0.1", Port: ports[me], NoSigs: true, NoLog: true, JetStream: true, StoreDir: dir, SyncAlways: true,
		Cluster: server.ClusterOpts{Name: "test", Host: "127.0.0.1", Port: ports[nodes+me]},
	}
	for i := range nodes {
		o.Routes = append(o.Routes, &url.URL{Scheme: "nats", Host: fmt.Sprintf("127.0.0.1:%d", ports[nodes+i])})
	}
	s, err := server.NewServer(o)
	if err != nil {
		return err
	}
	s.Start()
	select {} // until it is killed
}

// cluster starts one, and returns its URL and what kills its servers.
func cluster(t *testing.T) (urls string, kill []func()) {
	t.Helper()
	ports := freePorts(t, 2*nodes)
	for i := range nodes {
		urls += ",nats://127.0.0.1:" + ports[i]
		child := exec.Command(os.Args[0])
		child.Env = append(os.Environ(), fmt.Sprintf("%s=%d %s %s", clusterNode, i, strings.Join(ports, " "), t.TempDir()))
		child.Stderr = os.Stderr
		if err := child.Start(); err != nil {
			t.Fatal(err)
		}
		end := sync.OnceFunc(func() { _, _ = child.Process.Kill(), child.Wait() })
		kill = append(kill, end)
		t.Cleanup(end)
	}
	return urls[1:], kill
}

// freePorts returns ports that are free at this moment.
func freePorts(t *testing.T, count int) (ports []string) {
	t.Helper()
	for range count {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		defer l.Close() // all at the end, so that no port comes twice
		_, port, err := net.SplitHostPort(l.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		ports = append(ports, port)
	}
	return ports
}

// join opens a queue on a cluster that may not have come up yet.
func join(t *testing.T, urls string, j *memory, s *sender) *house {
	t.Helper()
	cfg := queue.Config{Journal: j, Sender: s, InFlight: 16}
	for {
		e, err := engine.Open(t.Context(), engine.Config{URL: urls, Replicas: nodes})
		if err == nil {
			cfg.Engine = e
			q, failed := queue.Open(t.Context(), cfg)
			if failed == nil {
				return begin(t, e, q, j, s)
			}
			err = failed
			_ = e.Close()
		}
		select {
		case <-t.Context().Done():
			t.Fatal(err)
		case <-time.After(100 * time.Millisecond):
		}
	}
}

// TestAClusterThatLosesAServerLosesNothing kills one of three while notifications are accepted and sent, and has two
// gateways share the work.
func TestAClusterThatLosesAServerLosesNothing(t *testing.T) {
	if os.Getenv(crashSeeds) == "" {
		t.Skip("three servers more than a test should need: make crash runs it")
	}
	urls, kill := cluster(t)
	j, s := newMemory(), newSender()
	s.answer = func(*push.Notification, int) push.Outcome {
		time.Sleep(5 * time.Millisecond)
		return push.Outcome{Verdict: push.Accepted}
	}
	a, b := join(t, urls, j, s), join(t, urls, j, s)
	var kept []*push.Notification
	for i := range 60 {
		if i == 20 {
			kill[0]()
		}
		h := []*house{a, b}[i%2]
		ns := notes("shop", 10)
		ctx, stop := context.WithTimeout(t.Context(), 30*time.Second)
		for k, err := range h.Accept(ctx, ns) {
			if err == nil {
				kept = append(kept, ns[k])
			} else {
				t.Log(err)
			}
		}
		stop()
	}
	j.ended(t, kept...)
	for _, n := range kept {
		if r, _ := j.Receipt(t.Context(), "shop", n.ID); s.count(n.ID) > 1 || r.Status() != push.StatusAccepted && r.Reason != "IN_DOUBT" {
			t.Errorf("%s %s, sent %d times: %v", r.Status(), r.Reason, s.count(n.ID), j.story(n.ID))
		}
	}
	t.Logf("%d of 600 were accepted", len(kept))
}
