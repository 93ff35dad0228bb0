// SPDX-License-Identifier: Apache-2.0

package scorecard

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

// delayedLink is a link with delay and loss. It has a TAP interface at each end, and this process
// forwards the frames between them. TCP in the kernel handles the delay and the loss.
type delayedLink struct {
	delay    time.Duration
	ends     [2]*os.File     // on the bridge, and in the namespace of the host
	lossRate [2]atomic.Int64 // lost frames per lossScale, by direction
	dropped  atomic.Int64
	wg       sync.WaitGroup
}

// setLoss sets the fraction of frames that is lost in one direction.
func (l *delayedLink) setLoss(direction int, fraction float64) {
	l.lossRate[direction].Store(int64(fraction * lossScale))
}

// lostFrames returns the number of frames lost so far.
func (l *delayedLink) lostFrames() int { return int(l.dropped.Load()) }

const lossScale = 1_000_000

// linkQueue is the number of frames that a link holds in each direction. It drops further frames.
const linkQueue = 4096

type frame struct {
	data []byte
	due  time.Time
}

// newDelayedLink creates two interfaces with these names and forwards frames between them until
// close.
func newDelayedLink(near, far string, delay time.Duration) (*delayedLink, error) {
	l := &delayedLink{delay: delay}
	for i, name := range []string{near, far} {
		end, err := openTAP(name)
		if err != nil {
			l.close()
			return nil, err
		}
		l.ends[i] = end
	}
	l.wg.Go(func() { l.forward(toHost, l.ends[0], l.ends[1]) })
	l.wg.Go(func() { l.forward(fromHost, l.ends[1], l.ends[0]) })
	return l, nil
}

func (l *delayedLink) close() {
	if l == nil {
		return
	}
	for _, end := range l.ends {
		if end != nil {
			_ = end.Close()
		}
	}
	l.wg.Wait() // bounded by the end of the files
}

// forward forwards frames from one end to the other.
func (l *delayedLink) forward(direction int, from, to *os.File) {
	queue := make(chan frame, linkQueue)
	defer close(queue)
	l.wg.Go(func() {
		for f := range queue {
			time.Sleep(time.Until(f.due))
			_, _ = to.Write(f.data) // fails if the interface is down
		}
	})
	for {
		data := make([]byte, 2048)
		n, err := from.Read(data)
		if err != nil {
			return
		}
		if rand.Int64N(lossScale) < l.lossRate[direction].Load() {
			l.dropped.Add(1)
			continue
		}
		select {
		case queue <- frame{data[:n], time.Now().Add(l.delay)}:
		default:
		}
	}
}

// openTAP creates a TAP interface. Its frames are read from and written to the returned file.
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
		return nil, fmt.Errorf("create interface %s: %w", name, errno)
	}
	return os.NewFile(uintptr(fd), name), nil
}
