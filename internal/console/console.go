// SPDX-License-Identifier: Apache-2.0

// Package console serves the web console: HTML for people, rendered on the server. It knows what the
// gateway's status and metrics know, and does everything else through the HTTP API, with the
// permissions of the key that has signed in. It changes no state of the gateway.
package console

import (
	"bytes"
	"cmp"
	"context"
	"crypto/sha256"
	"encoding/json"
	"fmt"
	"log/slog"
	"net/http"
	"net/netip"
	"runtime/debug"
	"time"

	lru "github.com/hashicorp/golang-lru/v2"

	"github.com/sluice-push/sluice/docs"
	"github.com/sluice-push/sluice/internal/docsite"
	"github.com/sluice-push/sluice/internal/identity"
	"github.com/sluice-push/sluice/push"
)

// Path is the path of the console. It ends in a slash.
const Path = "/console/"

// Config configures the console. History and Dev can be nil.
type Config struct {
	// API serves the HTTP API. WithCaller returns a copy of a request with its caller.
	API        http.Handler
	WithCaller func(r *http.Request, caller *identity.Caller) *http.Request
	// Authenticator returns the authenticator of the current configuration.
	Authenticator func() *identity.Authenticator
	// Snapshot returns the state of the gateway. The console calls it at most once a second, and only
	// while someone watches.
	Snapshot func() Snapshot
	// Translate returns the request that a provider gets for a notification. The error of an invalid
	// notification is a *push.FieldError.
	Translate func(n *push.Notification) (*Request, error)
	// Platforms returns the platforms of an app.
	Platforms func(app string) []push.Platform
	// Lifetime returns how long a sign-in lasts.
	Lifetime func() time.Duration
	// URL returns the URL of the console in browsers, which ends in Path. It is empty without a sign-in at
	// an issuer.
	URL func() string
	// Address returns the IP address of who makes a request.
	Address func(r *http.Request) string
	// History is nil in a gateway without one.
	History History
	// Dev is set for the console of gateway dev.
	Dev *Dev
	// Audit is called for each action console.sign_in and console.sign_out with its result: ok, or the
	// reason of the refusal, with which there is no caller. It must return quickly; nil disables it.
	Audit func(action string, caller *identity.Caller, address, result string)
	// Logger gets sign-ins and panics. nil discards them.
	Logger *slog.Logger
}

// History is the part of the history that the console reads without the API.
type History interface {
	// Find returns the receipt and the events of a notification. The app "" means every app.
	Find(ctx context.Context, app, id string) (push.Receipt, []push.Event, error)
}

// Dev is what only the console of gateway dev has.
type Dev struct {
	// Key is the API key of dev. Whoever can connect to the console can sign in with it by a button.
	Key string
	// Mock controls the mock providers.
	Mock Mock
}

// Console is the http.Handler of everything below Path. It is safe for concurrent use.
type Console struct {
	cfg      Config
	handler  http.Handler
	log      *slog.Logger
	sessions sessions
	// signedOut are the SHA-256 of ID tokens whose holders have signed out here.
	signedOut *lru.Cache[[sha256.Size]byte, struct{}]
	attempts  attempts
	live      liveState
	streams   streamLimit
}

