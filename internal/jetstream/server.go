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
	"sync"
	"sync/atomic"
	"time"

	nats "github.com/nats-io/nats-server/v2/server"
)

// server is the embedded JetStream server. It does not listen: its only client is in this process.
type server struct {
	cfg     Config
	lock    *os.File
	reserve *reserve
	failed  chan struct{} // receives a value when a write has failed
	logged  chan struct{} // receives a value when the server has logged an error

	damage atomic.Uint64 // damaged records and truncated blocks found so far

	mu       sync.Mutex
	live     *nats.Server
	healthy  bool  // it reported no problem when it was started
	writeErr error // why it cannot write; nil if it can
}

const (
	startTimeout    = time.Minute // to load the files
	restartInterval = 500 * time.Millisecond
	minRestartSpace = 1 << 20
	lockTimeout     = time.Second // for a check, which locks the directory for a moment
	maxPayload      = 8 << 20
	// Memory streams hold small data that need not survive a restart.
	maxMemoryStore = 256 << 20
	// The disk and each stream's own limit bound the files. The server's default is a third of the
	// disk.
	maxFileStore = 1 << 60
)

// start locks the directory and starts the server in it.
func start(cfg Config) (*server, error) {
	if err := os.MkdirAll(cfg.Dir, 0o700); err != nil {
		return nil, fmt.Errorf("jetstream: %w", err)
	}
	file, err := lockFile(lockName(cfg.Dir))
	for deadline := time.Now().Add(lockTimeout); errors.Is(err, ErrLocked) && time.Now().Before(deadline); {
		time.Sleep(lockTimeout / 20)
		file, err = lockFile(lockName(cfg.Dir))
	}
	if err != nil {
		return nil, err
	}
	s := &server{cfg: cfg, lock: file, reserve: newReserve(cfg), failed: make(chan struct{}, 1), logged: make(chan struct{}, 1)}
	if err := s.reserve.adjust(); err != nil { // the start needs some space, too
		cfg.Logger.Warn("cannot reserve disk space", "file", s.reserve.path, "err", err)
	}
	if _, err := os.Stat(s.damageMark()); err == nil {
		s.damage.Store(1)
	}
	if s.live, err = s.launch(); err != nil {
		return nil, errors.Join(err, file.Close())
	}
	return s, nil
}

// lockName returns the name of the file that a process locks while it uses the directory.
func lockName(dir string) string { return filepath.Join(dir, "lock") }

// launch repairs damaged blocks and starts a server. It returns when the server accepts
// connections.
func (s *server) launch() (*nats.Server, error) {
	if err := s.repair(); err != nil {
		return nil, err
	}
	before := blockSizes(s.cfg.Dir)
	live, err := nats.NewServer(&nats.Options{
		ServerName: "sluice", DontListen: true, NoSigs: true, NoSystemAccount: true, DisableJetStreamBanner: true, MaxPayload: maxPayload,
		JetStream: true, StoreDir: s.cfg.Dir, JetStreamMaxStore: maxFileStore, JetStreamMaxMemory: maxMemoryStore,
		SyncAlways: true, // without it an acknowledged message may be only in memory
	})
	if err != nil {
		return nil, fmt.Errorf("jetstream: %w", err)
	}
	live.SetLoggerV2(logAdapter{s.cfg.Logger, s}, false, false, false)
	live.Start()
	if !live.ReadyForConnections(startTimeout) || !live.JetStreamEnabled() {
		shutdown(live)
		return nil, fmt.Errorf("%w: the embedded server in %s does not start (see its log)", ErrUnwritable, s.cfg.Dir)
	}
	s.reportTruncated(before)
	problem := problemOf(live)
	if problem != nil {
		s.cfg.Logger.Error("embedded server has started with a problem", "err", problem)
	}
	s.mu.Lock()
	s.healthy = problem == nil
	s.mu.Unlock()
	return live, nil
}

// reportTruncated logs the blocks that the server truncated while it loaded them. The server does
// not log this. Truncation is harmless after a torn write, which was never acknowledged, and a loss
// if the disk is damaged.
func (s *server) reportTruncated(before map[string]int64) {
	for name, now := range blockSizes(s.cfg.Dir) {
		if cut := before[name] - now; cut > 0 {
			if err := s.addDamage(1); err != nil {
				s.cfg.Logger.Error("cannot mark the damage for the next start", "err", err)
			}
			s.cfg.Logger.Error("invalid data at the end of a block truncated (torn write or damaged disk)",
				"file", name, "bytes", cut, "left", now)
		}
	}
}

