// SPDX-License-Identifier: Apache-2.0

package console

import (
	"bytes"
	"crypto/sha256"
	"embed"
	"encoding/hex"
	"mime"
	"net/http"
	"path"
	"strings"
	"time"

	"github.com/sluice-push/sluice/internal/report/uplot"
)

// assetFiles are the scripts and style sheets. htmx (https://htmx.org), Idiomorph and Pico CSS are
// copied without changes; their licences are in the folder licenses.
//
//go:embed assets/*.js assets/*.css assets/*.svg
var assetFiles embed.FS

// asset is a file with its hash, which is part of its URL: browsers keep it until it changes.
type asset struct {
	body []byte
	hash string
}

var assets = readAssets()

func readAssets() map[string]asset {
	all := map[string]asset{}
	add := func(name string, body []byte) {
		sum := sha256.Sum256(body)
		all[name] = asset{body, hex.EncodeToString(sum[:6])}
	}
	entries, _ := assetFiles.ReadDir("assets") // embedded
	for _, e := range entries {
		body, _ := assetFiles.ReadFile("assets/" + e.Name())
		add(e.Name(), body)
	}
	add("uplot.js", []byte(uplot.Script()))
	add("uplot.css", []byte(uplot.Style))
	return all
}

// assetURL returns the URL of an asset.
func assetURL(name string) string { return Path + "assets/" + name + "?" + assets[name].hash }

// serveAsset serves an asset. It requires no session: the assets are public.
func serveAsset(w http.ResponseWriter, r *http.Request) {
	name := strings.TrimPrefix(r.URL.Path, Path+"assets/")
	a, ok := assets[name]
	if !ok {
		http.NotFound(w, r)
		return
	}
	w.Header().Set("Content-Type", mime.TypeByExtension(path.Ext(name)))
	if r.URL.RawQuery == a.hash {
		w.Header().Set("Cache-Control", "public, max-age=31536000, immutable")
	}
	http.ServeContent(w, r, name, time.Time{}, bytes.NewReader(a.body))
}