// New returns a console. It starts nothing.
func New(cfg Config) *Console {
	c := &Console{cfg: cfg, log: cmp.Or(cfg.Logger, slog.New(slog.DiscardHandler))}
	c.signedOut, _ = lru.New[[sha256.Size]byte, struct{}](maxSessions) // fails only without a size
	mux := http.NewServeMux()
	mux.HandleFunc("GET "+Path+"assets/", serveAsset)
	mux.HandleFunc("GET "+Path+"sign-in", c.showSignIn)
	mux.HandleFunc("POST "+Path+"sign-in", c.signIn)
	mux.HandleFunc("GET "+Path+startPath, c.startSignIn)
	mux.HandleFunc("GET "+Path+CallbackPath, c.finishSignIn)
	mux.HandleFunc("POST "+Path+"sign-out", c.signOut)
	page := func(pattern string, h func(http.ResponseWriter, *http.Request, *viewer)) {
		mux.HandleFunc(pattern, func(w http.ResponseWriter, r *http.Request) {
			if v := c.viewer(w, r); v != nil {
				h(w, r, v)
			}
		})
	}
	page("GET "+Path+"{$}", c.showLive)
	page("GET "+Path+"live/events", c.streamLive)
	page("GET "+Path+"notifications", c.showNotifications)
	page("GET "+Path+"unregistered", c.showUnregistered)
	page("GET "+Path+"send", c.showSend)
	page("POST "+Path+"send/preview", c.preview)
	page("POST "+Path+"send", c.send)
	page("GET "+Path+"broadcasts", c.showBroadcasts)
	page("POST "+Path+"broadcasts", c.createBroadcast)
	page("GET "+Path+"broadcasts/new", c.showBroadcastForm)
	page("POST "+Path+"broadcasts/preview", c.previewBroadcastForm)
	page("POST "+Path+"broadcasts/form", c.changeBroadcastForm)
	page("GET "+Path+"broadcasts/{id}", c.showBroadcast)
	page("GET "+Path+"broadcasts/{id}/events", c.streamBroadcast)
	page("GET "+Path+"broadcasts/{id}/results", c.exportResults)
	page("GET "+Path+"broadcasts/{id}/previews", c.showPreviews)
	page("GET "+Path+"broadcasts/{id}/edit", c.showEdit)
	page("POST "+Path+"broadcasts/{id}/edit", c.saveBroadcast)
	page("GET "+Path+"broadcasts/{id}/recall", c.showRecall)
	page("GET "+Path+"broadcasts/{id}/cancel", c.confirmCommand)
	page("GET "+Path+"broadcasts/{id}/delete", c.confirmCommand)
	page("POST "+Path+"broadcasts/{id}/audience", c.uploadAudience)
	page("POST "+Path+"broadcasts/{id}/{command}", c.commandBroadcast)
	help := http.StripPrefix(Path+"help", docsite.Handler(docs.FS))
	page("GET "+Path+"help/", func(w http.ResponseWriter, r *http.Request, _ *viewer) { help.ServeHTTP(w, r) })
	if cfg.Dev != nil {
		page("GET "+Path+"faults", c.showFaults)
		page("POST "+Path+"faults", c.setFault)
	}
	mux.HandleFunc("GET "+Path, c.notFound)
	c.handler = http.NewCrossOriginProtection().Handler(mux)
	return c
}

// maxForm limits the size of a form in bytes. The longest field is a payload of at most 64 KiB.
const maxForm = 256 << 10

// contentPolicy allows only what this package serves. Neither inline scripts nor inline styles run,
// so text that is shown by mistake without escaping can do nothing. The style sheet has images as
// data URLs.
const contentPolicy = "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; connect-src 'self'; " +
	"form-action 'self'; base-uri 'none'; frame-ancestors 'none'"

// ServeHTTP implements http.Handler.
func (c *Console) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	h := w.Header()
	h.Set("Content-Security-Policy", contentPolicy)
	h.Set("X-Content-Type-Options", "nosniff")
	h.Set("X-Frame-Options", "DENY")
	h.Set("Referrer-Policy", "no-referrer")
	h.Set("Cross-Origin-Opener-Policy", "same-origin")
	h.Set("Cross-Origin-Resource-Policy", "same-origin")
	h.Set("Cache-Control", "no-store")
	if !isUpload(r) {
		r.Body = http.MaxBytesReader(w, r.Body, maxForm)
	}
	defer func() {
		if panicked := recover(); panicked != nil {
			if panicked == http.ErrAbortHandler {
				panic(panicked)
			}
			c.log.Error("panic in console", "type", fmt.Sprintf("%T", panicked), "stack", string(debug.Stack()))
			http.Error(w, "Internal error. The log of the gateway has details.", http.StatusInternalServerError)
		}
	}()
	c.handler.ServeHTTP(w, r)
}

// viewer is who has signed in, with the permissions of this moment.
type viewer struct{ *identity.Caller }

// may reports whether the viewer has one of the scopes in an app.
func (v *viewer) may(scopes identity.Scopes, app string) bool { return v.Scopes(app)&scopes != 0 }

