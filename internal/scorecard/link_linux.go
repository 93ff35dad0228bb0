// SPDX-License-Identifier: Apache-2.0

package main

import (
	"fmt"
	"math/rand/v2"
	"os"
	"sync"
	"sync/atomic"
	"syscall"
	"time"
	"unsafe"
)

// delayedLink is a long cable: interfaces of the kernel's at its ends, and this process between them. Every frame arrives late,
// and some never do. What becomes of that is TCP's own affair: it waits, asks again, and slows down.
type delayedLink struct {
	delay    time.Duration
	ends     [2]*os.File     // ours, and the host's
	lossRate [2]atomic.Int64 // of a million frames, there and back
	dropped  atomic.Int64    // frames
	wg       sync.WaitGroup
}

// setLoss has so large a part of the frames lost, one way.
func (t *delayedLink) setLoss(way int, part float64) { t.lossRate[way].Store(int64(part * lossScale)) }

// lostFrames is how many frames have been lost so far.
func (t *delayedLink) lostFrames() int { return int(t.dropped.Load()) }

const lossScale = 1_000_000

// linkQueue that a trunk holds in each direction; beyond, it loses them.
const linkQueue = 4096

type frame struct {
	data []byte
	due  time.Time
}

// newDelayedLink makes one between two interfaces of these names, and carries frames until it is taken up.
func newDelayedLink(near, far string, delay time.Duration) (*delayedLink, error) {
	t := &delayedLink{delay: delay}
	for i, name := range []string{near, far} {
		end, err := openTAP(name)
		if err != nil {
			t.close()
			return nil, err
		}
		t.ends[i] = end
	}
	t.wg.Go(func() { t.forward(toHost, t.ends[0], t.ends[1]) })
	t.wg.Go(func() { t.forward(fromHost, t.ends[1], t.ends[0]) })
	return t, nil
}

func (t *delayedLink) close() {
	if t == nil {
		return
	}
	for _, end := range t.ends {
		if end != nil {
			_ = end.Close()
		}
	}
	t.wg.Wait()
}

// forward takes frames from one end to the other.
func (t *delayedLink) forward(way int, from, to *os.File) {
	late := make(chan frame, linkQueue)
	defer close(late)
	t.wg.Go(func() {
		for f := range late {
			time.Sleep(time.Until(f.due))
			_, _ = to.Write(f.data) // an interface that is down takes nothing
		}
	})
	for {
		text := make([]byte, 2048)
		n, err := from.Read(text)
		if err != nil {
			return
		}
		if rand.Int64N(lossScale) < t.lossRate[way].Load() {
			t.dropped.Add(1)
			continue
		}
		select {
		case late <- frame{text[:n], time.Now().Add(t.delay)}:
		default:
		}
	}
}

// openTAP makes an interface of that name, whose frames are read and written here.
func openTAP(name string) (*os.File, error) {
	fd, err := syscall.Open("/dev/net/tun", syscall.O_RDWR|syscall.O_NONBLOCK|syscall.O_CLOEXEC, 0)
	if err != nil {
		return nil, fmt.Errorf("/dev/net/tun: %w", err)
	}
	var request struct { // struct ifreq
		name  [syscall.IFNAMSIZ]byte
		flags uint16
		_     [22]byte
	}
	copy(request.name[:syscall.IFNAMSIZ-1], name)
	request.flags = syscall.IFF_TAP | syscall.IFF_NO_PI
	if _, _, errno := syscall.Syscall(syscall.SYS_IOCTL, uintptr(fd), syscall.TUNSETIFF, uintptr(unsafe.Pointer(&request))); errno != 0 {
		_ = syscall.Close(fd)
		return nil, fmt.Errorf("making the interface %s: %w", name, errno)
	}
	return os.NewFile(uintptr(fd), name), nil
}
