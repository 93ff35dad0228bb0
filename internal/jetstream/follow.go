// SPDX-License-Identifier: Apache-2.0

package jetstream

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/nats-io/nats.go"
	natsjs "github.com/nats-io/nats.go/jetstream"
)

const (
	// Messages and bytes that the server sends in advance.
	pullMessages, pullBytes = 500, 4 << 20
	// After two heartbeats without a message, the client creates a new consumer: the server that had it
	// may have died.
	followHeartbeat = time.Second
	// How long a stream must lack messages that were applied until it counts as truncated. A leader that
	// has just been elected may need a moment.
	truncatedAfter = 10 * time.Second
)

// follow applies the messages of a cluster's stream in order, until ctx ends or the log fails. It
// continues after the last one that is applied when the connection or a server is lost.
func (l *Log) follow(ctx context.Context) {
	var since time.Time // the stream lacks messages
	for warned := false; ctx.Err() == nil; {
		truncated, err := l.isTruncated(ctx)
		switch {
		case err == nil && !truncated:
			since = time.Time{}
			err = l.readStream(ctx, l.LastSeq()+1, func(m natsjs.Msg, meta *natsjs.MsgMetadata) error {
				warned = false
				return l.applyNext(ctx, m, meta)
			})
		case err == nil && since.IsZero():
			since = time.Now()
		case err == nil && time.Since(since) > truncatedAfter:
			l.fail(errTruncated)
			return
		}
		if err != nil && ctx.Err() == nil && !warned {
			warned = true
			l.engine.cfg.Logger.Warn("cannot read the stream; retrying", "err", err)
		}
		select {
		case <-time.After(retryInterval):
		case <-ctx.Done():
		}
	}
}

// isTruncated reports whether the stream is not the one that was opened, or ends before the last message
// that was applied.
func (l *Log) isTruncated(ctx context.Context) (bool, error) {
	ctx, cancel := context.WithTimeout(ctx, ackTimeout)
	defer cancel()
	created := l.stream.CachedInfo().Created
	stream, err := l.engine.js.Stream(ctx, l.stream.CachedInfo().Config.Name)
	if errors.Is(err, natsjs.ErrStreamNotFound) {
		return true, nil
	}
	if err != nil {
		return false, err
	}
	info := stream.CachedInfo()
	if !isFromLeader(info) {
		return false, ErrNoLeader
	}
	return !info.Created.Equal(created) || info.State.LastSeq < l.LastSeq(), nil
}

// readUntil calls f for the messages of a cluster's stream from seq to last, until f returns an error. It
// continues after an interruption, for instance while the cluster elects a leader, for up to
// Config.SetupTimeout without a message.
func (l *Log) readUntil(ctx context.Context, seq, last uint64, f func(*Message) error) error {
	info, err := l.Info(ctx)
	if err != nil {
		return err
	}
	next := max(seq, info.State.FirstSeq)
	if info.State.Msgs == 0 || next > last {
		return nil
	}
	var result error // of f
	stop := errors.New("stop")
	for progress := time.Now(); ; {
		err := l.readStream(ctx, next, func(m natsjs.Msg, meta *natsjs.MsgMetadata) error {
			if next, progress = meta.Sequence.Stream+1, time.Now(); next <= last+1 {
				var message *Message
				if message, result = l.newMessage(next-1, m.Subject(), m.Data()); result == nil {
					result = f(message)
				}
			}
			if result != nil || next > last {
				return stop
			}
			return nil
		})
		if errors.Is(err, stop) {
			return result
		}
		if ctx.Err() != nil || time.Since(progress) > l.engine.cfg.SetupTimeout {
			return err
		}
		select {
		case <-time.After(retryInterval):
		case <-ctx.Done():
		}
	}
}

// readStream calls f for the messages of a cluster's stream in order, from seq on, until f returns an error,
// the connection is lost or ctx ends.
func (l *Log) readStream(ctx context.Context, seq uint64, f func(natsjs.Msg, *natsjs.MsgMetadata) error) error {
	consumer, err := l.stream.OrderedConsumer(ctx, natsjs.OrderedConsumerConfig{
		DeliverPolicy: natsjs.DeliverByStartSequencePolicy, OptStartSeq: max(seq, 1),
		MaxResetAttempts: 1, // the caller retries: the attempts of the consumer do not end with ctx
	})
	if err != nil {
		return fmt.Errorf("jetstream: %w", err)
	}
	messages, err := consumer.Messages(natsjs.PullMaxMessagesWithBytesLimit(pullMessages, pullBytes), natsjs.PullHeartbeat(followHeartbeat))
	if err != nil {
		return fmt.Errorf("jetstream: %w", err)
	}
	defer messages.Stop()
	for {
		m, err := messages.Next(natsjs.NextContext(ctx))
		if err != nil {
			return fmt.Errorf("jetstream: %w", err)
		}
		meta, err := m.Metadata()
		if err != nil {
			return fmt.Errorf("jetstream: %w", err)
		}
		if meta.Sequence.Stream < seq { // the server that has the consumer was behind
			continue
		}
		if err := f(m, meta); err != nil {
			return err
		}
		seq = meta.Sequence.Stream + 1
	}
}

