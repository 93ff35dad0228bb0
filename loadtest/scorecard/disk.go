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

// spoilt is S18: the disk below the queue loses its power, tears, flips and fills up.
func spoilt(s *stage) {
	s.powerLoss()
	s.torn()
	s.flipped()
	s.full()
}

// on is a gateway whose queue is in a folder that the row knows, and its service.
type on struct {
	mock   *mockprovider.Mock
	config string
	folder string
	promises
}

func (s *stage) on(folder string, more string) *on {
	m := s.mock(answering(5 * time.Millisecond))
	return &on{mock: m, folder: folder, config: s.configuration(fmt.Sprintf("queue: {dir: %q%s}", folder, more), app{shop, apnsTo(m, s.files(m), "")})}
}

// slowed has the service take two seconds for each, so that most of what is accepted stays in the queue.
func (o *on) slowed(s *stage) {
	s.play(o.mock, mockprovider.Fault{Service: mockprovider.APNs, Delay: 2 * time.Second})
}

func (o *on) quickened(s *stage) { s.play(o.mock, answering(5*time.Millisecond).Script.Faults...) }

// powerLoss cuts the power of a file system of its own while notifications are accepted: three times, at moments drawn
// anew. What nobody has synced is gone then, file sizes and names included.
func (s *stage) powerLoss() {
	d := s.disk(512 << 20)
	o := s.on(filepath.Join(d.at, "queue"), "")
	for range 3 {
		g := s.up(o.config)
		cut := make(chan error, 1)
		time.AfterFunc(500*time.Millisecond+rand.N(time.Second), func() {
			cut <- d.cut()
			_ = g.cmd.Process.Kill()
		})
		for !g.over() {
			_, _ = s.promise(g, &o.promises, 100)
		}
		s.need(<-cut)
		d.again(s)
	}
	g := s.up(o.config)
	c := s.settle(g, o.mock, &o.promises, 2*time.Minute)
	s.must("power lost three times: accepted", fmt.Sprint(o.count()), o.count() > 0)
	s.tell(c, 3)
	g.stop()
}

// block is the first block of the tasks' stream.
func (o *on) block(s *stage) string {
	found, err := filepath.Glob(filepath.Join(o.folder, "engine", "jetstream", "*", "streams", "SLUICE_TASKS", "msgs", "*.blk"))
	s.need(err)
	if len(found) == 0 {
		s.Fatalf("there is no block in %s", o.folder)
	}
	return found[0]
}

// spoil has a gateway accept so many lots while its service is away, kills it, changes its block, and starts another.
func (s *stage) spoil(lots int, change func(block []byte) []byte) (*on, *gateway) {
	o := s.on(s.folder(), ", in_flight: 64")
	o.slowed(s)
	g := s.up(o.config)
	for range lots {
		_, err := s.promise(g, &o.promises, 100)
		s.need(err)
	}
	g.kill()
	name := o.block(s)
	text, err := os.ReadFile(name)
	s.need(err)
	s.need(os.WriteFile(name, change(text), 0o600))
	o.quickened(s)
	return o, s.up(o.config)
}

// torn has the last write stop halfway, one that nobody was told of.
func (s *stage) torn() {
	o, g := s.spoil(20, func(block []byte) []byte { return append(block, block[:len(block)/100]...) })
	c := s.settle(g, o.mock, &o.promises, time.Minute)
	s.must("torn tail: accepted", fmt.Sprint(o.count()), o.count() > 0)
	s.none("lost", c.lost)
	g.stop()
}

// flipped turns one bit in the middle of the stream. A record is up to a hundred notifications.
func (s *stage) flipped() {
	o, g := s.spoil(20, func(block []byte) []byte { block[len(block)/2] ^= 1; return block })
	c := s.settle(g, o.mock, &o.promises, 40*time.Second)
	s.must("flipped bit: accepted", fmt.Sprint(o.count()), o.count() > 0)
	atMost(&s.card, "lost", c.lost, 100)
	s.must("told", fmt.Sprint(g.said("damaged a record")), g.said("damaged a record"))
	g.stop()
	complaint := s.audit(o.config)
	s.must("named by the audit", fmt.Sprint(strings.Contains(complaint, "lost")), strings.Contains(complaint, "lost") == (c.lost > 0))
}

// said reports whether the log has said that.
func (g *gateway) said(words string) bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	for _, e := range g.events {
		if strings.Contains(e.Message, words) {
			return true
		}
	}
	return false
}

