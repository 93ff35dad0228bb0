// SPDX-License-Identifier: Apache-2.0

//go:build linux

package scorecard

import (
	"bytes"
	"cmp"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"
	"unsafe"

	"github.com/sluice-push/sluice/mockprovider"
)

// diskFaults is S18. The disk of the queue loses power, has a torn write and a flipped bit, and is
// full.
func diskFaults(s *scenario) {
	s.powerLoss()
	s.tornWrite()
	s.flippedBit()
	s.diskFull()
}

// diskQueue is a gateway with a queue in a known directory, and its service.
type diskQueue struct {
	mock   *mockprovider.Mock
	config string
	dir    string
	acknowledged
}

func (s *scenario) newDiskQueue(dir, extra string) *diskQueue {
	m := s.startMock(mockWithDelay(5 * time.Millisecond))
	return &diskQueue{mock: m, dir: dir, config: s.writeConfig(fmt.Sprintf("queue: {dir: %q%s}", dir, extra), app{shopApp, apnsBlock(m, s.writeMockFiles(m), "")})}
}

// slowDown makes responses take two seconds, so that most notifications stay in the queue.
func (q *diskQueue) slowDown(s *scenario) {
	s.playFaults(q.mock, mockprovider.Fault{Service: mockprovider.APNs, Delay: 2 * time.Second})
}

func (q *diskQueue) speedUp(s *scenario) {
	s.playFaults(q.mock, mockWithDelay(5*time.Millisecond).Script.Faults...)
}

// powerLoss simulates a power failure of a separate file system three times at random moments while
// notifications are queued. Data that was not synced is lost, including file sizes and names. The
// gateway stops first: a sync that ends after the shutdown can report success although the journal does
// not contain the new file size, and after a real power failure no program sees this result.
func (s *scenario) powerLoss() {
	d := s.newDisk(512 << 20)
	q := s.newDiskQueue(filepath.Join(d.mountPoint, "queue"), "")
	for range 3 {
		g := s.startAndServe(q.config)
		shutdownErr := make(chan error, 1)
		time.AfterFunc(500*time.Millisecond+rand.N(time.Second), func() {
			shutdownErr <- errors.Join(g.suspend(), d.shutdown())
			_ = g.Signal(os.Kill)
		})
		for !g.Exited() {
			_, _ = s.enqueue(g, &q.acknowledged, 100)
		}
		s.noError(<-shutdownErr) // bounded by the kill, which it precedes
		d.remount(s)
	}
	g := s.startAndServe(q.config)
	c := s.awaitOutcomes(g, q.mock, &q.acknowledged, 2*time.Minute)
	s.expect("three power failures: accepted", fmt.Sprint(q.count()), q.count() > 0)
	s.expectDelivery(c, 3)
	g.stop()
}

// suspend stops all threads of the gateway. Threads that wait for the disk stop as soon as their
// system calls end.
func (g *gateway) suspend() error {
	if err := g.Signal(syscall.SIGSTOP); err != nil {
		return err
	}
	running := func() bool {
		threads, _ := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/stat", g.PID()))
		return slices.ContainsFunc(threads, func(name string) bool {
			stat, _ := os.ReadFile(name) // PID (command) STATE …
			_, state, _ := bytes.Cut(stat, []byte(") "))
			return len(state) > 0 && state[0] != 'T' && state[0] != 'D'
		})
	}
	for range 1_000_000 { // a few seconds
		if !running() {
			return nil
		}
	}
	return fmt.Errorf("process %d is still running after SIGSTOP", g.PID())
}

// firstBlock returns the path of the first block of the tasks stream.
func (q *diskQueue) firstBlock(s *scenario) string {
	blocks, err := filepath.Glob(filepath.Join(q.dir, "engine", "jetstream", "*", "streams", "SLUICE_EVENTS", "msgs", "*.blk"))
	s.noError(err)
	if len(blocks) == 0 {
		s.Fatalf("no block in %s", q.dir)
	}
	return blocks[0]
}