// current returns the viewer of a session, with the permissions that the current configuration grants.
// It returns nil if the session or its credential is not valid any more.
func (c *Console) current(r *http.Request) *viewer {
	if s, ok := c.sessions.get(r); ok {
		if caller := c.cfg.Authenticator().Renew(s.caller); caller != nil && !caller.Expired() {
			return &viewer{caller}
		}
		c.sessions.end(r)
	}
	if token := tokenOf(r); token != "" && !c.signedOut.Contains(sha256.Sum256([]byte(token))) {
		if caller, _, refusal := c.cfg.Authenticator().SignedIn(r.Context(), token, c.cfg.Lifetime()); refusal == nil {
			return &viewer{caller}
		}
	}
	return nil
}

// viewer returns who has signed in. Without a valid session it redirects to the sign-in page and
// returns nil.
func (c *Console) viewer(w http.ResponseWriter, r *http.Request) *viewer {
	if v := c.current(r); v != nil {
		return v
	}
	switch {
	case r.Header.Get("HX-Request") != "":
		w.Header().Set("HX-Redirect", Path+"sign-in")
		w.WriteHeader(http.StatusUnauthorized)
	case r.Header.Get("Accept") == "text/event-stream":
		http.Error(w, "sign in again", http.StatusUnauthorized)
	case r.Header.Get("Sec-Fetch-Site") == "cross-site" && r.Method == http.MethodGet:
		// The browser does not send a strict cookie with a link from another site, such as a chat.
		// It does with the next request, which comes from this page.
		c.render(w, r, http.StatusOK, "reload", &pageData{Title: "Signing in"})
	default:
		http.Redirect(w, r, Path+"sign-in", http.StatusSeeOther)
	}
	return nil
}

// call calls the HTTP API with the permissions of v. header has names and values.
func (c *Console) call(ctx context.Context, v *viewer, method, path string, body []byte, header ...string) *apiResponse {
	out := &apiResponse{header: http.Header{}, Status: http.StatusOK}
	r, err := newAPIRequest(ctx, method, path, bytes.NewReader(body))
	if err != nil {
		out.Status = http.StatusBadRequest
		return out
	}
	for i := 0; i+1 < len(header); i += 2 {
		r.Header.Set(header[i], header[i+1])
	}
	c.cfg.API.ServeHTTP(out, c.cfg.WithCaller(r, v.Caller))
	return out
}

// problem is a problem document of the API.
type problem struct {
	Title  string `json:"title"`
	Field  string `json:"field"`
	Detail string `json:"detail"`
}

// problem returns the error in the response.
func (a *apiResponse) problem() *problem {
	p := &problem{}
	if json.Unmarshal(a.body.Bytes(), p) != nil || p.Title == "" {
		p.Title = "The gateway answered " + http.StatusText(a.Status)
	}
	if a.Status == http.StatusPreconditionFailed { // the page has sent an ETag, which its reader does not know
		return &problem{Title: "Not done", Detail: "It has changed since this page was opened. Check it, and try again."}
	}
	return p
}

// pageData is what the layout of every page needs; Data is that of the page.
type pageData struct {
	Title  string
	Page   string // of the navigation
	Theme  string // light, dark, or empty for that of the system
	Viewer string
	Dev    bool
	Send   bool // the viewer may send
	Data   any
}

// page responds with a page for a viewer.
func (c *Console) page(w http.ResponseWriter, r *http.Request, v *viewer, name, title string, data any) {
	c.render(w, r, http.StatusOK, name, &pageData{Title: title, Page: name, Viewer: v.Name, Send: len(v.Apps(identity.Send|identity.Broadcasts)) > 0, Data: data})
}

// notFound handles all other paths.
func (c *Console) notFound(w http.ResponseWriter, r *http.Request) {
	c.render(w, r, http.StatusNotFound, "not-found", &pageData{Title: "Not found"})
}

// isLoopback reports whether the request names this machine by an address or as localhost. The name
// of another site can resolve to this machine too (DNS rebinding).
func isLoopback(host string) bool {
	if addr, err := netip.ParseAddrPort(host); err == nil {
		return addr.Addr().IsLoopback()
	}
	return host == "localhost" || len(host) > 10 && host[:10] == "localhost:"
}
