// SPDX-License-Identifier: Apache-2.0

package auditlog_test

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/sluice-push/sluice/internal/auditlog"
	"github.com/sluice-push/sluice/internal/jetstream"
	"github.com/sluice-push/sluice/internal/testwait"
)

// newLog returns a log with its stream.
func newLog(t *testing.T) (*auditlog.Log, *jetstream.Engine) {
	t.Helper()
	engine, err := jetstream.Open(t.Context(), jetstream.Config{Dir: t.TempDir(), Logger: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := engine.Close(); err != nil {
			t.Error(err)
		}
	})
	l := auditlog.New(auditlog.Config{MaxAge: time.Hour, MaxBytes: 1 << 20, Gateway: "gateway-1", Logger: slog.New(slog.DiscardHandler)}, true)
	return l, engine
}

// run writes all records that wait.
func run(t *testing.T, l *auditlog.Log) {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	ended := make(chan error, 1)
	go func() { ended <- l.Run(ctx) }()
	if err := testwait.For(t, ended, "the end of the writer"); err != nil {
		t.Error(err)
	}
}

// TestOverloadIsCountedAndSaid adds more records than can wait.
func TestOverloadIsCountedAndSaid(t *testing.T) {
	l, engine := newLog(t)
	for i := range 5000 {
		l.Add(auditlog.Record{Action: "test", Result: "ok", Subject: fmt.Sprint(i)})
	}
	if l.Lost() != 5000-4096 {
		t.Errorf("%d lost", l.Lost())
	}
	if _, _, err := l.Read(t.Context(), 0, 1); !errors.Is(err, auditlog.ErrNotStored) {
		t.Error(err)
	}
	if err := l.Open(t.Context(), engine); err != nil {
		t.Fatal(err)
	}
	run(t, l)
	var subjects []string
	lost, before := int64(0), uint64(0)
	for {
		records, next, err := l.Read(t.Context(), before, 300)
		if err != nil {
			t.Fatal(err)
		}
		if len(records) < 300 && next != 0 || len(records) > 400 {
			t.Errorf("a page of %d records", len(records))
		}
		for _, r := range records {
			if r.Gateway != "gateway-1" || r.At.IsZero() {
				t.Errorf("%+v", r)
			}
			if r.Action == "audit.lost" {
				lost += r.Count
				continue
			}
			subjects = append(subjects, r.Subject)
		}
		if next == 0 {
			break
		}
		before = next
	}
	slices.Reverse(subjects)
	if lost != 5000-4096 || len(subjects) != 4096 || subjects[0] != "0" || subjects[4095] != "4095" {
		t.Errorf("%d records, %d lost", len(subjects), lost)
	}
}

// TestNothingCanBeDeleted tries to delete and to purge.
func TestNothingCanBeDeleted(t *testing.T) {
	l, engine := newLog(t)
	if err := l.Open(t.Context(), engine); err != nil {
		t.Fatal(err)
	}
	l.Add(auditlog.Record{Action: "test", Result: "ok"})
	run(t, l)
	stream, err := engine.JetStream().Stream(t.Context(), auditlog.Stream)
	if err != nil {
		t.Fatal(err)
	}
	if stream.DeleteMsg(t.Context(), 1) == nil || stream.Purge(t.Context()) == nil {
		t.Error("a record was deleted")
	}
	if records, next, err := l.Read(t.Context(), 0, 10); len(records) != 1 || next != 0 || err != nil {
		t.Errorf("%v, %d, %v", records, next, err)
	}
}

func TestLogWithoutStream(t *testing.T) {
	var text strings.Builder
	l := auditlog.New(auditlog.Config{Logger: slog.New(slog.NewTextHandler(&text, nil))}, false)
	l.Add(auditlog.Record{Action: "notification.cancel", Result: "ok", Caller: "backend", App: "shop"})
	if !strings.Contains(text.String(), "msg=audit action=notification.cancel result=ok caller=backend kind=\"\" app=shop") || l.Lost() != 0 {
		t.Error(text.String())
	}
	var off *auditlog.Log
	off.Add(auditlog.Record{})
	if _, _, err := off.Read(t.Context(), 0, 1); !errors.Is(err, auditlog.ErrNotStored) || off.Lost() != 0 || off.Open(t.Context(), nil) != nil {
		t.Error(err)
	}
}
