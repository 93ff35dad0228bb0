// SPDX-License-Identifier: Apache-2.0

package console

import (
	"crypto/sha256"
	"encoding/hex"
	"net/http"
	"strings"
	"time"

	"github.com/sluice-push/sluice/internal/identity"
	"github.com/sluice-push/sluice/push"
)

// unregisteredPageSize is the number of tokens on a page: each needs a lookup.
const unregisteredPageSize = 25

// unregisteredData is the data of the page with unregistered tokens.
type unregisteredData struct {
	Apps    []string // that the viewer may read
	App     string
	History bool // the gateway has a history
	Error   string
	List    *listView
	Targets []unregisteredTarget
}

// unregisteredTarget is a target that a provider has declared unregistered. The whole target is never
// shown.
type unregisteredTarget struct {
	ID        string // of the notification
	At        time.Time
	Platform  push.Platform
	Reason    string
	End       string    // the last characters of the target
	Hash      string    // the first digits of its SHA-256
	DeadSince time.Time // according to the provider
}

// showUnregistered lists the targets that were reported as unregistered, the newest first.
func (c *Console) showUnregistered(w http.ResponseWriter, r *http.Request, v *viewer) {
	query := r.URL.Query()
	data := unregisteredData{Apps: v.Apps(identity.Read), App: query.Get("app"), History: c.cfg.History != nil}
	if data.App == "" && len(data.Apps) > 0 {
		data.App = data.Apps[0]
	}
	if data.History && data.App != "" && v.may(identity.Read, data.App) {
		q := searchQuery{App: data.App, Status: string(push.StatusUnregistered), Cursor: query.Get("cursor")}
		data.List, data.Error = c.list(r, v, q, unregisteredPageSize)
		if data.List != nil {
			data.Targets = c.targets(r, data.App, data.List.Notifications)
		}
	}
	if isPart(r) {
		c.renderPart(w, "unregistered-result", data)
		return
	}
	c.page(w, r, v, "unregistered", "Unregistered tokens", data)
}

// targets returns the targets of notifications that ended as unregistered. Only the event has the
// target.
func (c *Console) targets(r *http.Request, app string, notifications []push.Summary) (targets []unregisteredTarget) {
	for _, n := range notifications {
		t := unregisteredTarget{ID: n.ID, At: n.UpdatedAt, Platform: n.Platform, Reason: n.Reason}
		_, events, err := c.cfg.History.Find(r.Context(), app, n.ID)
		if err != nil {
			continue // deleted since
		}
		for _, e := range events {
			if e.Target == nil {
				continue
			}
			key := e.Target.Key()
			if e.Platform == push.APNs {
				key = strings.ToLower(key)
			}
			sum := sha256.Sum256([]byte(key))
			t.End, t.Hash = shorten(key), hex.EncodeToString(sum[:8])
			if e.Receipt != nil {
				t.DeadSince = e.Receipt.DeadSince
			}
		}
		targets = append(targets, t)
	}
	return targets
}
