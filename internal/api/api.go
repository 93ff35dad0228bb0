// SPDX-License-Identifier: Apache-2.0

// Package api serves the HTTP API: it decodes and authorizes requests, passes them on and encodes
// the responses. It does not send or store notifications; it reaches the rest of the gateway
// through small interfaces.
package api

import (
	"cmp"
	"context"
	"errors"
	"log/slog"
	"net/http"
	"net/netip"
	"strings"
	"time"

	"github.com/go-chi/chi/v5"
	"github.com/go-chi/chi/v5/middleware"

	"github.com/sluice-push/sluice/internal/auditlog"
	"github.com/sluice-push/sluice/internal/broadcast"
	"github.com/sluice-push/sluice/internal/idempotency"
	"github.com/sluice-push/sluice/internal/identity"
	"github.com/sluice-push/sluice/internal/loglimit"
	"github.com/sluice-push/sluice/internal/tracing"
	"github.com/sluice-push/sluice/push"
)

// Sender sends one notification. It is safe for concurrent use.
type Sender interface {
	// Send sends c, sets c.Receipt and returns its address. It returns when the notification has ended,
	// or soon after ctx is done.
	Send(ctx context.Context, c *push.Call) *push.Receipt
	// SendAll sends notifications of one app, platform and lane that have no Idempotency-Key, and
	// returns when all have ended, or soon after ctx is done. ended gets calls that have ended. It is
	// called by several goroutines and must not keep the slice.
	SendAll(ctx context.Context, calls []*push.Call, ended func([]*push.Call))
}

// Config configures the HTTP API. Only Sender and Auth are required.
type Config struct {
	// Sender sends notifications synchronously.
	Sender Sender
	// Queue stores notifications that are sent later, and History records the results of all
	// notifications. Both are nil in a gateway without a queue; requests that need them get the
	// problem needs-queue.
	Queue   Queue
	History History
	// Broadcasts returns the broadcasts of all apps, or nil while they are not open. nil means that the gateway
	// has none.
	Broadcasts func() *broadcast.Manager
	// Draining is closed when the gateway starts to drain. It ends all event feeds, and their
	// clients reconnect to another gateway. nil means never.
	Draining <-chan struct{}
	// Channels manages broadcast channels. nil means that no app has any.
	Channels Channels
	// Topics manages FCM topics. nil means that no app can.
	Topics Topics
	// Auth finds out who makes a request and which apps the caller may act for.
	Auth *identity.Authenticator
	// Limits are the limits of one request. Zero fields have their defaults.
	Limits Limits
	// Idempotency stores the receipts of requests with an Idempotency-Key. Handlers that replace
	// each other on reload share one; nil creates a new one in memory.
	Idempotency idempotency.Store
	// Status returns the value that GET /v1/status encodes as JSON for a key that may read these
	// apps; nil means {}. The value must not contain a secret.
	Status func(apps []string) any
	// Ready returns the reasons why the gateway is not ready, or none if it is; nil means always
	// ready. Every reason takes the whole gateway out of a load balancer's rotation.
	Ready func() []NotReady
	// Observe is called for every completed request with the pattern of its route, which is empty
	// if none matched, and its status, which is 0 if the client disconnected before there was a
	// response. It must return quickly; nil disables it.
	Observe func(route string, status int)
	// Refused is called for each request, or item of a batch, that is refused because of its caller, with
	// the kind of the caller's credential (none if the caller is unknown) and a short reason. It must
	// return quickly; nil disables it.
	Refused func(kind identity.Kind, reason string)
	// Tracer makes spans of the calls of apps, except for event feeds; nil makes none.
	Tracer *tracing.Tracer
	// Audit records who did what; nil records nothing. AuditSends adds one record for each request that
	// sends.
	Audit      *auditlog.Log
	AuditSends bool
	// TrustedProxies are the networks of the proxies whose X-Forwarded-For is believed.
	TrustedProxies []netip.Prefix
	// Logger gets one line per request at debug level and one per panic. nil discards them.
	Logger *slog.Logger
}

