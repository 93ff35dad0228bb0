// SPDX-License-Identifier: Apache-2.0

//go:build unix

package jetstream_test

import (
	"context"
	"math/rand/v2"
	"strings"
	"syscall"
	"testing"
	"time"

	natsjs "github.com/nats-io/nats.go/jetstream"

	"github.com/sluice-push/sluice/internal/jetstream"
	"github.com/sluice-push/sluice/internal/jetstream/jetstreamtest"
	"github.com/sluice-push/sluice/internal/sleep"
	"github.com/sluice-push/sluice/internal/testwait"
)

// TestInfoIncludesAcknowledgedMessages suspends one server of three while the others acknowledge more
// messages than fit into its network buffers, kills the others, and resumes it. Without a leader it
// answers with the messages that it has.
func TestInfoIncludesAcknowledgedMessages(t *testing.T) {
	servers := jetstreamtest.NewCluster(t)
	cfg, letters := servers.Account(t), natsjs.StreamConfig{Name: "LETTERS", Subjects: []string{"letter"}}
	leader := servers.Index(leaderOf(t, cfg, letters))
	cfg.URL = strings.Split(cfg.URL, ",")[leader]
	e, err := jetstream.Open(t.Context(), cfg)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = e.Close() }()
	stream, err := e.Stream(t.Context(), letters)
	if err != nil {
		t.Fatal(err)
	}
	other, behind := (leader+1)%3, (leader+2)%3
	servers.Signal(behind, syscall.SIGSTOP)
	var last uint64
	text := make([]byte, 512<<10)
	_, _ = rand.NewChaCha8([32]byte{}).Read(text) // the servers compress messages
	for range 40 {
		ack, err := e.JetStream().Publish(t.Context(), "letter", text)
		if err != nil {
			t.Fatal(err)
		}
		last = ack.Sequence
	}
	servers.Kill(leader)
	servers.Kill(other)
	servers.Signal(behind, syscall.SIGCONT)
	testwait.Until(t, func() bool {
		info, err := withSecond(t, stream.Info)
		return err == nil && info.State.LastSeq < last
	}, "an answer without the last messages, which Info must not return")
	for range 20 {
		info, err := withSecond(t, func(ctx context.Context, _ ...natsjs.StreamInfoOpt) (*natsjs.StreamInfo, error) {
			return jetstream.Info(ctx, stream)
		})
		if err == nil {
			t.Errorf("Info returned the state up to message %d of %d", info.State.LastSeq, last)
		}
		sleep.For(t.Context(), 50*time.Millisecond)
	}
	for _, i := range []int{leader, other} {
		if err := servers.Start(i); err != nil {
			t.Fatal(err)
		}
	}
	testwait.Until(t, func() bool {
		info, err := jetstream.Info(t.Context(), stream)
		return err == nil && info.State.LastSeq == last
	}, "the state with all messages")
}

// leaderOf creates a stream and returns the name of its leader.
func leaderOf(t *testing.T, cfg jetstream.Config, streamConfig natsjs.StreamConfig) string {
	e, err := jetstream.Open(t.Context(), cfg)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = e.Close() }()
	stream, err := e.Stream(t.Context(), streamConfig)
	if err != nil {
		t.Fatal(err)
	}
	info, err := jetstream.Info(t.Context(), stream)
	if err != nil {
		t.Fatal(err)
	}
	return info.Cluster.Leader
}

// withSecond calls request, which gets no answer while there is no leader, with a timeout of a second.
func withSecond(t *testing.T, request func(context.Context, ...natsjs.StreamInfoOpt) (*natsjs.StreamInfo, error)) (*natsjs.StreamInfo, error) {
	ctx, cancel := context.WithTimeout(t.Context(), time.Second)
	defer cancel()
	return request(ctx)
}
