// SPDX-License-Identifier: Apache-2.0

// Package rest is the HTTP face: it decodes, authorises, hands on and encodes. It knows of the house behind it what its
// small interfaces say, and neither sends, keeps nor judges.
package api

import (
	"cmp"
	"context"
	"errors"
	"log/slog"
	"net/http"
	"time"

	"github.com/go-chi/chi/v5"
	"github.com/go-chi/chi/v5/middleware"

	"github.com/sluice-push/sluice/push"
)

// Sender carries one notification to its end. It is called from many goroutines at once.
type Sender interface {
	// Send returns when the notification has ended, or soon after ctx has.
	Send(ctx context.Context, n *push.Notification) push.Receipt
}

// Config is what the HTTP face needs to know. Only Sender is required.
type Config struct {
	// Sender is the house behind the door.
	Sender Sender
	// Queue keeps what is accepted for later, and History knows what became of everything. Both are nil in a gateway
	// without a queue, and then the calls that need them say so.
	Queue   Queue
	History History
	// Draining is closed when the gateway begins to drain, and ends the feeds of events: their readers come back
	// elsewhere. nil never does.
	Draining <-chan struct{}
	// Channels manages broadcast channels; nil says that no app has any.
	Channels Channels
	// Apps are those that may send, by name (letters, digits, '.', '_' and '-', at most 64).
	Apps map[string]App
	// Limits bound what one caller can take; zero fields mean their defaults.
	Limits Limits
	// Memory is what Idempotency-Keys came to, for one handler that takes another's place; nil begins a new one. With a
	// History it is not asked.
	Idempotency *IdempotencyCache
	// Crew sends the notifications of batches, those of all handlers that have it; nil has a new goroutine for each.
	Workers *WorkerPool
	// Status gives the value that GET /v1/status answers as JSON; nil answers {}. It must hold no secret.
	Status func() any
	// Ready names what keeps the gateway from serving, and nothing when it serves; nil means always ready. Whatever
	// it names takes the whole gateway out of a load balancer's rotation.
	Ready func() []NotReady
	// Observe is told of every request that has ended: the pattern of its route, empty where none matched, and its
	// status, 0 where the caller left before there was an answer. It must be quick; nil tells nobody.
	Observe func(route string, status int)
	// Logger gets one line per request at debug level and one per panic; nil discards them.
	Logger *slog.Logger
}

// App is one app and those who may speak for it.
type App struct {
	Keys []Key
}

