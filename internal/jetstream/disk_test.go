// SPDX-License-Identifier: Apache-2.0

//go:build linux

package jetstream_test

import (
	"bytes"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/sluice-push/sluice/internal/jetstream"
	"github.com/sluice-push/sluice/internal/testwait"
)

// fullDiskEnv is set to a directory in the child process whose files cannot grow.
const fullDiskEnv = "SLUICE_FULL_DISK"

// TestLogRecoversAfterFailedWrite runs a child process with a file size limit, so writes fail as on a full
// disk. The child then raises the limit.
func TestLogRecoversAfterFailedWrite(t *testing.T) {
	if dir := os.Getenv(fullDiskEnv); dir != "" {
		runOnFullDisk(t, dir)
		return
	}
	runChild(t, t.TempDir())
}

// runChild runs the current test in a child process, whose files the test can keep from growing.
func runChild(t *testing.T, dir string) {
	t.Helper()
	child := exec.CommandContext(t.Context(), os.Args[0], "-test.run=^"+t.Name()+"$", "-test.v")
	child.Env = append(os.Environ(), fullDiskEnv+"="+dir)
	if out, err := child.CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
}

func runOnFullDisk(t *testing.T, dir string) {
	signal.Ignore(syscall.SIGXFSZ) // so that the write returns an error
	f := openLog(t, dir)
	written := map[jetstream.Offset]string{}
	write := func(i int) {
		text := fmt.Sprintf("%d %s", i, strings.Repeat("x", 8<<10))
		offsets, err := f.Append(t.Context(), textRecord(text))
		if err != nil {
			t.Fatal(err)
		}
		written[offsets[0]] = text
	}
	for i := range 10 {
		write(i)
	}
	limitFileSize(t, largestFile(t, dir)+64<<10)
	raised := make(chan struct{})
	go func() {
		defer close(raised)
		for deadline := time.Now().Add(testwait.Bound); f.engine.Writable() == nil && time.Now().Before(deadline); {
			runtime.Gosched()
		}
		limitFileSize(t, 1<<40)
	}()
	for i := 10; ; i++ {
		write(i) // the one that fails waits for the limit
		select {
		case <-raised:
			found := f.stored(t)
			for offset, text := range written {
				if found[offset] != text {
					t.Errorf("%v is lost", offset)
				}
			}
			return
		default:
		}
	}
}

// TestFailedRepairKeepsTheBlock opens a directory with a damaged record on a full disk, in a child
// process. The engine does not start, the block is unchanged, and the next start repairs it.
func TestFailedRepairKeepsTheBlock(t *testing.T) {
	if dir := os.Getenv(fullDiskEnv); dir != "" {
		signal.Ignore(syscall.SIGXFSZ)
		limitFileSize(t, 1<<10)
		if e, err := jetstream.Open(t.Context(), jetstream.Config{Dir: dir, Reserve: -1}); err == nil {
			t.Error("the engine starts without a repair", e.Close())
		}
		return
	}
	dir := copyAfterCrash(t, func(block []byte) []byte { block[len(block)/2] ^= 1; return block })
	before, err := os.ReadFile(firstBlock(t, dir))
	if err != nil {
		t.Fatal(err)
	}
	runChild(t, dir)
	after, err := os.ReadFile(firstBlock(t, dir))
	if err != nil || !bytes.Equal(before, after) {
		t.Fatalf("the failed repair changed the block from %d to %d bytes, %v", len(before), len(after), err)
	}
	if left, _ := filepath.Glob(filepath.Join(filepath.Dir(firstBlock(t, dir)), "*.repaired")); len(left) > 0 {
		t.Error("the failed repair left", left)
	}
	checkRecovery(t, dir, 49)
}

// limitFileSize limits the size of the files that this process writes.
func limitFileSize(t *testing.T, size int64) {
	t.Helper()
	var r syscall.Rlimit
	if err := syscall.Getrlimit(syscall.RLIMIT_FSIZE, &r); err != nil {
		t.Fatal(err)
	}
	r.Cur = min(uint64(size), r.Max)
	if err := syscall.Setrlimit(syscall.RLIMIT_FSIZE, &r); err != nil {
		t.Fatal(err)
	}
}

// largestFile returns the size of the largest file below dir.
func largestFile(t *testing.T, dir string) (size int64) {
	t.Helper()
	err := filepath.Walk(dir, func(_ string, info os.FileInfo, err error) error {
		if err == nil {
			size = max(size, info.Size())
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return size
}
