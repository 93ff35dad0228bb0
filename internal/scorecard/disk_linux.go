// SPDX-License-Identifier: Apache-2.0

//go:build linux

package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"time"
	"unsafe"

	"github.com/sluice-push/sluice/mockprovider"
)

// diskFaults is S18: the disk below the queue loses its power, tears, flips and fills up.
func diskFaults(s *scenario) {
	s.powerLoss()
	s.tornWrite()
	s.flippedBit()
	s.diskFull()
}

// diskQueue is a gateway whose queue is in a folder that the row knows, and its service.
type diskQueue struct {
	mock   *mockprovider.Mock
	config string
	dir    string
	acknowledged
}

func (s *scenario) newDiskQueue(folder string, more string) *diskQueue {
	m := s.startMock(mockWithDelay(5 * time.Millisecond))
	return &diskQueue{mock: m, dir: folder, config: s.writeConfig(fmt.Sprintf("queue: {dir: %q%s}", folder, more), app{shopApp, apnsBlock(m, s.writeMockFiles(m), "")})}
}

// slowDown has the service take two seconds for each, so that most of what is accepted stays in the queue.
func (o *diskQueue) slowDown(s *scenario) {
	s.playFaults(o.mock, mockprovider.Fault{Service: mockprovider.APNs, Delay: 2 * time.Second})
}

func (o *diskQueue) speedUp(s *scenario) {
	s.playFaults(o.mock, mockWithDelay(5*time.Millisecond).Script.Faults...)
}

// powerLoss cuts the power of a file system of its own while notifications are accepted: three times, at moments drawn
// anew. What nobody has synced is gone then, file sizes and names included.
func (s *scenario) powerLoss() {
	d := s.newDisk(512 << 20)
	o := s.newDiskQueue(filepath.Join(d.mountPoint, "queue"), "")
	for range 3 {
		g := s.startAndServe(o.config)
		cut := make(chan error, 1)
		time.AfterFunc(500*time.Millisecond+rand.N(time.Second), func() {
			cut <- d.shutdown()
			_ = g.cmd.Process.Kill()
		})
		for !g.exited() {
			_, _ = s.enqueue(g, &o.acknowledged, 100)
		}
		s.noError(<-cut)
		d.remount(s)
	}
	g := s.startAndServe(o.config)
	c := s.awaitOutcomes(g, o.mock, &o.acknowledged, 2*time.Minute)
	s.expect("three power failures: accepted", fmt.Sprint(o.count()), o.count() > 0)
	s.expectDelivery(c, 3)
	g.stop()
}

// firstBlock is the first block of the tasks' stream.
func (o *diskQueue) firstBlock(s *scenario) string {
	found, err := filepath.Glob(filepath.Join(o.dir, "engine", "jetstream", "*", "streams", "SLUICE_TASKS", "msgs", "*.blk"))
	s.noError(err)
	if len(found) == 0 {
		s.Fatalf("there is no block in %s", o.dir)
	}
	return found[0]
}

// corruptQueue has a gateway accept so many lots while its service is away, kills it, changes its block, and starts another.
func (s *scenario) corruptQueue(lots int, change func(block []byte) []byte) (*diskQueue, *gateway) {
	o := s.newDiskQueue(s.newTempDir(), ", in_flight: 64")
	o.slowDown(s)
	g := s.startAndServe(o.config)
	for range lots {
		_, err := s.enqueue(g, &o.acknowledged, 100)
		s.noError(err)
	}
	g.kill()
	name := o.firstBlock(s)
	text, err := os.ReadFile(name)
	s.noError(err)
	s.noError(os.WriteFile(name, change(text), 0o600))
	o.speedUp(s)
	return o, s.startAndServe(o.config)
}

// tornWrite has the last write stop halfway, one that nobody was told of.
func (s *scenario) tornWrite() {
	o, g := s.corruptQueue(20, func(block []byte) []byte { return append(block, block[:len(block)/100]...) })
	c := s.awaitOutcomes(g, o.mock, &o.acknowledged, time.Minute)
	s.expect("torn tail: accepted", fmt.Sprint(o.count()), o.count() > 0)
	s.expectZero("lost", c.lost)
	g.stop()
}

// flippedBit turns one bit in the middle of the stream. A record is up to a hundred notifications.
func (s *scenario) flippedBit() {
	o, g := s.corruptQueue(20, func(block []byte) []byte { block[len(block)/2] ^= 1; return block })
	c := s.awaitOutcomes(g, o.mock, &o.acknowledged, 40*time.Second)
	s.expect("flipped bit: accepted", fmt.Sprint(o.count()), o.count() > 0)
	atMost(&s.rowResult, "lost", c.lost, 100)
	s.expect("logged", fmt.Sprint(g.logged("damaged record dropped")), g.logged("damaged record dropped"))
	g.stop()
	complaint := s.runAudit(o.config)
	s.expect("reported by the audit", fmt.Sprint(strings.Contains(complaint, "lost")), strings.Contains(complaint, "lost") == (c.lost > 0))
}

