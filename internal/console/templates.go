// SPDX-License-Identifier: Apache-2.0

package console

import (
	"bytes"
	"embed"
	"fmt"
	"html/template"
	"math"
	"net/http"
	"strconv"
	"strings"
	"time"
)

//go:embed templates/*.html
var templateFiles embed.FS

// templates are the pages and their parts. A page is the template with its name.
var templates = template.Must(template.New("").Funcs(template.FuncMap{
	"asset": assetURL, "count": formatCount, "ms": formatMillis, "ago": formatAgo, "clock": formatClock, "day": formatDay, "statusClass": statusClass, "percent": formatPercent,
	"plural": plural, "join": strings.Join, "bytes": formatBytes, "iso": func(t time.Time) string { return t.UTC().Format(time.RFC3339Nano) },
	"bar": func(share float64) string { return strconv.FormatFloat(100*min(max(share, 0), 1), 'f', 1, 64) },
	"dict": func(pairs ...any) map[string]any {
		m := map[string]any{}
		for i := 0; i+1 < len(pairs); i += 2 {
			m[pairs[i].(string)] = pairs[i+1]
		}
		return m
	},
}).ParseFS(templateFiles, "templates/*.html"))

// render responds with a page, or with its part name+"-result" alone if htmx asks for that.
func (c *Console) render(w http.ResponseWriter, r *http.Request, status int, name string, data *pageData) {
	if cookie, err := r.Cookie("sluice_theme"); err == nil && (cookie.Value == "light" || cookie.Value == "dark") {
		data.Theme = cookie.Value
	}
	data.Dev = c.cfg.Dev != nil
	var body bytes.Buffer
	if err := templates.ExecuteTemplate(&body, name, data); err != nil {
		panic(fmt.Errorf("console: template %s: %w", name, err))
	}
	w.Header().Set("Content-Type", "text/html; charset=utf-8")
	w.WriteHeader(status)
	_, _ = w.Write(body.Bytes()) // fails only if the client disconnected
}

// renderPart responds with a part of a page.
func (c *Console) renderPart(w http.ResponseWriter, name string, data any) {
	var body bytes.Buffer
	if err := templates.ExecuteTemplate(&body, name, data); err != nil {
		panic(fmt.Errorf("console: template %s: %w", name, err))
	}
	w.Header().Set("Content-Type", "text/html; charset=utf-8")
	_, _ = w.Write(body.Bytes()) // fails only if the client disconnected
}

// isPart reports whether htmx wants only a part of the page.
func isPart(r *http.Request) bool {
	return r.Header.Get("HX-Request") != "" && r.Header.Get("HX-History-Restore-Request") == ""
}

// formatCount formats a number with three digits or all of those before the point: 0.25, 17.3, 1,204.
func formatCount(v any) string {
	var f float64
	switch n := v.(type) {
	case int:
		f = float64(n)
	case uint64:
		f = float64(n)
	case int64:
		f = float64(n)
	case float64:
		f = n
	}
	switch {
	case f == math.Trunc(f) || f >= 100:
		return groupDigits(strconv.FormatFloat(math.Round(f), 'f', 0, 64))
	case f >= 10:
		return strconv.FormatFloat(f, 'f', 1, 64)
	default:
		return strconv.FormatFloat(f, 'f', 2, 64)
	}
}

// plural formats a number of things, such as devices.
func plural(n uint64, thing string) string {
	if n != 1 {
		thing += "s"
	}
	return formatCount(n) + " " + thing
}

func groupDigits(digits string) string {
	for i := len(digits) - 3; i > 0 && digits[i-1] != '-'; i -= 3 {
		digits = digits[:i] + "," + digits[i:]
	}
	return digits
}

// formatMillis formats a number of milliseconds; "–" for 0, which means that too little is known.
func formatMillis(ms float64) string {
	switch {
	case ms <= 0:
		return "–"
	case ms < 10:
		return strconv.FormatFloat(ms, 'f', 1, 64) + " ms"
	case ms < 10_000:
		return groupDigits(strconv.FormatFloat(ms, 'f', 0, 64)) + " ms"
	default:
		return strconv.FormatFloat(ms/1000, 'f', 1, 64) + " s"
	}
}

func formatPercent(share float64) string {
	if p := 100 * share; p != 0 && p < 10 {
		return strconv.FormatFloat(p, 'f', 1, 64) + " %"
	}
	return strconv.FormatFloat(100*share, 'f', 0, 64) + " %"
}

// formatAgo formats a duration in seconds in one unit.
func formatAgo(seconds float64) string {
	switch {
	case seconds < 1:
		return "0 s"
	case seconds < 90:
		return strconv.FormatFloat(seconds, 'f', 0, 64) + " s"
	case seconds < 90*60:
		return strconv.FormatFloat(seconds/60, 'f', 0, 64) + " min"
	case seconds < 36*3600:
		return strconv.FormatFloat(seconds/3600, 'f', 0, 64) + " h"
	default:
		return strconv.FormatFloat(seconds/86400, 'f', 0, 64) + " d"
	}
}

func formatClock(t time.Time) string { return t.UTC().Format("15:04:05") }

// formatDay formats a time with its day.
func formatDay(t time.Time) string { return t.UTC().Format("Jan 2 15:04:05") }

func formatBytes(n uint64) string {
	switch {
	case n >= 1<<30:
		return strconv.FormatFloat(float64(n)/(1<<30), 'f', 1, 64) + " GiB"
	case n >= 1<<20:
		return strconv.FormatFloat(float64(n)/(1<<20), 'f', 1, 64) + " MiB"
	case n >= 1<<10:
		return strconv.FormatFloat(float64(n)/(1<<10), 'f', 1, 64) + " KiB"
	default:
		return strconv.FormatUint(n, 10) + " B"
	}
}