// full fills the disk while notifications are accepted, and makes room again.
func (s *stage) full() {
	d := s.disk(192 << 20)
	o := s.on(filepath.Join(d.at, "queue"), ", reserve: 32MiB")
	g := s.up(o.config)
	_, err := s.promise(g, &o.promises, 1000)
	s.need(err)
	o.slowed(s) // a part is still to be sent, and noted down, when the disk is full
	ballast := filepath.Join(d.at, "ballast")
	s.need(fill(ballast, 24<<20))
	taken, refusal := s.promise(g, &o.promises, 1000)
	code, when := o.later(s, g)
	s.must("disk below its reserve: answered", fmt.Sprintf("%d, Retry-After %s", code, when), code == 503 && when != "" && taken == 0 && refusal != nil)
	s.need(fill(ballast, 0))
	code, when = o.later(s, g)
	s.must("disk full: answered", fmt.Sprintf("%d, Retry-After %s", code, when), code == 503 && when != "")
	s.sleep(2 * time.Second) // it tries to write all the time
	s.must("ended by itself", fmt.Sprint(g.over()), !g.over())
	s.need(os.Remove(ballast))
	o.quickened(s)
	recovered := s.eventually("it accepts again", time.Minute, func() bool { code, _ := o.later(s, g); return code == 202 })
	atMost(&s.card, "accepts again after", recovered, 5*time.Second)
	_, err = s.promise(g, &o.promises, 1000)
	s.need(err)
	c := s.settle(g, o.mock, &o.promises, time.Minute)
	s.must("accepted", fmt.Sprint(o.count()), o.count() == 2001)
	s.none("lost", c.lost)
	s.none("duplicates", c.twice)
	s.none("in doubt", c.doubt)
	g.stop()
}

// fill writes a file until so many bytes of its disk are left.
func fill(name string, left uint64) error {
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

// later sends one notification for later, and keeps it if it is accepted.
func (o *on) later(s *stage, g *gateway) (code int, retryAfter string) {
	body := strings.NewReader(`{"platform":"apns","token":"` + toDevice(0).Token + `","title":"Hi"}`)
	request, err := http.NewRequestWithContext(s.ctx, http.MethodPost, g.address()+"/v1/apps/"+shop+"/notifications", body)
	s.need(err)
	for name, value := range map[string]string{"Authorization": "Bearer " + key, "Content-Type": "application/json", "Prefer": "respond-async"} {
		request.Header.Set(name, value)
	}
	answer, err := patient.Do(request)
	s.need(err)
	defer func() { _ = answer.Body.Close() }()
	var receipt line
	if json.NewDecoder(answer.Body).Decode(&receipt) == nil && answer.StatusCode == http.StatusAccepted {
		o.keep(receipt.ID, false)
	}
	return answer.StatusCode, answer.Header.Get("Retry-After")
}

// disk is a file system of its own.
type disk struct{ image, at string }

// disk makes and mounts one. It needs root, mkfs.ext4 and a loop device.
func (s *stage) disk(size int64) *disk {
	dir := s.folder()
	d := &disk{image: filepath.Join(dir, "image"), at: filepath.Join(dir, "disk")}
	s.need(os.WriteFile(d.image, nil, 0o600))
	s.need(os.Truncate(d.image, size))
	s.need(os.Mkdir(d.at, 0o700))
	s.run("mkfs.ext4", "-q", "-m", "0", d.image)
	d.mount(s)
	s.Cleanup(func() { _ = syscall.Unmount(d.at, syscall.MNT_DETACH) })
	return d
}

func (d *disk) mount(s *stage) { s.run("mount", "-o", "loop", d.image, d.at) }

// again is the boot after a cut: the file system replays its journal.
func (d *disk) again(s *stage) {
	s.need(syscall.Unmount(d.at, 0))
	d.mount(s)
}

// cut stops the file system dead: nothing more reaches the disk, not even its own journal.
func (d *disk) cut() error {
	const shutdown, noFlush = 0x8004587d, 2 // FS_IOC_SHUTDOWN, FS_SHUTDOWN_FLAGS_NOLOGFLUSH
	root, err := os.Open(d.at)
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

func (s *stage) run(name string, args ...string) {
	if text, err := exec.CommandContext(s.ctx, name, args...).CombinedOutput(); err != nil {
		s.Fatalf("needs root, mkfs.ext4 and loop devices: %s: %v: %s", name, err, text)
	}
}
