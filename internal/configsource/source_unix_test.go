// SPDX-License-Identifier: Apache-2.0

//go:build unix

package configsource_test

import (
	"log/slog"
	"os"
	"path/filepath"
	"syscall"
	"testing"

	"github.com/sluice-push/sluice/internal/configsource"
	"github.com/sluice-push/sluice/internal/jetstream/jetstreamtest"
	"github.com/sluice-push/sluice/internal/testtool"
	"github.com/sluice-push/sluice/internal/testwait"
)

func TestPipeIsReadOnce(t *testing.T) {
	path := filepath.Join(t.TempDir(), "gateway.yaml")
	if err := syscall.Mkfifo(path, 0o600); err != nil {
		testtool.Missing(t, err.Error())
	}
	go func() { _ = os.WriteFile(path, []byte("text"), 0) }()
	f := configsource.OpenFile(path, slog.New(slog.DiscardHandler))
	changed := runSource(t, f)
	expectText(t, f, changed, "text")
	if again, err := f.Read(t.Context()); err != nil || string(again) != "text" {
		t.Errorf("%q, %v", again, err)
	}
}

func TestNATSReportsKeyFilesAndSIGHUP(t *testing.T) {
	address := jetstreamtest.StartServer(t)
	putConfig(t, address, "text")
	key := filepath.Join(t.TempDir(), "key.p8")
	write(t, key, "one")
	n := openNATS(t, address, filepath.Join(t.TempDir(), "snapshot.yaml"))
	changed := runSource(t, n)
	expectText(t, n, changed, "text")
	if err := n.Commit([]byte("text"), []string{key}); err != nil {
		t.Fatal(err)
	}
	testwait.For(t, changed, "the first look at the key file")
	write(t, key, "two")
	testwait.For(t, changed, "the new key file")
	if err := syscall.Kill(os.Getpid(), syscall.SIGHUP); err != nil {
		t.Fatal(err)
	}
	testwait.For(t, changed, "SIGHUP")
}
