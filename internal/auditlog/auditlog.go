// SPDX-License-Identifier: Apache-2.0

// Package auditlog records who did what: refused credentials, cancels, changes of channels and of the
// configuration, and the calls of administrators. A record contains neither a credential nor the text or
// the target of a notification. Nothing waits for a record.
package auditlog

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"log/slog"
	"strconv"
	"sync/atomic"
	"time"

	natsjs "github.com/nats-io/nats.go/jetstream"

	"github.com/sluice-push/sluice/internal/jetstream"
)

// Record is one action.
type Record struct {
	// At is when the action ended.
	At time.Time `json:"at"`
	// Action is a word such as notification.cancel or config.reload.
	Action string `json:"action"`
	// Result is ok, or the reason why the action failed or was refused.
	Result string `json:"result"`
	// Caller is the name of the caller, and Kind the kind of its credential. They are empty for the
	// gateway itself.
	Caller string `json:"caller,omitempty"`
	Kind   string `json:"kind,omitempty"`
	App    string `json:"app,omitempty"`
	// Address is the IP address of the caller.
	Address string `json:"address,omitempty"`
	// RequestID is that of the call.
	RequestID string `json:"request_id,omitempty"`
	// Subject is what the action concerns, such as the ID of a notification.
	Subject string `json:"subject,omitempty"`
	// Count is the number of notifications of a call that sends, or of records that were lost or combined.
	Count int64 `json:"count,omitempty"`
	// Details are more facts, such as the changes of a configuration.
	Details []string `json:"details,omitempty"`
	// Gateway identifies the gateway in a cluster.
	Gateway string `json:"gateway,omitempty"`
}

const (
	// Stream is the name of the stream, and subject its only subject.
	Stream  = "SLUICE_AUDIT"
	subject = "sluice.audit"

	maxPending   = 4096 // records that wait to be written
	maxGroup     = 100  // records in one message
	writeTimeout = 5 * time.Second
	writeTries   = 3
)

// Config configures a Log.
type Config struct {
	// MaxAge and MaxBytes limit what the stream keeps.
	MaxAge   time.Duration
	MaxBytes int64
	// Gateway is added to each record.
	Gateway string
	// Logger gets the records if the log is not opened with a stream, and a line when records are lost.
	Logger *slog.Logger
}

// Log records actions in a stream or, without one, as lines of the gateway's log. A nil *Log records
// nothing. It is safe for concurrent use.
type Log struct {
	cfg       Config
	toStream  bool
	engine    *jetstream.Engine // nil before Open
	stream    natsjs.Stream
	opened    atomic.Bool
	pending   chan Record
	lost      atomic.Int64 // since the last record that says so
	lostTotal atomic.Int64
}

// New returns a log. With toStream, records wait for Open and Run; otherwise they are lines of the log.
func New(cfg Config, toStream bool) *Log {
	return &Log{cfg: cfg, toStream: toStream, pending: make(chan Record, maxPending)}
}

// Open creates or opens the stream. Nothing can delete a message of it before its age or the size of the
// stream does.
func (l *Log) Open(ctx context.Context, engine *jetstream.Engine) (err error) {
	if l == nil {
		return nil
	}
	l.stream, err = engine.Stream(ctx, natsjs.StreamConfig{
		Name: Stream, Subjects: []string{subject}, Retention: natsjs.LimitsPolicy, Discard: natsjs.DiscardOld,
		MaxAge: l.cfg.MaxAge, MaxBytes: l.cfg.MaxBytes, DenyDelete: true, DenyPurge: true, AllowDirect: true,
	})
	l.engine = engine
	l.opened.Store(err == nil)
	return err
}