// Limits are the limits of one request.
type Limits struct {
	Body         int           // bytes of the body of a single notification; default 1 MiB
	Item         int           // bytes of one notification in a batch; default 64 KiB
	Batch        int           // notifications in a synchronous batch; default 10,000. Asynchronous batches have no limit
	InFlight     int           // concurrent notifications of one batch, or of one request with several targets, on each platform; default 512
	SendTimeout  time.Duration // for a verdict, including all waits and attempts; default 25 s
	BodyTimeout  time.Duration // for a body, or the next notification of a batch, to arrive; default 15 s
	WriteTimeout time.Duration // for a client to read what a batch wrote; default 30 s
}

func (l Limits) withDefaults() Limits {
	setDefault(&l.Body, 1<<20)
	setDefault(&l.Item, 64<<10)
	setDefault(&l.Batch, 10_000)
	setDefault(&l.InFlight, 512)
	setDefault(&l.SendTimeout, 25*time.Second)
	setDefault(&l.BodyTimeout, 15*time.Second)
	setDefault(&l.WriteTimeout, 30*time.Second)
	return l
}

func setDefault[T int | time.Duration](v *T, value T) {
	if *v <= 0 {
		*v = value
	}
}

// server holds what the handlers share.
type server struct {
	sender         Sender
	channels       Channels
	topics         Topics
	queue          Queue
	history        History
	broadcasts     func() *broadcast.Manager
	draining       <-chan struct{}
	auth           *identity.Authenticator
	limits         Limits
	status         func(apps []string) any
	ready          func() []NotReady
	log            *slog.Logger
	trustedProxies []netip.Prefix
	observer       func(route string, status int)
	refusal        func(kind identity.Kind, reason string)
	tracer         *tracing.Tracer
	audit          *auditlog.Log
	auditSends     bool
	anonymous      anonymousRefusals
	idempotency    idempotency.Store
	readers        *readerPool
	timeout        sharedTimeout  // of single notifications
	unavailable    loglimit.Limit // of the line about the storage

	replaced chan struct{} // closed when next is set
	next     *server
}

// Handler serves all requests under /v1, the health endpoints and /openapi.yaml. A configuration has
// one, which does not change.
type Handler struct {
	chi.Router
	send   http.Handler // of sendPath
	server *server
}

// ServeHTTP serves a request. It takes the route of a single send itself: the router costs a tenth of
// the handler's time.
func (h *Handler) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if appOfSend(r) != "" {
		r.Pattern = sendPath
		h.send.ServeHTTP(w, r)
		return
	}
	h.Router.ServeHTTP(w, r)
}

// sendPath is the path of a single send.
const sendPath = "/v1/apps/{app}/notifications"

var beforeApp, afterApp, _ = strings.Cut(sendPath, "{app}")

// appOfSend returns the app in the path of a single send, or "" for another request.
func appOfSend(r *http.Request) string {
	app, ok := strings.CutSuffix(r.URL.Path, afterApp)
	if !ok || r.Method != http.MethodPost || r.URL.RawPath != "" {
		return ""
	}
	if app, ok = strings.CutPrefix(app, beforeApp); !ok || strings.Contains(app, "/") {
		return ""
	}
	return app
}

// Replace makes next serve new requests from now on. Of the requests in progress,
// event feeds and batches end if next does not accept their key. It must be called at most once.
func (h *Handler) Replace(next *Handler) {
	h.server.next = next.server
	close(h.server.replaced)
}

// New returns a handler. It starts no goroutine. An error names the configuration key that is
// invalid and what is allowed.
func New(cfg Config) (*Handler, error) {
	if cfg.Sender == nil || cfg.Auth == nil {
		return nil, errors.New("api: Config.Sender is nil or Config.Auth is nil")
	}
	if (cfg.Queue == nil) != (cfg.History == nil) {
		return nil, errors.New("api: Config.Queue and Config.History must be set together")
	}
	limits := cfg.Limits.withDefaults()
	s := &server{
		queue: cfg.Queue, history: cfg.History, broadcasts: cfg.Broadcasts, draining: cfg.Draining,
		sender: cfg.Sender, channels: cfg.Channels, topics: cfg.Topics, auth: cfg.Auth, limits: limits,
		status: cfg.Status, ready: cfg.Ready, log: cfg.Logger, trustedProxies: cfg.TrustedProxies, observer: cfg.Observe, tracer: cfg.Tracer, refusal: cfg.Refused, audit: cfg.Audit, auditSends: cfg.AuditSends,
		idempotency: cmp.Or[idempotency.Store](cfg.Idempotency, new(idempotency.Memory)),
		readers:     newReaderPool(limits.Item), replaced: make(chan struct{}),
	}
	if s.log == nil {
		s.log = slog.New(slog.DiscardHandler)
	}
	send := handle(s.authorize(toSend, s.send))
	return &Handler{s.routes(send), s.observe(send), s}, nil
}

