// SPDX-License-Identifier: Apache-2.0

package console

import (
	"net/http"

	"github.com/sluice-push/sluice/internal/identity"
)

// unregisteredData is the data of the page with unregistered tokens.
type unregisteredData struct {
	Apps    []string
	App     string
	History bool
}

func (c *Console) showUnregistered(w http.ResponseWriter, r *http.Request, v *viewer) {
	c.page(w, r, v, "unregistered", "Unregistered tokens", unregisteredData{Apps: v.Apps(identity.Read), App: r.URL.Query().Get("app"), History: c.cfg.History != nil})
}