// Add records an action. It never blocks: if too many records wait, it counts the record as lost.
func (l *Log) Add(r Record) {
	if l == nil {
		return
	}
	r.At, r.Gateway = time.Now().UTC(), l.cfg.Gateway
	if !l.toStream {
		l.cfg.Logger.LogAttrs(context.Background(), slog.LevelInfo, "audit", slog.String("action", r.Action), slog.String("result", r.Result),
			slog.String("caller", r.Caller), slog.String("kind", r.Kind), slog.String("app", r.App), slog.String("address", r.Address),
			slog.String("request_id", r.RequestID), slog.String("subject", r.Subject), slog.Int64("count", r.Count), slog.Any("details", r.Details))
		return
	}
	select {
	case l.pending <- r:
	default:
		l.addLost(1)
	}
}

func (l *Log) addLost(n int64) {
	l.lost.Add(n)
	l.lostTotal.Add(n)
}

// Lost returns the number of records that were lost. Records of the gateway's log are counted there.
func (l *Log) Lost() int64 {
	if l == nil {
		return 0
	}
	return l.lostTotal.Load()
}

// Run writes records to the stream until ctx ends, and then those that still wait.
func (l *Log) Run(ctx context.Context) error {
	for {
		select {
		case r := <-l.pending:
			l.write(l.gather(r))
		case <-ctx.Done():
			for {
				select {
				case r := <-l.pending:
					l.write(l.gather(r))
				default:
					return nil
				}
			}
		}
	}
}

// gather returns a record and those that wait, as one message.
func (l *Log) gather(first Record) (body []byte, count int64) {
	var lines bytes.Buffer
	encoder := json.NewEncoder(&lines) // cannot fail with a Record
	if lost := l.lost.Swap(0); lost > 0 {
		_ = encoder.Encode(Record{At: time.Now().UTC(), Action: "audit.lost", Result: "overload", Count: lost, Gateway: l.cfg.Gateway})
	}
	_ = encoder.Encode(first)
	for count = 1; count < maxGroup; count++ {
		select {
		case r := <-l.pending:
			_ = encoder.Encode(r)
		default:
			return lines.Bytes(), count
		}
	}
	return lines.Bytes(), count
}

// write stores one message. It is tried again with the same ID, so that it is not stored twice.
func (l *Log) write(body []byte, count int64) {
	id := strconv.FormatInt(time.Now().UnixNano(), 36) + l.cfg.Gateway
	var err error
	for range writeTries {
		ctx, cancel := context.WithTimeout(context.Background(), writeTimeout)
		_, err = l.engine.JetStream().Publish(ctx, subject, body, natsjs.WithMsgID(id))
		cancel()
		if err == nil {
			return
		}
	}
	l.addLost(count)
	l.cfg.Logger.Error("records of the audit log lost", "count", count, "err", err)
}

// ErrNotStored means that the gateway stores no audit log.
var ErrNotStored = errors.New("auditlog: the records are not stored")

// Read returns records, newest first: at least limit of them if there are so many, and those that were
// stored together with them. before is 0 for the newest, or the result next of an earlier call. next is 0
// at the end.
func (l *Log) Read(ctx context.Context, before uint64, limit int) (records []Record, next uint64, err error) {
	if l == nil || !l.opened.Load() {
		return nil, 0, ErrNotStored
	}
	info, err := jetstream.Info(ctx, l.stream)
	if err != nil {
		return nil, 0, err
	}
	seq := info.State.LastSeq
	if before > 0 {
		seq = min(seq, before-1)
	}
	for ; seq >= max(info.State.FirstSeq, 1) && len(records) < limit; seq-- {
		m, err := l.stream.GetMsg(ctx, seq)
		if errors.Is(err, natsjs.ErrMsgNotFound) {
			continue // deleted because of its age
		}
		if err != nil {
			return nil, 0, err
		}
		var group []Record
		for line := range bytes.Lines(m.Data) {
			var r Record
			if json.Unmarshal(line, &r) == nil {
				group = append(group, r)
			}
		}
		for i := range group {
			records = append(records, group[len(group)-1-i])
		}
	}
	if seq >= max(info.State.FirstSeq, 1) {
		next = seq + 1
	}
	return records, next, nil
}
