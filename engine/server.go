// SPDX-License-Identifier: Apache-2.0

package engine

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"

	nats "github.com/nats-io/nats-server/v2/server"
)

// server is the JetStream in this process. It listens nowhere: its one client is in this process too.
type server struct {
	cfg    Config
	lock   *os.File
	failed chan struct{} // told that a write failed

	mu   sync.Mutex
	live *nats.Server
	ill  error // why it cannot write
}

const (
	startTime  = time.Minute // to read what stands in the folder
	healWait   = 500 * time.Millisecond
	maxPayload = 8 << 20
	// Memory streams are for what need not survive; nothing of ours is large there.
	maxMemory = 256 << 20
	// The disk bounds the files, and each stream its own: the engine's own bound would only be a third.
	maxStore = 1 << 60
)

// start takes the folder and starts the server in it.
func start(cfg Config) (*server, error) {
	if err := os.MkdirAll(cfg.Dir, 0o700); err != nil {
		return nil, fmt.Errorf("engine: %w", err)
	}
	file, err := lock(filepath.Join(cfg.Dir, "lock"))
	if err != nil {
		return nil, err
	}
	s := &server{cfg: cfg, lock: file, failed: make(chan struct{}, 1)}
	if s.live, err = s.boot(); err != nil {
		return nil, errors.Join(err, file.Close())
	}
	return s, nil
}

// boot mends what the disk has damaged, starts a server, and returns when it takes connections.
func (s *server) boot() (*nats.Server, error) {
	if err := s.salvage(); err != nil {
		return nil, err
	}
	before := blocks(s.cfg.Dir)
	live, err := nats.NewServer(&nats.Options{
		ServerName: "sluice", DontListen: true, NoSigs: true, NoSystemAccount: true, DisableJetStreamBanner: true, MaxPayload: maxPayload,
		JetStream: true, StoreDir: s.cfg.Dir, JetStreamMaxStore: maxStore, JetStreamMaxMemory: maxMemory,
		SyncAlways: true, // or an acknowledgement only says that it is in memory
	})
	if err != nil {
		return nil, fmt.Errorf("engine: %w", err)
	}
	live.SetLoggerV2(record{s.cfg.Logger, s}, false, false, false)
	live.Start()
	if !live.ReadyForConnections(startTime) || !live.JetStreamEnabled() {
		end(live)
		return nil, fmt.Errorf("%w: the engine in %s does not start (its log says why)", ErrUnwritable, s.cfg.Dir)
	}
	s.compare(before)
	return live, nil
}

// compare tells of blocks that became shorter while the server read them. It cuts them off where they make no sense, and
// says nothing: that is right for a write that was torn, which nobody was told of, and a loss where the disk is damaged.
func (s *server) compare(before map[string]int64) {
	for name, now := range blocks(s.cfg.Dir) {
		if cut := before[name] - now; cut > 0 {
			s.cfg.Logger.Error("engine: the end of a file made no sense and is cut off: a torn write, or the disk is damaged and what stood there is lost",
				"file", name, "bytes", cut, "left", now)
		}
	}
}

// blocks returns the sizes of the files that hold the streams' messages.
func blocks(dir string) map[string]int64 {
	sizes := map[string]int64{}
	names, _ := filepath.Glob(filepath.Join(dir, "jetstream", "*", "streams", "*", "msgs", "*.blk")) // the pattern is well-formed
	for _, name := range names {
		if info, err := os.Stat(name); err == nil {
			sizes[name] = info.Size()
		}
	}
	return sizes
}

func end(live *nats.Server) {
	live.Shutdown()
	live.WaitForShutdown()
}

// InProcessConn connects to the server of the moment: our client finds a new one as it finds any server again.
func (s *server) InProcessConn() (net.Conn, error) {
	s.mu.Lock()
	live := s.live
	s.mu.Unlock()
	if live == nil {
		return nil, fmt.Errorf("%w: the engine is being opened anew", ErrUnwritable)
	}
	return live.InProcessConn()
}

// fail takes note that a write failed. The server writes nothing more to that stream until it is opened anew.
func (s *server) fail(err error) {
	s.mu.Lock()
	s.ill = err
	s.mu.Unlock()
	select {
	case s.failed <- struct{}{}:
	default:
	}
}

// ready returns why nothing new can be kept.
func (s *server) ready() error {
	s.mu.Lock()
	err := s.ill
	s.mu.Unlock()
	if err != nil {
		return fmt.Errorf("%w: %w", ErrUnwritable, err)
	}
	if left, ok := free(s.cfg.Dir); ok && s.cfg.Reserve > 0 && left < uint64(s.cfg.Reserve) {
		return fmt.Errorf("%w: %d bytes are free on the disk of %s, and the last %d are kept for what has been accepted", ErrFull, left, s.cfg.Dir, s.cfg.Reserve)
	}
	return nil
}

// keep opens the server anew whenever it has failed, until ctx ends.
func (s *server) keep(ctx context.Context) error {
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-s.failed:
		}
		for s.heal() != nil {
			select {
			case <-ctx.Done():
				return nil
			case <-time.After(healWait):
			}
		}
	}
}

// heal replaces the server.
func (s *server) heal() error {
	s.mu.Lock()
	old := s.live
	s.live = nil
	s.mu.Unlock()
	if old != nil {
		s.cfg.Logger.Error("engine: opened anew after a failed write", "dir", s.cfg.Dir)
		end(old)
	}
	select {
	case <-s.failed: // all that the old one said of itself
	default:
	}
	live, err := s.boot()
	s.mu.Lock()
	defer s.mu.Unlock()
	if err != nil {
		s.ill = err
		return err
	}
	s.live, s.ill = live, nil
	return nil
}

func (s *server) close() error {
	s.mu.Lock()
	live := s.live
	s.live = nil
	s.mu.Unlock()
	if live != nil {
		end(live)
	}
	return s.lock.Close()
}

// record writes the server's log as ours. What it notices is of use only to who looks for trouble.
type record struct {
	log    *slog.Logger
	server *server
}

func (r record) Noticef(format string, v ...any) { r.write(slog.LevelDebug, format, v) }
func (r record) Warnf(format string, v ...any)   { r.write(slog.LevelWarn, format, v) }
func (r record) Fatalf(format string, v ...any)  { r.write(slog.LevelError, format, v) }
func (r record) Debugf(format string, v ...any)  { r.write(slog.LevelDebug, format, v) }
func (r record) Tracef(format string, v ...any)  { r.write(slog.LevelDebug, format, v) }

// Errorf is the only way in which the server tells that it has given up writing: whoever waits for that write gets no
// answer. Should it ever find other words, writeTimeout tells later.
func (r record) Errorf(format string, v ...any) {
	r.write(slog.LevelError, format, v)
	if strings.Contains(format, "critical write error") {
		r.server.fail(fmt.Errorf(format, v...))
	}
}

func (r record) write(level slog.Level, format string, v []any) {
	if !r.log.Enabled(context.Background(), level) {
		return
	}
	r.log.Log(context.Background(), level, "engine: "+fmt.Sprintf(format, v...))
}