// logged reports whether the log has said that.
func (g *gateway) logged(words string) bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	for _, e := range g.events {
		if strings.Contains(e.Message, words) {
			return true
		}
	}
	return false
}

// diskFull fills the disk while notifications are accepted, and makes room again.
func (s *scenario) diskFull() {
	d := s.newDisk(192 << 20)
	o := s.newDiskQueue(filepath.Join(d.mountPoint, "queue"), ", reserve: 32MiB")
	g := s.startAndServe(o.config)
	_, err := s.enqueue(g, &o.acknowledged, 1000)
	s.noError(err)
	o.slowDown(s) // a part is still to be sent, and noted down, when the disk is full
	ballast := filepath.Join(d.mountPoint, "ballast")
	s.noError(fillDisk(ballast, 24<<20))
	taken, refusal := s.enqueue(g, &o.acknowledged, 1000)
	code, when := o.sendAsync(s, g)
	s.expect("disk below its reserve: answered", fmt.Sprintf("%d, Retry-After %s", code, when), code == 503 && when != "" && taken == 0 && refusal != nil)
	s.noError(fillDisk(ballast, 0))
	code, when = o.sendAsync(s, g)
	s.expect("disk full: answered", fmt.Sprintf("%d, Retry-After %s", code, when), code == 503 && when != "")
	s.sleep(2 * time.Second) // it tries to write all the time
	s.expect("exited by itself", fmt.Sprint(g.exited()), !g.exited())
	s.noError(os.Remove(ballast))
	o.speedUp(s)
	recovered := s.eventually("it accepts again", time.Minute, func() bool { code, _ := o.sendAsync(s, g); return code == 202 })
	atMost(&s.rowResult, "accepts again after", recovered, 5*time.Second)
	_, err = s.enqueue(g, &o.acknowledged, 1000)
	s.noError(err)
	c := s.awaitOutcomes(g, o.mock, &o.acknowledged, time.Minute)
	s.expect("accepted", fmt.Sprint(o.count()), o.count() == 2001)
	s.expectZero("lost", c.lost)
	s.expectZero("duplicates", c.duplicates)
	s.expectZero("in doubt", c.inDoubt)
	g.stop()
}

// fillDisk writes a file until so many bytes of its disk are left.
func fillDisk(name string, left uint64) error {
	file, err := os.OpenFile(name, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	defer func() { _ = file.Close() }()
	piece := make([]byte, 1<<20)
	for {
		var now syscall.Statfs_t
		if err := syscall.Statfs(name, &now); err != nil {
			return err
		}
		free := now.Bavail * uint64(now.Bsize)
		if free <= left {
			return nil
		}
		if _, err := file.Write(piece[:min(uint64(len(piece)), free-left)]); errors.Is(err, syscall.ENOSPC) {
			return nil
		} else if err != nil {
			return err
		}
	}
}

// sendAsync sends one notification for later, and keeps it if it is accepted.
func (o *diskQueue) sendAsync(s *scenario, g *gateway) (code int, retryAfter string) {
	body := strings.NewReader(`{"platform":"apns","token":"` + apnsNotification(0).Token + `","title":"Hi"}`)
	request, err := http.NewRequestWithContext(s.ctx, http.MethodPost, g.baseURL()+"/v1/apps/"+shopApp+"/notifications", body)
	s.noError(err)
	for name, value := range map[string]string{"Authorization": "Bearer " + key, "Content-Type": "application/json", "Prefer": "respond-async"} {
		request.Header.Set(name, value)
	}
	answer, err := noTimeoutClient.Do(request)
	s.noError(err)
	defer func() { _ = answer.Body.Close() }()
	var receipt batchReceipt
	if json.NewDecoder(answer.Body).Decode(&receipt) == nil && answer.StatusCode == http.StatusAccepted {
		o.add(receipt.ID, false)
	}
	return answer.StatusCode, answer.Header.Get("Retry-After")
}

// disk is a file system of its own.
type disk struct{ image, mountPoint string }

// newDisk makes and mounts one. It needs root, mkfs.ext4 and a loop device.
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

// remount is the boot after a cut: the file system replays its journal.
func (d *disk) remount(s *scenario) {
	s.noError(syscall.Unmount(d.mountPoint, 0))
	d.mount(s)
}

// shutdown stops the file system dead: nothing more reaches the disk, not even its own journal.
func (d *disk) shutdown() error {
	const shutdown, noFlush = 0x8004587d, 2 // FS_IOC_SHUTDOWN, FS_SHUTDOWN_FLAGS_NOLOGFLUSH
	root, err := os.Open(d.mountPoint)
	if err != nil {
		return err
	}
	defer func() { _ = root.Close() }()
	how := uint32(noFlush)
	if _, _, e := syscall.Syscall(syscall.SYS_IOCTL, root.Fd(), shutdown, uintptr(unsafe.Pointer(&how))); e != 0 {
		return e
	}
	return nil
}

func (s *scenario) runCommand(name string, args ...string) {
	if text, err := exec.CommandContext(s.ctx, name, args...).CombinedOutput(); err != nil {
		s.Fatalf("needs root, mkfs.ext4 and loop devices: %s: %v: %s", name, err, text)
	}
}