// applyNext applies a message of the stream, unless applyOwn has done it.
func (l *Log) applyNext(ctx context.Context, msg natsjs.Msg, meta *natsjs.MsgMetadata) error {
	seq := meta.Sequence.Stream
	l.newest.Store(seq + meta.NumPending)
	if seq <= l.LastSeq() {
		return nil
	}
	m, err := l.newMessage(seq, msg.Subject(), msg.Data())
	if err != nil { // another gateway has a key that this one lacks; its state would not be that of the log
		l.fail(err)
		return err
	}
	if seq > l.LastSeq()+1 { // those in between are deleted, or applyOwn is about to apply them
		info, err := l.Info(ctx)
		if err != nil {
			return err
		}
		m.FirstSeq = info.State.FirstSeq
	}
	l.applying.Lock()
	defer l.applying.Unlock()
	last := l.LastSeq()
	if seq <= last || l.Err() != nil {
		return nil
	}
	if m.FirstSeq <= last+1 {
		m.FirstSeq = 0
	}
	g := l.ownGroup(msg)
	if g != nil {
		m.Writer, m.Records = l.writer, l.ownMessage(g, seq).Records
	}
	l.apply(m, g)
	return nil
}

// ownGroup returns the group in flight that is stored as a message, or nil.
func (l *Log) ownGroup(msg natsjs.Msg) *group {
	l.mu.Lock()
	defer l.mu.Unlock()
	if len(l.inFlight) == 0 || l.inFlight[0].subject != msg.Subject() || !bytes.Equal(l.inFlight[0].stored, msg.Data()) {
		return nil
	}
	return l.inFlight[0]
}

// CatchUp waits until the observers have got all messages that were in the stream at the time of the
// call.
func (l *Log) CatchUp(ctx context.Context) error {
	if l.engine.Embedded() {
		return nil
	}
	result := l.infoCalls.DoChan("", func() (any, error) {
		l.infoRequest.Lock()
		defer l.infoRequest.Unlock()
		l.infoCalls.Forget("") // calls from here on need a later answer
		return l.Info(context.WithoutCancel(ctx))
	})
	select {
	case r := <-result:
		if r.Err != nil {
			return r.Err
		}
		state := r.Val.(*natsjs.StreamInfo).State
		if state.Msgs == 0 { // no message will arrive
			return nil
		}
		return l.waitFor(ctx, state.LastSeq)
	case <-ctx.Done():
		return ctx.Err()
	}
}

// waitFor waits until the observers have got message seq.
func (l *Log) waitFor(ctx context.Context, seq uint64) error {
	if l.LastSeq() >= seq {
		return nil
	}
	defer context.AfterFunc(ctx, func() {
		l.advanced.L.Lock()
		defer l.advanced.L.Unlock()
		l.advanced.Broadcast()
	})()
	l.advanced.L.Lock()
	defer l.advanced.L.Unlock()
	for l.LastSeq() < seq {
		if err := errors.Join(ctx.Err(), l.Err()); err != nil {
			return fmt.Errorf("jetstream: message %d not received: %w", seq, err)
		}
		l.advanced.Wait()
	}
	return nil
}

// Info returns the state of the stream with all acknowledged messages. It retries for up to
// electionTimeout.
func (l *Log) Info(ctx context.Context) (*natsjs.StreamInfo, error) {
	for began := time.Now(); ; {
		tryCtx, cancel := context.WithTimeout(ctx, ackTimeout)
		info, err := Info(tryCtx, l.stream)
		cancel()
		switch {
		case err == nil:
			return info, nil
		case ctx.Err() != nil, errors.Is(err, nats.ErrConnectionClosed), time.Since(began) > electionTimeout:
			return nil, fmt.Errorf("jetstream: %w", err)
		}
		select {
		case <-time.After(retryInterval):
		case <-ctx.Done():
		}
	}
}
