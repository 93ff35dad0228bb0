// SPDX-License-Identifier: Apache-2.0

package jetstream

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

	mu       sync.Mutex
	live     *nats.Server
	writeErr error // why it cannot write
}

const (
	startTimeout    = time.Minute // to read what stands in the folder
	restartInterval = 500 * time.Millisecond
	maxPayload      = 8 << 20
	// Memory streams are for what need not survive; nothing of ours is large there.
	maxMemoryStore = 256 << 20
	// The disk bounds the files, and each stream its own: the engine's own bound would only be a third.
	maxFileStore = 1 << 60
)

// start takes the folder and starts the server in it.
func start(cfg Config) (*server, error) {
	if err := os.MkdirAll(cfg.Dir, 0o700); err != nil {
		return nil, fmt.Errorf("engine: %w", err)
	}
	file, err := lockFile(filepath.Join(cfg.Dir, "lock"))
	if err != nil {
		return nil, err
	}
	s := &server{cfg: cfg, lock: file, failed: make(chan struct{}, 1)}
	if s.live, err = s.launch(); err != nil {
		return nil, errors.Join(err, file.Close())
	}
	return s, nil
}

// launch mends what the disk has damaged, starts a server, and returns when it takes connections.
func (s *server) launch() (*nats.Server, error) {
	if err := s.repair(); err != nil {
		return nil, err
	}
	before := blockSizes(s.cfg.Dir)
	live, err := nats.NewServer(&nats.Options{
		ServerName: "sluice", DontListen: true, NoSigs: true, NoSystemAccount: true, DisableJetStreamBanner: true, MaxPayload: maxPayload,
		JetStream: true, StoreDir: s.cfg.Dir, JetStreamMaxStore: maxFileStore, JetStreamMaxMemory: maxMemoryStore,
		SyncAlways: true, // or an acknowledgement only says that it is in memory
	})
	if err != nil {
		return nil, fmt.Errorf("engine: %w", err)
	}
	live.SetLoggerV2(logAdapter{s.cfg.Logger, s}, false, false, false)
	live.Start()
	if !live.ReadyForConnections(startTimeout) || !live.JetStreamEnabled() {
		shutdown(live)
		return nil, fmt.Errorf("%w: the engine in %s does not start (its log says why)", ErrUnwritable, s.cfg.Dir)
	}
	s.reportTruncated(before)
	return live, nil
}

// reportTruncated tells of blocks that became shorter while the server read them. It cuts them off where they make no sense, and
// says nothing: that is right for a write that was torn, which nobody was told of, and a loss where the disk is damaged.
func (s *server) reportTruncated(before map[string]int64) {
	for name, now := range blockSizes(s.cfg.Dir) {
		if cut := before[name] - now; cut > 0 {
			s.cfg.Logger.Error("engine: the end of a file made no sense and is cut off: a torn write, or the disk is damaged and what stood there is lost",
				"file", name, "bytes", cut, "left", now)
		}
	}
}

// blockSizes returns the sizes of the files that hold the streams' messages.
func blockSizes(dir string) map[string]int64 {
	sizes := map[string]int64{}
	names, _ := filepath.Glob(filepath.Join(dir, "jetstream", "*", "streams", "*", "msgs", "*.blk")) // the pattern is well-formed
	for _, name := range names {
		if info, err := os.Stat(name); err == nil {
			sizes[name] = info.Size()
		}
	}
	return sizes
}

func shutdown(live *nats.Server) {
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

// recordFailure takes note that a write failed. The server writes nothing more to that stream until it is opened anew.
func (s *server) recordFailure(err error) {
	s.mu.Lock()
	s.writeErr = err
	s.mu.Unlock()
	select {
	case s.failed <- struct{}{}:
	default:
	}
}

// ready returns why nothing new can be kept.
func (s *server) ready() error {
	s.mu.Lock()
	err := s.writeErr
	s.mu.Unlock()
	if err != nil {
		return fmt.Errorf("%w: %w", ErrUnwritable, err)
	}
	if left, ok := freeBytes(s.cfg.Dir); ok && s.cfg.Reserve > 0 && left < uint64(s.cfg.Reserve) {
		return fmt.Errorf("%w: %d bytes are free on the disk of %s, and the last %d are kept for what has been accepted", ErrFull, left, s.cfg.Dir, s.cfg.Reserve)
	}
	return nil
}

// supervise opens the server anew whenever it has failed, until ctx ends.
func (s *server) supervise(ctx context.Context) error {
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-s.failed:
		}
		for s.restart() != nil {
			select {
			case <-ctx.Done():
				return nil
			case <-time.After(restartInterval):
			}
		}
	}
}

// restart replaces the server.
func (s *server) restart() error {
	s.mu.Lock()
	old := s.live
	s.live = nil
	s.mu.Unlock()
	if old != nil {
		s.cfg.Logger.Error("engine: opened anew after a failed write", "dir", s.cfg.Dir)
		shutdown(old)
	}
	select {
	case <-s.failed: // all that the old one said of itself
	default:
	}
	live, err := s.launch()
	s.mu.Lock()
	defer s.mu.Unlock()
	if err != nil {
		s.writeErr = err
		return err
	}
	s.live, s.writeErr = live, nil
	return nil
}

func (s *server) close() error {
	s.mu.Lock()
	live := s.live
	s.live = nil
	s.mu.Unlock()
	if live != nil {
		shutdown(live)
	}
	return s.lock.Close()
}

// logAdapter writes the server's log as ours. What it notices is of use only to who looks for trouble.
type logAdapter struct {
	log    *slog.Logger
	server *server
}

func (r logAdapter) Noticef(format string, v ...any) { r.logf(slog.LevelDebug, format, v) }
func (r logAdapter) Warnf(format string, v ...any)   { r.logf(slog.LevelWarn, format, v) }
func (r logAdapter) Fatalf(format string, v ...any)  { r.logf(slog.LevelError, format, v) }
func (r logAdapter) Debugf(format string, v ...any)  { r.logf(slog.LevelDebug, format, v) }
func (r logAdapter) Tracef(format string, v ...any)  { r.logf(slog.LevelDebug, format, v) }

// Errorf is the only way in which the server tells that it has given up writing: whoever waits for that write gets no
// answer. Should it ever find other words, writeTimeout tells later.
func (r logAdapter) Errorf(format string, v ...any) {
	r.logf(slog.LevelError, format, v)
	if strings.Contains(format, "critical write error") {
		r.server.recordFailure(fmt.Errorf(format, v...))
	}
}

func (r logAdapter) logf(level slog.Level, format string, v []any) {
	if !r.log.Enabled(context.Background(), level) {
		return
	}
	r.log.Log(context.Background(), level, "engine: "+fmt.Sprintf(format, v...))
}