// corruptQueue queues the given number of batches while the service is slow, kills the gateway,
// changes the first block and starts another gateway.
func (s *scenario) corruptQueue(batches int, change func(block []byte) []byte) (*diskQueue, *gateway) {
	q := s.newDiskQueue(s.newTempDir(), ", in_flight: 64")
	q.slowDown(s)
	g := s.startAndServe(q.config)
	for range batches {
		_, err := s.enqueue(g, &q.acknowledged, 100)
		s.noError(err)
	}
	g.Kill()
	name := q.firstBlock(s)
	text, err := os.ReadFile(name)
	s.noError(err)
	s.noError(os.WriteFile(name, change(text), 0o600))
	q.speedUp(s)
	return q, s.startAndServe(q.config)
}

// tornWrite simulates a last write that was incomplete and not acknowledged.
func (s *scenario) tornWrite() {
	q, g := s.corruptQueue(20, func(block []byte) []byte { return append(block, block[:len(block)/100]...) })
	c := s.awaitOutcomes(g, q.mock, &q.acknowledged, time.Minute)
	s.expect("torn tail: accepted", fmt.Sprint(q.count()), q.count() > 0)
	s.expectZero("lost", c.lost)
	g.stop()
}

// flippedBit flips one bit of a notification in the middle of the stream. A record holds up to a hundred
// notifications.
func (s *scenario) flippedBit() {
	q, g := s.corruptQueue(20, func(block []byte) []byte {
		middle := len(block) / 2
		title := bytes.Index(block[middle:], []byte(apnsNotification(0).Title))
		if title < 0 {
			s.Fatalf("no notification after byte %d of a block", middle)
		}
		block[middle+title] ^= 1
		return block
	})
	c := s.awaitOutcomes(g, q.mock, &q.acknowledged, 40*time.Second)
	s.expect("flipped bit: accepted", fmt.Sprint(q.count()), q.count() > 0)
	s.expectZero("lost without an end", c.lost)
	s.expect("logged", fmt.Sprint(g.logged("damaged record dropped")), g.logged("damaged record dropped"))
	g.stop()
	lost, _ := s.runAudit(q.config)
	s.expect("lost, ended as unknown and reported by the audit", fmt.Sprint(lost), lost > 0 && lost <= 100 && lost <= c.inDoubt)
}

// logged reports whether the log contains text.
func (g *gateway) logged(text string) bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	for _, e := range g.events {
		if strings.Contains(e.Message, text) {
			return true
		}
	}
	return false
}

// diskFull fills the disk while notifications are queued: up to the reserve, and then with the reserve. It
// frees the disk again.
func (s *scenario) diskFull() {
	d := s.newDisk(192 << 20)
	q := s.newDiskQueue(filepath.Join(d.mountPoint, "queue"), ", reserve: 32MiB")
	g := s.startAndServe(q.config)
	_, err := s.enqueue(g, &q.acknowledged, 1000)
	s.noError(err)
	s.awaitOutcomes(g, q.mock, &q.acknowledged, time.Minute)
	// The gateway also holds space for the records of notifications that have not ended. Those that are
	// scheduled end after it is checked that only the reserve is left, and so give none of it back before.
	due := time.Now().Add(20 * time.Second)
	_, err = s.enqueueAt(g, &q.acknowledged, 200, due)
	s.noError(err)
	q.slowDown(s) // they are in flight when the disk is full
	filler := filepath.Join(d.mountPoint, "ballast")
	s.noError(fillDisk(filler, 0)) // up to the reserve
	queued, refused := s.enqueue(g, &q.acknowledged, 1000)
	code, retryAfter := q.sendAsync(s, g)
	s.expect("disk below its reserve: answered", fmt.Sprintf("%d, Retry-After %s", code, retryAfter), code == 503 && retryAfter != "" && queued == 0 && refused != nil)
	s.sleep(time.Until(due))
	for range 10 { // the reserve gives way to writes, and this program takes what it gives
		s.noError(fillDisk(filler, 0))
		s.sleep(100 * time.Millisecond)
	}
	code, retryAfter = q.sendAsync(s, g)
	s.expect("disk full: answered", fmt.Sprintf("%d, Retry-After %s", code, retryAfter), code == 503 && retryAfter != "")
	s.sleep(2 * time.Second) // the gateway keeps trying to write
	s.expect("exited by itself", fmt.Sprint(g.Exited()), !g.Exited())
	s.noError(os.Remove(filler))
	q.speedUp(s)
	recovered := s.eventually("waiting until the gateway accepts again", time.Minute, func() bool { code, _ := q.sendAsync(s, g); return code == 202 })
	atMost(&s.rowResult, "accepts again after", recovered, 5*time.Second)
	_, err = s.enqueue(g, &q.acknowledged, 1000)
	s.noError(err)
	c := s.awaitOutcomes(g, q.mock, &q.acknowledged, time.Minute)
	s.expect("accepted", fmt.Sprint(q.count()), q.count() == 2201)
	s.expectZero("lost", c.lost)
	s.expectZero("duplicates", c.duplicates)
	s.expectZero("in doubt", c.inDoubt)
	g.stop()
}

