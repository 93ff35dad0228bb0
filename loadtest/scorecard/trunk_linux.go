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

// trunk is a long cable: interfaces of the kernel's at its ends, and this process between them. Every frame arrives late,
// and some never do. What becomes of that is TCP's own affair: it waits, asks again, and slows down.
type trunk struct {
	delay time.Duration
	ends  [2]*os.File     // ours, and the host's
	lost  [2]atomic.Int64 // of a million frames, there and back
	sunk  atomic.Int64    // frames
	going sync.WaitGroup
}

// lose has so large a part of the frames lost, one way.
func (t *trunk) lose(way int, part float64) { t.lost[way].Store(int64(part * million)) }

// losses is how many frames have been lost so far.
func (t *trunk) losses() int { return int(t.sunk.Load()) }

const million = 1_000_000

// frames that a trunk holds in each direction; beyond, it loses them.
const frames = 4096

type frame struct {
	text []byte
	due  time.Time
}

// layTrunk makes one between two interfaces of these names, and carries frames until it is taken up.
func layTrunk(near, far string, delay time.Duration) (*trunk, error) {
	t := &trunk{delay: delay}
	for i, name := range []string{near, far} {
		end, err := tap(name)
		if err != nil {
			t.takeUp()
			return nil, err
		}
		t.ends[i] = end
	}
	t.going.Go(func() { t.carry(there, t.ends[0], t.ends[1]) })
	t.going.Go(func() { t.carry(back, t.ends[1], t.ends[0]) })
	return t, nil
}

func (t *trunk) takeUp() {
	if t == nil {
		return
	}
	for _, end := range t.ends {
		if end != nil {
			_ = end.Close()
		}
	}
	t.going.Wait()
}

// carry takes frames from one end to the other.
func (t *trunk) carry(way int, from, to *os.File) {
	late := make(chan frame, frames)
	defer close(late)
	t.going.Go(func() {
		for f := range late {
			time.Sleep(time.Until(f.due))
			_, _ = to.Write(f.text) // an interface that is down takes nothing
		}
	})
	for {
		text := make([]byte, 2048)
		n, err := from.Read(text)
		if err != nil {
			return
		}
		if rand.Int64N(million) < t.lost[way].Load() {
			t.sunk.Add(1)
			continue
		}
		select {
		case late <- frame{text[:n], time.Now().Add(t.delay)}:
		default:
		}
	}
}

// tap makes an interface of that name, whose frames are read and written here.
func tap(name string) (*os.File, error) {
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
