// SPDX-License-Identifier: Apache-2.0

package gateway

import (
	"bytes"
	"context"
	"log/slog"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/sluice-push/sluice/internal/config"
	"github.com/sluice-push/sluice/internal/testwait"
)

// TestExpiringKeysAreLoggedOnceADay runs the watch from eight days before the expiry of two keys to
// three days after it.
func TestExpiringKeysAreLoggedOnceADay(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		expiresAt := config.Time{Time: time.Now().Add(8*24*time.Hour + time.Minute)}
		cfg := &config.Config{
			Apps: map[string]*config.App{"shop": {Keys: []config.Key{{Name: "old", ExpiresAt: expiresAt}, {Name: "new"}}}},
			Auth: config.Auth{Keys: []config.AuthKey{{Name: "ops", ExpiresAt: config.Time{Time: expiresAt.AddDate(1, 0, 0)}}}},
		}
		var log bytes.Buffer
		g := &Gateway{log: slog.New(slog.NewTextHandler(&log, nil))}
		g.current.Store(&snapshot{cfg: cfg})
		if warnings := Warnings(cfg); len(warnings) != 0 {
			t.Errorf("a week before: %v", warnings)
		}
		ctx, cancel := context.WithCancel(t.Context())
		ended := make(chan error, 1)
		go func() { ended <- g.watchKeys(ctx) }()
		time.Sleep(11*24*time.Hour + time.Second)
		cancel()
		if err := testwait.For(t, ended, "the end of the watch"); err != nil {
			t.Error(err)
		}
		soon, expired := strings.Count(log.String(), "apps.shop.keys[0]: the key old expires on 2000-01-09T00:01:00Z"), strings.Count(log.String(), "the key old has expired on 2000-01-09T00:01:00Z")
		if soon != 7 || expired != 3 || strings.Contains(log.String(), "the key ops") || strings.Contains(log.String(), "the key new") {
			t.Errorf("%d and %d lines:\n%s", soon, expired, log.String())
		}
		if warnings := Warnings(cfg); len(warnings) != 1 {
			t.Errorf("afterwards: %v", warnings)
		}
		var keys []string
		for _, k := range g.keyExpiries() {
			keys = append(keys, k.App+"/"+k.Key+" "+k.ExpiresAt.Format(time.DateOnly))
		}
		if !slices.Equal(keys, []string{"shop/old 2000-01-09", "/ops 2001-01-09"}) {
			t.Errorf("%v", keys)
		}
	})
}