// diskFilledByQueue is S28. The queue accepts notifications on a small disk until it refuses more.
// Everything that was accepted is sent: scheduled notifications that are due together, notifications that
// are retried while the provider is down, and those that wait when another program fills the rest of the
// disk. A gateway that is killed on a full disk starts again when space is free.
func diskFilledByQueue(s *scenario) {
	s.fillWithScheduled()
	s.fillDuringOutage()
	s.fillByOthers()
}

const smallDisk, smallReserve = 40 << 20, ", reserve: 8MiB"

// newSmallDisk starts a gateway with its queue on a small disk.
func (s *scenario) newSmallDisk() (d *disk, q *diskQueue, g *gateway) {
	d = s.newDisk(smallDisk)
	q = s.newDiskQueue(filepath.Join(d.mountPoint, "queue"), smallReserve)
	return d, q, s.startAndServe(q.config)
}

func (s *scenario) fillWithScheduled() {
	_, q, g := s.newSmallDisk()
	due := time.Now().Add(25 * time.Second)
	s.enqueueUntilFull(g, q, due, due.Add(-3*time.Second))
	s.sleep(time.Until(due))
	s.expectAllSent("scheduled", g, q)
}

func (s *scenario) fillDuringOutage() {
	_, q, g := s.newSmallDisk()
	s.playFaults(q.mock, mockprovider.Fault{Service: mockprovider.APNs, Status: 503, Reason: "ServiceUnavailable"})
	s.enqueueUntilFull(g, q, time.Time{}, time.Now().Add(40*time.Second))
	q.speedUp(s)
	s.expectAllSent("outage", g, q)
}

func (s *scenario) fillByOthers() {
	d, q, g := s.newSmallDisk()
	due := time.Now().Add(15 * time.Second)
	for q.count() < 4000 {
		_, err := s.enqueueAt(g, &q.acknowledged, 500, due)
		s.noError(err)
	}
	filler := filepath.Join(d.mountPoint, "ballast")
	s.noError(fillDisk(filler, 0))
	s.sleep(time.Until(due))
	s.expectAllSent("filled by others", g, q)

	s.noError(os.Remove(filler))
	g = s.startAndServe(q.config)
	s.noError(fillDisk(filler, 0))
	g.Kill()
	s.noError(os.Remove(filler))
	g = s.startAndServe(q.config)
	_, err := s.enqueueAt(g, &q.acknowledged, 500, time.Time{})
	s.noError(err)
	s.expectAllSent("restarted", g, q)
}

// expectAllSent waits until the notifications have ended, records that every acknowledged one was sent
// once, and stops the gateway.
func (s *scenario) expectAllSent(what string, g *gateway, q *diskQueue) {
	c := s.awaitOutcomes(g, q.mock, &q.acknowledged, 2*time.Minute)
	s.expect(what+": accepted", fmt.Sprint(q.count()), q.count() >= 1000)
	s.expectZero("lost", c.lost)
	s.expectZero("duplicates", c.duplicates)
	s.expectZero("in doubt", c.inDoubt)
	failed := g.logged("restarting after a failed write")
	s.expect("writes failed", fmt.Sprint(failed), !failed)
	g.stop()
	_, problem := s.runAudit(q.config)
	s.expect("audit", cmp.Or(problem, "clean"), problem == "")
}