// messagesDirs matches the directories of the streams' messages in Config.Dir.
var messagesDirs = filepath.Join("jetstream", "*", "streams", "*", "msgs")

// blockSizes returns the sizes of the files that hold messages.
func blockSizes(dir string) map[string]int64 {
	sizes := map[string]int64{}
	names, _ := filepath.Glob(filepath.Join(dir, messagesDirs, "*.blk")) // the pattern is well-formed
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

// InProcessConn connects to the current server. The client reconnects through it after a restart.
func (s *server) InProcessConn() (net.Conn, error) {
	s.mu.Lock()
	live := s.live
	s.mu.Unlock()
	if live == nil {
		return nil, fmt.Errorf("%w: the embedded server is restarting", ErrUnwritable)
	}
	return live.InProcessConn()
}

// recordFailure records a failed write. The server does not write to that stream again until it is
// restarted.
func (s *server) recordFailure(err error) {
	s.mu.Lock()
	s.writeErr = err
	s.mu.Unlock()
	select {
	case s.failed <- struct{}{}:
	default:
	}
}

// writable returns why nothing can be stored now, or nil.
func (s *server) writable() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.writeErr != nil {
		return fmt.Errorf("%w: %w", ErrUnwritable, s.writeErr)
	}
	return nil
}

// supervise restarts the server after each failure, until ctx ends. It waits for some free space,
// because on a full disk the next write would fail again.
func (s *server) supervise(ctx context.Context) error {
	for {
		if s.writable() == nil { // otherwise an earlier restart has panicked
			select {
			case <-ctx.Done():
				return nil
			case <-s.logged:
				s.checkHealth()
				continue
			case <-s.failed:
			}
		}
		for restarted := false; !restarted; {
			if left, ok := freeBytes(s.cfg.Dir); !ok || left >= minRestartSpace {
				restarted = s.restart() == nil
			}
			select {
			case <-ctx.Done():
				return nil
			case <-time.After(restartInterval):
			}
		}
	}
}

// checkHealth asks the server whether a write has failed: the publisher gets no response. A problem
// from before the start, such as a stream that cannot be loaded, is not one of writes, and would be
// there again after a restart.
func (s *server) checkHealth() {
	s.mu.Lock()
	live, healthy := s.live, s.healthy
	s.mu.Unlock()
	if live == nil || !healthy {
		return
	}
	if problem := problemOf(live); problem != nil {
		s.recordFailure(problem)
	}
}

// problemOf returns the problem that a server reports, or nil.
func problemOf(live *nats.Server) error {
	if health := live.Healthz(nil); health.Error != "" {
		return errors.New(health.Error)
	}
	return nil
}

// restart replaces the server with a new one on the same directory.
func (s *server) restart() error {
	s.mu.Lock()
	old := s.live // only supervise and close change it
	s.mu.Unlock()
	if old != nil {
		s.cfg.Logger.Error("embedded server restarting after a failed write", "dir", s.cfg.Dir)
		s.mu.Lock()
		s.live = nil
		s.mu.Unlock()
		shutdown(old)
	}
	select {
	case <-s.failed: // a failure of the old server
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

// logAdapter writes the server's log to slog. Notices become debug records.
type logAdapter struct {
	log    *slog.Logger
	server *server
}

func (r logAdapter) Noticef(format string, v ...any) { r.logf(slog.LevelDebug, format, v) }
func (r logAdapter) Warnf(format string, v ...any)   { r.logf(slog.LevelWarn, format, v) }
func (r logAdapter) Fatalf(format string, v ...any)  { r.logf(slog.LevelError, format, v) }
func (r logAdapter) Debugf(format string, v ...any)  { r.logf(slog.LevelDebug, format, v) }
func (r logAdapter) Tracef(format string, v ...any)  { r.logf(slog.LevelDebug, format, v) }

// Errorf also makes supervise check the health of the server, which logs an error when a write has
// failed. It does not check itself, because the caller may hold locks of the server.
func (r logAdapter) Errorf(format string, v ...any) {
	r.logf(slog.LevelError, format, v)
	select {
	case r.server.logged <- struct{}{}:
	default:
	}
}

func (r logAdapter) logf(level slog.Level, format string, v []any) {
	if !r.log.Enabled(context.Background(), level) {
		return
	}
	r.log.Log(context.Background(), level, "nats-server: "+fmt.Sprintf(format, v...))
}