func (s *server) routes(send http.HandlerFunc) chi.Router {
	r := chi.NewRouter()
	r.Use(s.observe, middleware.GetHead)
	r.NotFound(handle(handleNotFound))
	r.MethodNotAllowed(handle(handleMethodNotAllowed))

	r.Post(sendPath, send)
	r.Get(sendPath, handle(s.authorize(identity.Read, s.list)))
	r.Post("/v1/apps/{app}/notifications/batch", handle(s.authorize(toSend, s.batch)))
	r.Get("/v1/apps/{app}/notifications/{id}", handle(s.authorize(identity.Read, s.find)))
	r.Delete("/v1/apps/{app}/notifications/{id}", handle(s.authorize(identity.Send, s.cancel)))
	r.Get("/v1/apps/{app}/stats", handle(s.authorize(identity.Read, s.stats)))
	r.Get("/v1/apps/{app}/events", handle(s.authorize(identity.Events, s.events)))
	r.Get("/v1/apps/{app}/channels", handle(s.authorize(identity.Read, s.listChannels)))
	r.Post("/v1/apps/{app}/channels", handle(s.authorize(identity.Channels, s.createChannel)))
	r.Get("/v1/apps/{app}/channels/{id}", handle(s.authorize(identity.Read, s.showChannel)))
	r.Delete("/v1/apps/{app}/channels/{id}", handle(s.authorize(identity.Channels, s.deleteChannel)))
	r.Post("/v1/apps/{app}/fcm/topics/subscribe", handle(s.authorize(identity.Channels, s.subscribeTopic)))
	r.Post("/v1/apps/{app}/fcm/topics/unsubscribe", handle(s.authorize(identity.Channels, s.unsubscribeTopic)))
	r.Post("/v1/apps/{app}/fcm/topics/list", handle(s.authorize(identity.Read, s.listTopics)))
	s.broadcastRoutes(r)
	r.Get("/v1/status", handle(s.showStatus))
	r.Get("/v1/audit", handle(s.readAudit))

	r.Get("/livez", handle(showLive))
	r.Get("/readyz", handle(s.showReady))
	r.Get("/healthz", handle(s.showReady))
	r.Get("/openapi.yaml", handle(showOpenAPI))
	return r
}

// handler is like http.HandlerFunc, but returns its problem instead of writing it. If it returns
// nil, it has written a response, or the client has disconnected.
type handler func(w *response, r *http.Request) *problem

// handle converts a handler into an http.HandlerFunc. It requires the observe middleware.
func handle(h handler) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		out := w.(*response)
		if p := h(out, r); p != nil {
			out.problem, out.cause = p.slug, p.cause
			p.reply(out.requestID).write(out)
		}
	}
}

func handleNotFound(*response, *http.Request) *problem {
	return &problem{kind: notFound, detail: "GET /openapi.yaml lists all endpoints"}
}

// handleMethodNotAllowed also responds to OPTIONS. Both responses list the methods of the path in
// the header Allow.
func handleMethodNotAllowed(w *response, r *http.Request) *problem {
	routes := chi.RouteContext(r.Context()).Routes
	for _, method := range [...]string{http.MethodGet, http.MethodHead, http.MethodPost, http.MethodPut, http.MethodPatch, http.MethodDelete} {
		if routes.Match(chi.NewRouteContext(), method, r.URL.Path) {
			w.Header().Add("Allow", method)
		}
	}
	if r.Method == http.MethodOptions {
		w.WriteHeader(http.StatusNoContent)
		return nil
	}
	return &problem{kind: methodNotAllowed, detail: "the header Allow lists the allowed methods"}
}