// enqueueUntilFull enqueues until the queue refuses notifications, and goes on until a time, so that
// it stays full.
func (s *scenario) enqueueUntilFull(g *gateway, q *diskQueue, due, until time.Time) {
	for time.Now().Before(until) {
		if _, err := s.enqueueAt(g, &q.acknowledged, 500, due); err != nil {
			s.sleep(100 * time.Millisecond)
		}
	}
}

// fillDisk writes a file until the given number of bytes is left on its disk.
func fillDisk(name string, remaining uint64) error {
	file, err := os.OpenFile(name, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	defer func() { _ = file.Close() }()
	piece := make([]byte, 1<<20)
	for {
		var stat syscall.Statfs_t
		if err := syscall.Statfs(name, &stat); err != nil {
			return err
		}
		free := stat.Bavail * uint64(stat.Bsize)
		if free <= remaining {
			return nil
		}
		if _, err := file.Write(piece[:min(uint64(len(piece)), free-remaining)]); errors.Is(err, syscall.ENOSPC) {
			return nil
		} else if err != nil {
			return err
		}
	}
}

// sendAsync sends one asynchronous notification and records it if it is queued.
func (q *diskQueue) sendAsync(s *scenario, g *gateway) (code int, retryAfter string) {
	resp, err := s.do(s.request(http.MethodPost, g.baseURL()+notificationsPath(shopApp), encode(apnsNotification(0)), "Prefer", "respond-async"))
	s.noError(err)
	if resp.code == http.StatusAccepted {
		q.add(resp.receipt.ID, false)
	}
	return resp.code, resp.retryAfter
}

// disk is a separate file system.
type disk struct{ image, mountPoint string }

// newDisk creates and mounts a file system. It needs root, mkfs.ext4 and a loop device.
func (s *scenario) newDisk(size int64) *disk {
	dir := s.newTempDir()
	d := &disk{image: filepath.Join(dir, "image"), mountPoint: filepath.Join(dir, "disk")}
	s.noError(os.WriteFile(d.image, nil, 0o600))
	s.noError(os.Truncate(d.image, size))
	s.noError(os.Mkdir(d.mountPoint, 0o700))
	s.runCommand("mkfs.ext4", "-q", "-m", "0", d.image)
	d.mount(s)
	s.Cleanup(func() { _ = syscall.Unmount(d.mountPoint, syscall.MNT_DETACH) })
	return d
}

func (d *disk) mount(s *scenario) { s.runCommand("mount", "-o", "loop", d.image, d.mountPoint) }

// remount simulates the boot after a power failure: the file system replays its journal.
func (d *disk) remount(s *scenario) {
	s.noError(syscall.Unmount(d.mountPoint, 0))
	d.mount(s)
}

// shutdown stops the file system immediately. Nothing is written to the disk anymore, not even the
// journal.
func (d *disk) shutdown() error {
	const shutdown, noFlush = 0x8004587d, 2 // FS_IOC_SHUTDOWN, FS_SHUTDOWN_FLAGS_NOLOGFLUSH
	root, err := os.Open(d.mountPoint)
	if err != nil {
		return err
	}
	defer func() { _ = root.Close() }()
	flags := uint32(noFlush)
	if _, _, e := syscall.Syscall(syscall.SYS_IOCTL, root.Fd(), shutdown, uintptr(unsafe.Pointer(&flags))); e != 0 {
		return e
	}
	return nil
}

func (s *scenario) runCommand(name string, args ...string) {
	if text, err := exec.CommandContext(s.ctx, name, args...).CombinedOutput(); err != nil {
		s.Fatalf("needs root, mkfs.ext4 and loop devices: %s: %v: %s", name, err, text)
	}
}