// Limits bound what one request can take from the gateway.
type Limits struct {
	Body         int           // bytes of a single notification's body; default 1 MiB
	Item         int           // bytes of one notification in a batch; default 64 KiB
	Batch        int           // notifications in a batch that is sent at once; default 10,000. The queue takes any number
	InFlight     int           // notifications of one batch that are sent at a time; default 512
	SendTimeout  time.Duration // for a notification to have its verdict, waits and attempts included; default 25 s
	BodyTimeout  time.Duration // for a body, or the next notification of a batch, to arrive; default 15 s
	WriteTimeout time.Duration // for a caller to take what a batch wrote; default 30 s
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

// timeoutSender gives every notification its time. It is the outermost of the deadlines that a notification meets: within it
// lie the waits for a quota, an endpoint and a retry, and each attempt's own timeout. Around it lie the time that a
// drain grants and the caller's patience. docs/operations.md draws them.
type timeoutSender struct {
	Sender
	timeout time.Duration
}

// Send ends n in time. A ctx that ends no later does so by itself.
func (t timeoutSender) Send(ctx context.Context, n *push.Notification) push.Receipt {
	if deadline, bounded := ctx.Deadline(); bounded && time.Until(deadline) <= t.timeout {
		return t.Sender.Send(ctx, n)
	}
	ctx, cancel := context.WithTimeout(ctx, t.timeout)
	defer cancel()
	return t.Sender.Send(ctx, n)
}

// server is what the handlers share.
type server struct {
	sender      Sender
	channels    Channels
	queue       Queue
	history     History
	draining    <-chan struct{}
	keys        keyring
	limits      Limits
	status      func() any
	ready       func() []NotReady
	log         *slog.Logger
	observer    func(route string, status int)
	idempotency *IdempotencyCache
	workers     *WorkerPool
	readers     *readerPool
}

// New returns the handler of every call under /v1, of the health calls and of /openapi.yaml. It starts nothing. An
// error names the key of the configuration that is wrong and what is allowed there.
func New(cfg Config) (http.Handler, error) {
	if cfg.Sender == nil {
		return nil, errors.New("rest: Config.Sender is nil")
	}
	if (cfg.Queue == nil) != (cfg.History == nil) {
		return nil, errors.New("rest: Config.Queue and Config.History need each other")
	}
	keys, err := newKeyring(cfg.Apps)
	if err != nil {
		return nil, err
	}
	limits := cfg.Limits.withDefaults()
	a := &server{
		queue: cfg.Queue, history: cfg.History, draining: cfg.Draining,
		sender: timeoutSender{cfg.Sender, limits.SendTimeout}, channels: cfg.Channels, keys: keys, limits: limits, status: cfg.Status, ready: cfg.Ready, log: cfg.Logger, observer: cfg.Observe,
		idempotency: cmp.Or(cfg.Idempotency, new(IdempotencyCache)), workers: cmp.Or(cfg.Workers, new(WorkerPool)),
		readers: newReaderPool(limits.Item),
	}
	if a.log == nil {
		a.log = slog.New(slog.DiscardHandler)
	}
	return a.routes(), nil
}

func (a *server) routes() chi.Router {
	r := chi.NewRouter()
	r.Use(a.observe, middleware.GetHead)
	r.NotFound(handle(handleNotFound))
	r.MethodNotAllowed(handle(handleMethodNotAllowed))

	r.Post("/v1/apps/{app}/notifications", handle(a.authorize(scopeSend, a.send)))
	r.Post("/v1/apps/{app}/notifications/batch", handle(a.authorize(scopeSend, a.batch)))
	r.Get("/v1/apps/{app}/notifications/{id}", handle(a.authorize(scopeRead, a.find)))
	r.Delete("/v1/apps/{app}/notifications/{id}", handle(a.authorize(scopeSend, a.cancel)))
	r.Get("/v1/apps/{app}/events", handle(a.authorize(scopeRead, a.events)))
	r.Get("/v1/apps/{app}/channels", handle(a.authorize(scopeRead, a.listChannels)))
	r.Post("/v1/apps/{app}/channels", handle(a.authorize(scopeChannels, a.createChannel)))
	r.Get("/v1/apps/{app}/channels/{id}", handle(a.authorize(scopeRead, a.showChannel)))
	r.Delete("/v1/apps/{app}/channels/{id}", handle(a.authorize(scopeChannels, a.deleteChannel)))
	r.Get("/v1/status", handle(a.authorizeAnyApp(scopeRead, a.showStatus)))

	r.Get("/livez", handle(showLive))
	r.Get("/readyz", handle(a.showReady))
	r.Get("/healthz", handle(a.showReady))
	r.Get("/openapi.yaml", handle(showOpenAPI))
	return r
}

// handler is an http.HandlerFunc that returns the problem it met instead of writing it. After nil it has written its
// answer, or there is nobody left to read one.
type handler func(w *response, r *http.Request) *problem

// handle makes a handler a http.HandlerFunc behind observe.
func handle(h handler) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		out := w.(*response)
		if p := h(out, r); p != nil {
			p.reply(out.requestID).write(out)
		}
	}
}

func handleNotFound(*response, *http.Request) *problem {
	return &problem{kind: notFound, detail: "GET /openapi.yaml lists every call"}
}

// handleMethodNotAllowed answers OPTIONS too: both tell the methods that the path has.
func handleMethodNotAllowed(w *response, r *http.Request) *problem {
	routes := chi.RouteContext(r.Context()).Routes
	for _, method := range [...]string{http.MethodGet, http.MethodPost, http.MethodDelete} {
		if routes.Match(chi.NewRouteContext(), method, r.URL.Path) {
			w.Header().Add("Allow", method)
		}
	}
	if r.Method == http.MethodOptions {
		w.WriteHeader(http.StatusNoContent)
		return nil
	}
	return &problem{kind: methodNotAllowed, detail: "the header Allow tells what this path takes"}
}
