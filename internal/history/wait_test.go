// SPDX-License-Identifier: Apache-2.0

package history

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/google/uuid"

	"github.com/sluice-push/sluice/internal/jetstream"
	"github.com/sluice-push/sluice/internal/testwait"
	"github.com/sluice-push/sluice/push"
)

// TestQueriesFailWhileIndexCannotBeRebuilt reports the index as damaged while its directory cannot
// be used. Queries fail instead of waiting without end, and work again when the directory is back.
func TestQueriesFailWhileIndexCannotBeRebuilt(t *testing.T) {
	e, err := jetstream.Open(t.Context(), jetstream.Config{Dir: t.TempDir()})
	if err != nil {
		t.Fatal(err)
	}
	dir := filepath.Join(t.TempDir(), "index")
	h, err := Open(t.Context(), Config{Engine: e, Dir: dir, MaxWait: 50 * time.Millisecond})
	if err != nil {
		t.Fatal(err)
	}
	ctx, stop := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- h.Run(ctx) }()
	defer func() {
		stop()
		if err := errors.Join(testwait.For(t, ended, "the end of Run"), h.Close(), e.Close()); err != nil {
			t.Error(err)
		}
	}()
	if err := errors.Join(os.RemoveAll(dir), os.WriteFile(dir, nil, 0o600)); err != nil {
		t.Fatal(err)
	}
	h.damageFound <- struct{}{}
	testwait.Until(t, func() bool { return h.Status().Rebuilt == 1 }, "the rebuild starts")
	id := uuid.Must(uuid.NewV7()).String()
	at, err := h.Append(t.Context(), push.Event{ID: id, App: "shop", At: time.Now(), Status: push.StatusQueued})
	if err != nil {
		t.Fatal(err)
	}
	for name, call := range map[string]func() error{
		"WaitForSeq":   func() error { return h.WaitForSeq(t.Context(), at.Seq) },
		"WaitCaughtUp": func() error { return h.WaitCaughtUp(t.Context()) },
		"Find":         func() error { _, _, err := h.Find(t.Context(), "shop", id); return err },
	} {
		failed := make(chan error, 1)
		go func() { failed <- call() }()
		if testwait.For(t, failed, name) == nil {
			t.Errorf("%s: no error", name)
		}
	}
	if err := errors.Join(os.Remove(dir), os.Mkdir(dir, 0o700)); err != nil {
		t.Fatal(err)
	}
	testwait.Until(t, func() bool { _, events, err := h.Find(t.Context(), "shop", id); return err == nil && len(events) == 1 }, "the index is rebuilt")
}
