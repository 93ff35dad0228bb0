// SPDX-License-Identifier: Apache-2.0

package jetstream

import (
	"context"
	"errors"
	"slices"

	natsjs "github.com/nats-io/nats.go/jetstream"
)

// ErrNoLeader means that the servers of a cluster are electing a leader of a stream.
var ErrNoLeader = errors.New("jetstream: the stream has no leader")

// Info returns the state of a stream with every acknowledged message. stream.Info alone may miss the
// last ones: while the servers of a cluster elect a leader, the others answer with the messages that
// they have applied so far. The error is then ErrNoLeader.
func Info(ctx context.Context, stream natsjs.Stream) (*natsjs.StreamInfo, error) {
	info, err := stream.Info(ctx)
	if err == nil && !isFromLeader(info) {
		return nil, ErrNoLeader
	}
	return info, err
}

// isFromLeader reports whether the leader of the stream sent info. A leader lists only the other servers
// as replicas.
func isFromLeader(info *natsjs.StreamInfo) bool {
	c := info.Cluster
	return c == nil || c.Leader != "" && !slices.ContainsFunc(c.Replicas, func(p *natsjs.PeerInfo) bool { return p.Name == c.Leader })
}
