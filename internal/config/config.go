// SPDX-License-Identifier: Apache-2.0

// Package config reads the configuration file: it fills in defaults, applies overrides from the
// environment, validates, and documents every key. It reads no file that the configuration refers
// to, starts nothing, and imports no other package of this module.
package config

import "time"

// The comments of the fields below are user documentation: Schema and Reference print them
// verbatim. The struct tags are
//
//   - name: the key in the file
//   - was: the name of the key in earlier versions, for the error message
//   - default, and preset: the defaults of keys within a block
//   - allowed: values separated by |, a range lo..hi, or /pattern/ followed by its meaning
//   - required
//   - inherit: the block of Config whose values this block starts with
//   - secret: the value is never printed
//   - restart: a reload cannot change the key or the keys of the block; false for a key or block in such a
//     block that it can change
//   - example: a value for the reference, where neither the default nor the type has a good one

// Config is a whole configuration file.
type Config struct {
	// Address of the API: host:port, unix:/path for a Unix socket, or systemd:NAME for a socket that
	// systemd has opened (FileDescriptorName= in its unit). Without tls it is plain HTTP: if other
	// machines can connect to the address, set tls or put a TLS proxy in front of it. Port 0 picks a
	// free port.
	Listen Address `name:"listen" example:"0.0.0.0:8080" restart:"true" default:"127.0.0.1:8080"`
	// File mode of a Unix socket in listen: who may write to it may connect.
	SocketMode string `name:"socket_mode" restart:"true" default:"0660" allowed:"/^0[0-7]{3}$/a file mode in octal, such as 0660"`
	// Networks of the proxies and load balancers in front of the gateway, such as 10.0.0.0/8. Only
	// from them is X-Forwarded-For believed, which gives the address of the caller in the log.
	TrustedProxies []Network `name:"trusted_proxies"`
	// TLS of the API. Clients choose HTTP/2 or HTTP/1.1.
	TLS     TLS     `name:"tls"`
	Admin   Admin   `name:"admin"`
	Console Console `name:"console"`
	// Zone that this gateway runs in. Clients prefer gateways in their own zone; /v1/status shows
	// it.
	Zone string `name:"zone" example:"tokyo-a" restart:"true" allowed:"/^[A-Za-z0-9._-]{0,63}$/up to 63 letters, digits, dots, dashes and underscores"`

	// Pool, Retry and Quota come before Apps because every provider of an app inherits their
	// values.

	Pool  Pool  `name:"pool"`
	Retry Retry `name:"retry"`
	Quota Quota `name:"quota"`
	// Proxy for all connections to providers, to their token endpoints, to webhooks and to the receiver
	// of traces. A block of the same name in a provider or webhook replaces it as a whole.
	Proxy Proxy `name:"proxy"`
	// Apps that may send, by the name in the URL (/v1/apps/NAME/notifications).
	Apps       map[string]*App `name:"apps" required:"true"`
	Auth       Auth            `name:"auth"`
	DNS        DNS             `name:"dns"`
	Queue      Queue           `name:"queue" restart:"true"`
	History    History         `name:"history" restart:"true"`
	Broadcasts Broadcasts      `name:"broadcasts" restart:"true"`
	AuditLog   AuditLog        `name:"audit_log" restart:"true"`
	Limits     Limits          `name:"limits"`
	Log        Log             `name:"log" restart:"true"`
	Tracing    Tracing         `name:"tracing"`
	Drain      Drain           `name:"drain"`
	Readiness  Readiness       `name:"readiness"`
}

// Admin configures the listener for operators.
type Admin struct {
	// Address of /metrics and /debug/pprof, in one of the forms of the other listen. It requires no
	// key: keep it on loopback or behind a firewall.
	Listen Address `name:"listen" example:"10.1.2.3:9090" restart:"true" default:"127.0.0.1:9090"`
	// File mode of a Unix socket in admin.listen.
	SocketMode string `name:"socket_mode" restart:"true" default:"0660" allowed:"/^0[0-7]{3}$/a file mode in octal, such as 0660"`
	// TLS of the admin listener. With client_ca_file, Prometheus and probes need a certificate.
	TLS TLS `name:"tls"`
}

// Console configures the web console at /console/ of the admin listener. It shows the live traffic,
// finds notifications, and sends tests. Everyone signs in with an API key, or at an OpenID Connect
// provider (auth.oidc), and sees what that key or the rules of the provider allow.
type Console struct {
	// Turn the console off.
	Off bool `name:"off" default:"false"`
	// URL of the console in browsers, which ends in /console/. Only a sign-in at an OpenID Connect
	// provider needs it (auth.oidc[].sign_in).
	URL ConsoleURL `name:"url" example:"https://push.example.com/console/"`
	// How long a sign-in lasts. One with a key also ends when the key is removed or the gateway
	// restarts, and one at an OpenID Connect provider when the ID token expires.
	SessionLifetime time.Duration `name:"session_lifetime" default:"12h" allowed:"1m..168h"`
}

// TLS configures TLS 1.2 and later for a listener. The files are read again when their contents
// change; open connections continue. If new contents are invalid, the previous ones stay in use, and
// the log says why.
type TLS struct {
	// Certificate of the gateway, followed by its intermediate certificates, in PEM. It turns TLS on,
	// which needs a restart.
	CertFile File `name:"cert_file" example:"gateway.pem"`
	// Private key of the certificate in PEM, mode 0600.
	KeyFile File `name:"key_file" example:"gateway.key"`
	// Certificates of authorities in PEM. Clients must then have a certificate of one of them, in
	// addition to their API key unless auth.certificates names it; the log shows its name. Health checks of the listener need one too:
	// the admin listener has /readyz without it.
	ClientCAFile File `name:"client_ca_file" example:"clients.pem"`
}

// TLSBlock is a TLS block and its path in the file.
type TLSBlock struct {
	Path string
	TLS  *TLS
}

// TLSBlocks returns the TLS blocks of the API and of the admin listener.
func (c *Config) TLSBlocks() [2]TLSBlock {
	return [...]TLSBlock{{"tls", &c.TLS}, {"admin.tls", &c.Admin.TLS}}
}

// Pool configures the connected endpoints of one service. There is one pool per credential and URL.
type Pool struct {
	// Number of endpoints (addresses of the service) kept connected. More endpoints spread the load
	// and tolerate more failures; Apple treats many quick connections as an attack.
	Size int `name:"size" default:"8" allowed:"1..64"`
	// Age at which an endpoint is replaced. Up to 20 % is added at random, so that endpoints are
	// not replaced all at once.
	MaxAge time.Duration `name:"max_age" default:"10m" allowed:"10s..24h"`
	// How long the connections stay open while nothing is sent. They are opened again by the next
	// notification. 0s opens them at the start and keeps them open.
	IdleTimeout time.Duration `name:"idle_timeout" default:"30m" allowed:"0s..720h"`
	// Maximum requests in flight on one endpoint. Beyond it another endpoint is picked, or the
	// request waits. It limits how many requests an unresponsive endpoint can hold.
	InFlight int `name:"in_flight" default:"64" allowed:"1..10000"`
	// Connections to one endpoint. One connection carries hundreds of concurrent requests; more
	// help only on a path that loses packets.
	Connections int `name:"connections" default:"1" allowed:"1..16"`
	// Refuse immediately while every breaker is open, instead of trying an endpoint whose breaker
	// is open.
	FailFast bool `name:"fail_fast" default:"false"`
	// How a healthy endpoint is chosen.
	Picker string `name:"picker" default:"round_robin" allowed:"round_robin|least_loaded"`
	// Maximum percentage of endpoints that may be ejected at the same time. Beyond it the whole
	// service is probably failing, and requests are spread over all endpoints again.
	MaxEjected Percent `name:"max_ejected" default:"50%" allowed:"1%..100%"`
	Breaker    Breaker `name:"breaker"`
	Outlier    Outlier `name:"outlier"`
}

// Breaker configures when an endpoint is ejected, and for how long. Only failures of the endpoint
// count: a refused notification, a quota or a canceled call never does.
type Breaker struct {
	// Consecutive failures that open the breaker, no matter how far apart.
	Consecutive int `name:"consecutive" default:"5" allowed:"1..1000"`
	// Percentage of failures within the window above which the breaker opens.
	FailureRate Percent `name:"failure_rate" default:"50%" allowed:"1%..100%"`
	// Outcomes within the window before failure_rate applies. If this is too low, one failed
	// request ejects an endpoint.
	MinOutcomes int `name:"min_outcomes" default:"10" allowed:"1..100000"`
	// Window over which failure_rate is measured.
	Window time.Duration `name:"window" default:"5s" allowed:"2s..10m"`
	// Duration of the first ejection. Each further ejection doubles it; the same time without a
	// failure halves it again.
	Ejection time.Duration `name:"ejection" default:"10s" allowed:"100ms..1h"`
	// Maximum duration of an ejection.
	MaxEjection time.Duration `name:"max_ejection" default:"5m" allowed:"100ms..24h"`
	// Timeout of the one probe after an ejection. Keep it above retry.attempt_timeout.
	ProbeTimeout time.Duration `name:"probe_timeout" was:"trial" default:"10s" allowed:"100ms..10m"`
}

// Outlier configures when an endpoint is ejected because it performs worse than the other
// endpoints, although its breaker is closed.
type Outlier struct {
	// Turn outlier detection off; only the breaker ejects endpoints.
	Off bool `name:"off" default:"false"`
	// Endpoints with enough outcomes before they are compared.
	MinEndpoints int `name:"min_endpoints" default:"5" allowed:"2..64"`
	// Outcomes of an endpoint within ten seconds before its success rate is compared.
	MinOutcomes int `name:"min_outcomes" default:"100" allowed:"1..1000000"`
	// Percentage of failures that never ejects an endpoint. Some tokens get no response at some
	// addresses; the other tokens must not lose those addresses for it.
	MinFailures Percent `name:"min_failures" default:"10%" allowed:"1%..100%"`
	// Multiple of the median latency of the other endpoints from which an endpoint is slow. A slow
	// endpoint counts as a failing one.
	SlowFactor int `name:"slow_factor" default:"4" allowed:"2..1000"`
	// Minimum additional latency before an endpoint is slow.
	SlowBy time.Duration `name:"slow_by" default:"100ms" allowed:"1ms..1m"`
}

// Retry configures when a failed attempt is retried. A refusal never is. The provider block of an
// app may lower attempts, max_retry_after, budget and budget_floor, but not raise them.
type Retry struct {
	// Maximum attempts per notification, the first included; 1 never retries. Of the attempts that
	// provably did not reach the service, up to eight do not count.
	Attempts int `name:"attempts" default:"6" allowed:"1..10"`
	// Timeout of one attempt. It counts as a failure of the endpoint. If it is too short,
	// notifications that were still being processed are sent twice.
	AttemptTimeout time.Duration `name:"attempt_timeout" default:"5s" allowed:"100ms..2m"`
	// Maximum wait before the second attempt. It doubles with each attempt; the actual wait is
	// random, between zero and the maximum.
	Backoff time.Duration `name:"backoff" default:"50ms" allowed:"1ms..1m"`
	// The same after a provider has throttled the notification.
	ThrottledBackoff time.Duration `name:"throttled_backoff" default:"1s" allowed:"10ms..10m"`
	// Upper limit of both backoffs.
	MaxBackoff time.Duration `name:"max_backoff" default:"20s" allowed:"10ms..10m"`
	// What to do with a provider's Retry-After: comply waits at least that long, stop ends the
	// send, ignore uses the backoff and risks longer bans.
	RetryAfter string `name:"retry_after" default:"comply" allowed:"comply|stop|ignore"`
	// Longest Retry-After to wait for. If it is longer, the send ends, and its receipt says how
	// long to wait.
	MaxRetryAfter time.Duration `name:"max_retry_after" default:"20s" allowed:"1ms..10m"`
	// Retries as a percentage of the notifications of a credential. It prevents retries from
	// overloading a failing provider.
	Budget Percent `name:"budget" default:"15%" allowed:"0%..100%"`
	// Retries that a credential has in addition, so that a credential with little traffic can
	// retry. The same number of notifications probes a provider that is down; the others are
	// refused immediately.
	BudgetFloor Rate `name:"budget_floor" default:"10/s"`
	// Exceptions. The first rule that matches the outcome of an attempt applies. Rules in a
	// provider block replace all of these.
	Rules []Rule `name:"rules"`
}

// Rule is an exception for some outcomes of an attempt. It can forbid a retry or change its wait,
// but never allow one.
type Rule struct {
	// Outcome of the attempt. Empty matches every outcome.
	Verdict string `name:"verdict" example:"unavailable" allowed:"throttled|unauthorized|unavailable|unknown"`
	// Reason in the receipt, such as InternalServerError. Empty matches every reason.
	Reason string `name:"reason" example:"InternalServerError"`
	// Make a matching outcome final: do not retry.
	Stop bool `name:"stop" default:"false"`
	// Minimum wait, whatever the backoff. Google asks bulk senders to wait 10s after 500 and 503.
	MinWait time.Duration `name:"min_wait" example:"10s" was:"least" allowed:"0s..10m"`
	// Replaces retry.backoff or retry.throttled_backoff. 0s keeps them.
	Backoff time.Duration `name:"backoff" example:"10s" allowed:"0s..10m"`
	// Replaces retry.max_backoff. 0s keeps it.
	MaxBackoff time.Duration `name:"max_backoff" example:"1m" allowed:"0s..10m"`
}

// Quota configures how much may be sent to each provider.
type Quota struct {
	// Quota of each APNs credential.
	APNs Allowance `name:"apns"`
	// Quota of each FCM project. The default rate of 600000/min is what Google grants a project
	// unless it has told you otherwise. Gateways of one cluster (queue.nats.url) share it; gateways
	// without a cluster each need their own part of it.
	FCM Allowance `name:"fcm" preset:"rate=600000/min,subscription_rate=3000/s"`
	// Quota of each VAPID key.
	WebPush Allowance `name:"webpush"`
	// How the gateways of a cluster share these quotas. Limits of single devices and topics are not
	// shared.
	Shared Shared `name:"shared" restart:"true"`
}

// Shared configures what a gateway may send when it loses the connection to the cluster.
type Shared struct {
	// How long a gateway keeps its share without renewing it. The other gateways wait this long,
	// and a tenth longer, before they take the share of a gateway that has died. A longer lease
	// tolerates longer outages of the cluster; a shorter one wastes less when a gateway dies.
	Lease time.Duration `name:"lease" default:"5s" allowed:"2s..1h"`
	// Percentage of each quota reserved for gateways without a lease: before they have joined the
	// cluster, and after their lease has expired. It is divided equally among members. What is
	// reserved for gateways that do not run is not used.
	FallbackShare Percent `name:"fallback_share" was:"apart" default:"2%" allowed:"0%..100%"`
	// Maximum number of gateways. If more than that have no lease, together they can exceed the
	// quota.
	Members int `name:"members" default:"10" allowed:"1..1000"`
}

// Allowance is how much may be sent with one credential.
type Allowance struct {
	// All notifications together, such as 600000/min or 500/s. They are spread evenly, and no
	// interval of this length has more: use the unit in which the provider grants it. none sets no
	// limit, which is also the default except for FCM. The provider's own throttling is respected
	// in any case.
	Rate Rate `name:"rate"`
	// Notifications to one device; a burst of the whole count is allowed. FCM's limit for Android
	// is 240/min. Empty sets no limit.
	DeviceRate Rate `name:"device_rate" example:"240/min"`
	// The same over a longer time. FCM's limit for Android is 5000/h. Empty sets no limit.
	DeviceSustained Rate `name:"device_sustained" example:"5000/h"`
	// Notifications to one device that may replace an earlier one; a burst of the whole count is
	// allowed. FCM's limit is 20/h: a burst of 20, then one every three minutes. Empty sets no
	// limit.
	CollapsibleRate Rate `name:"collapsible_rate" example:"20/h"`
	// Notifications to one topic, condition or channel; a burst of the whole count is allowed.
	// Empty sets no limit.
	TopicRate Rate `name:"topic_rate" example:"100/min"`
	// Notifications to all topics, conditions and channels together, spread evenly. Each causes a
	// fan-out at the provider; Google runs a thousand fan-outs at a time. Empty sets no limit.
	TopicsRate Rate `name:"topics_rate" example:"1000/s"`
	// Changes and lists of topic subscriptions, spread evenly. FCM only, where Google grants a project
	// 3000/s. Gateways of a cluster do not share it.
	SubscriptionRate Rate `name:"subscription_rate" example:"3000/s"`
	// Additional limits for a part of the traffic. Scopes in a provider block replace all of these.
	Scopes []Scope `name:"scopes"`
}

// Shared reports whether the allowance limits more than single devices and topics, so that the
// gateways of a cluster share it.
func (a *Allowance) Shared() bool {
	return a.Rate != Rate{} || a.TopicsRate != Rate{} || len(a.Scopes) > 0
}

// Scope is an additional limit for some apps or lanes.
type Scope struct {
	// Name in status and metrics.
	Name string `name:"name" example:"campaigns" required:"true" allowed:"/^[A-Za-z0-9._-]{1,63}$/1 to 63 letters, digits, dots, dashes and underscores"`
	// Apps that the limit applies to. Empty means all apps that share the credential.
	Apps []string `name:"apps" example:"shop"`
	// Lanes that the limit applies to. Empty means all lanes.
	Lanes []string `name:"lanes" example:"bulk" allowed:"critical|normal|bulk"`
	// How much these may send together, spread evenly.
	Rate Rate `name:"rate" example:"100000/min" required:"true"`
}

// Proxy configures the way out of the network.
type Proxy struct {
	// URL of the proxy: http or https for HTTP CONNECT, or socks5, with host and port. It resolves the
	// names of the providers and receivers; the gateway does not. none connects directly. Empty uses
	// the environment variables HTTPS_PROXY and NO_PROXY; gateway check and the log say so.
	URL ProxyURL `name:"url"`
	// File with user:password for the proxy in one line, mode 0600.
	CredentialsFile File `name:"credentials_file" example:"proxy.txt"`
	// Root certificates of an https proxy to trust instead of those of the system, in PEM.
	CAFile File `name:"ca_file" example:"proxy-ca.pem"`
	// What is connected to directly: names with all their subdomains, .name for the subdomains alone,
	// IP addresses and networks. localhost and loopback addresses always are. For names, only the name
	// is compared.
	NoProxy []NoProxy `name:"no_proxy"`
}

// DNS configures how the addresses of the services are resolved.
type DNS struct {
	// Name servers, as ip:port, tried in order until one responds. Empty uses the name servers of
	// the system for Apple and Google, and the resolver of the system for mocks.
	Servers []Endpoint `name:"servers" example:"10.0.0.2:53"`
}

// Queue configures the queue, which keeps asynchronous notifications and their history on disk.
// Without dir and nats.url there is neither a queue nor a history: asynchronous calls, schedules,
// GET of a notification and the event feed are refused.
type Queue struct {
	// Folder of the embedded queue. It contains device tokens and message text: keep it private, on
	// a disk that survives a restart. Only one gateway can use it at a time.
	Dir  File `name:"dir" example:"/var/lib/sluice/queue"`
	NATS NATS `name:"nats"`
	// Encryption of what the queue and the history store.
	Encryption Encryption `name:"encryption" restart:"false"`
	// Maximum size of the pending notifications on disk; the same limit applies to scheduled ones.
	// Beyond it asynchronous calls are refused.
	MaxBytes Bytes `name:"max_bytes" default:"4GiB" allowed:"1MiB..1TiB"`
	// Disk space of dir that is reserved for notifications already accepted, in addition to what the
	// gateway expects them to need. If less is available, asynchronous calls are refused. On Linux a
	// file holds this space, so that other programs cannot use it. Without free space the gateway
	// cannot record what it sends, and stops sending.
	Reserve Bytes `name:"reserve" default:"256MiB" allowed:"1MiB..1TiB"`
	// Maximum notifications in flight from the queue, per app, platform and lane. More use the disk
	// better, but more are in doubt after a crash.
	InFlight int `name:"in_flight" default:"512" allowed:"1..10000"`
	// How long a notification without a ttl is retried after it was due. After that its last
	// outcome is final.
	RetryFor time.Duration `name:"retry_for" default:"24h" allowed:"1s..720h"`
}

// History configures the record of what happened to every notification, queued or not. It is stored
// with the queue.
type History struct {
	// Folder of the index. It can be deleted at any time: the gateway rebuilds it from the history.
	// Empty stores it beside the embedded queue, or in a temporary folder if the queue is in a
	// cluster.
	Dir File `name:"dir" example:"/var/lib/sluice/history"`
	// How long events are kept.
	MaxAge time.Duration `name:"max_age" default:"168h" allowed:"1h..8760h"`
	// Maximum size of the events on disk. Beyond it the oldest are deleted, whatever their age, except
	// for what waiting notifications still need. The index needs about a fifth in addition.
	MaxBytes Bytes `name:"max_bytes" default:"8GiB" allowed:"1MiB..1TiB"`
	// How long an Idempotency-Key is remembered; never longer than max_age.
	IdempotencyTTL time.Duration `name:"idempotency_ttl" was:"keep_keys" default:"24h" allowed:"1m..720h"`
}

// Encryption configures the encryption of what the queue and the history store, on the disk or in NATS:
// notifications with their targets, events and receipts (AES-256-GCM). The files of the index stay readable:
// they have IDs of notifications, names of apps, counts and hashes.
type Encryption struct {
	// Files with one key each, mode 0600, as gateway key encryption prints them. The first key encrypts
	// and all decrypt. To rotate, put a new key first, and remove the old one when GET /v1/status does not
	// list it any more. In a cluster, all gateways need a key before one of them encrypts with it: add it
	// at the end first. Without keys, nothing is encrypted.
	KeyFiles []File `name:"key_files" example:"sluice-2030.key"`
	// Whether new records are encrypted. With false, the keys only decrypt earlier ones.
	Enabled bool `name:"enabled" default:"true"`
}

// Broadcasts configures messages to an audience of up to millions of devices. They need a queue.
type Broadcasts struct {
	// Maximum number of lines of an audience.
	MaxLines int `name:"max_lines" default:"10000000" allowed:"1..1000000000"`
	// Maximum size of an audience. It is stored compressed, beside the queue.
	MaxBytes Bytes `name:"max_bytes" default:"8GiB" allowed:"1MiB..1TiB"`
	// Number of devices above which a broadcast starts only after another caller than the one that has
	// created it has approved it, with the scope approve. 0 needs no approval.
	ApproveAbove int `name:"approve_above" example:"10000" default:"0" allowed:"0..1000000000"`
	// How long a broadcast with its audience and results is kept after its end, or after its creation if it
	// was never started. The history keeps its notifications for history.max_age.
	Retention time.Duration `name:"retention" default:"168h" allowed:"1h..8760h"`
}

// NATS configures a JetStream cluster in place of the embedded queue.
type NATS struct {
	// URL of the cluster. A password in it is never printed.
	URL string `name:"url" example:"nats://nats-1.internal:4222,nats://nats-2.internal:4222" secret:"true" allowed:"/^(nats|tls|ws|wss)://.+$/a URL that starts with nats://, tls://, ws:// or wss://"`
	// Credentials of a NATS user: its JWT and seed, as nsc and the NATS cloud export them (.creds),
	// mode 0600. The file is read again at each reconnect.
	CredentialsFile File `name:"credentials_file" example:"sluice.creds"`
	// Seed of an NKey user, mode 0600.
	NKeyFile File `name:"nkey_file" example:"sluice.nk"`
	// Root certificates to trust instead of those of the system, in PEM. Requires TLS, also with
	// nats://.
	CAFile File `name:"ca_file" example:"nats-ca.pem"`
	// Client certificate in PEM, for servers with tls.verify. Requires TLS, too.
	CertFile File `name:"cert_file" example:"sluice.pem"`
	// Private key of the certificate in PEM, mode 0600.
	KeyFile File `name:"key_file" example:"sluice.key"`
	// Replicas of every message, an odd number. With one replica, messages are lost with its disk.
	Replicas int `name:"replicas" default:"3" allowed:"1|3|5"`
}

// Limits configures how much callers can use.
type Limits struct {
	// Maximum body size of a request with a single notification. Memory use grows with it.
	Body Bytes `name:"body" default:"1MiB" allowed:"1KiB..64MiB"`
	// Maximum number of notifications in a batch. Each target of an item counts.
	Batch int `name:"batch" default:"10000" allowed:"1..1000000"`
	// Maximum size of a notification in a batch.
	BatchItem Bytes `name:"batch_item" default:"64KiB" allowed:"1KiB..1MiB"`
	// Maximum notifications of one batch, or of one call with several targets, in flight at a time on
	// each platform. A high value lets one caller crowd out the others.
	BatchInFlight int `name:"batch_in_flight" default:"512" allowed:"1..100000"`
	// Timeout of a notification, with all its waits and attempts. When it expires, the response
	// says what is known by then. Keep it above retry.attempt_timeout, and below drain.grace and
	// the timeouts of your callers.
	SendTimeout time.Duration `name:"send_timeout" was:"send_time" default:"25s" allowed:"100ms..10m"`
	// Latency that the gateway aims for. It is reported to clients; nothing is cancelled when a
	// notification takes longer.
	TargetLatency time.Duration `name:"target_latency" restart:"true" was:"target_time" default:"1s" allowed:"1ms..10m"`
	// Maximum notifications in flight in the whole gateway, whatever they wait for. At the limit,
	// or at four fifths of it for one app and platform, single calls get 503, and the items of a
	// batch wait. Each needs about 35 KiB with its caller's connection, in a batch 13 KiB: the
	// default needs up to 350 MB.
	InFlight int `name:"in_flight" restart:"true" default:"10000" allowed:"16..1000000"`
	// Requests in flight that the gateway recommends to its callers, over all connections. Each
	// connection is told its part, and the Go client respects it. No request is refused because of
	// it.
	Concurrency int `name:"concurrency" restart:"true" default:"4096" allowed:"8..1000000"`
	// How long the gateway remembers that a provider has declared a token unregistered, and answers
	// for the provider. 0s sends every time.
	UnregisteredTTL time.Duration `name:"unregistered_ttl" was:"dead_tokens" default:"24h" allowed:"0s..720h"`
	// Timeout for the header of a request, from its first byte; for the first request on a connection, from its start.
	HeaderTimeout time.Duration `name:"header_timeout" restart:"true" default:"10s" allowed:"100ms..10m"`
	// How long a connection without a request stays open. Keep it above the idle timeout of the proxy or load balancer in
	// front of the gateway (600 s is common): otherwise it can send a request on a connection that the gateway closes.
	IdleTimeout time.Duration `name:"idle_timeout" restart:"true" default:"11m" allowed:"1s..24h"`
	// Maximum connections of clients, and never more than half of the files that the process may open (ulimit -n): the other
	// half is reserved for connections to providers and for the queue. At the limit, a new connection replaces the one that
	// has been without a request for the longest time.
	Connections int `name:"connections" restart:"true" default:"20000" allowed:"16..1000000"`
	// Timeout for receiving a request body; in a batch, the next notification. It ends calls that
	// stall.
	BodyTimeout time.Duration `name:"body_timeout" was:"body_time" default:"15s" allowed:"100ms..10m"`
}

// AuditLog configures the record of who did what: refused credentials, cancels, changes of channels and of
// the configuration, and the calls of administrators. It contains no credential, text or target. With a
// queue it is stored beside the history, and GET /v1/audit reads it; without one, it is written to the
// log.
type AuditLog struct {
	// Turn the audit log on.
	Enabled bool `name:"enabled" example:"true" default:"false"`
	// Record each call that sends, too, with the number of its notifications.
	Sends bool `name:"sends" example:"true" default:"false"`
	// How long records are kept.
	MaxAge time.Duration `name:"max_age" default:"2160h" allowed:"1h..87600h"`
	// Maximum size of the records on disk. Beyond it the oldest are deleted, whatever their age.
	MaxBytes Bytes `name:"max_bytes" default:"256MiB" allowed:"1MiB..1TiB"`
}

// Log configures what is written to standard error.
type Log struct {
	// Lowest level that is written.
	Level string `name:"level" default:"info" allowed:"debug|info|warn|error"`
	// json for machines, text for people; auto picks text on a terminal and json elsewhere.
	Format string `name:"format" default:"auto" allowed:"auto|json|text"`
}

// Tracing exports OpenTelemetry traces of calls, waits and attempts. A receiver that cannot be reached
// delays nothing: spans that do not fit into a buffer of a few MiB are dropped and counted.
type Tracing struct {
	// URL of a receiver of OTLP, such as an OpenTelemetry Collector, usually with port 4317 for grpc and
	// 4318 for http. http:// is without TLS. Empty turns tracing off.
	Endpoint TracesURL `name:"endpoint"`
	// grpc or http. With http, a URL without a path gets /v1/traces.
	Protocol string `name:"protocol" example:"http" default:"grpc" allowed:"grpc|http"`
	// Root certificates to trust instead of those of the system, in PEM.
	CAFile File `name:"ca_file" example:"collector-ca.pem"`
	// Client certificate in PEM, for receivers that require one.
	CertFile File `name:"cert_file" example:"gateway.pem"`
	// Private key of the certificate in PEM, mode 0600.
	KeyFile File `name:"key_file" example:"gateway.key"`
	// File with headers to send, such as the credentials of a service: one on each line, as Name: value,
	// mode 0600.
	HeadersFile File `name:"headers_file" example:"collector-headers.txt"`
	// Share of the calls that are traced, and of the notifications in a batch that is. 100% traces
	// everything, which takes about as much CPU as sending.
	SampleRatio Percent `name:"sample_ratio" example:"5%" default:"1%" allowed:"0%..100%"`
	// Trace a call that has a traceparent if its caller does, and only then. sample_ratio is for the
	// other calls.
	ParentBased bool `name:"parent_based" default:"true"`
	// Name of the gateway in traces (service.name). OTEL_RESOURCE_ATTRIBUTES in the environment adds
	// further attributes.
	ServiceName string `name:"service_name" example:"push-gateway" default:"sluice" allowed:"/^[A-Za-z0-9._/-]{1,63}$/1 to 63 letters, digits, dots, dashes, underscores and slashes"`
}

// Readiness configures when /readyz reports that the gateway is ready. It always requires that the
// gateway can accept notifications: it does not drain, and it can write to its queue.
type Readiness struct {
	// Providers that must be connected in addition: none, any (at least one), or all. With any or
	// all, an outage of a provider makes every gateway not ready, and load balancers stop the
	// traffic to the other providers and to the queue too. Providers without a connection because
	// nothing has been sent to them do not count.
	Providers string `name:"providers" default:"none" allowed:"none|any|all"`
}

// Drain configures how a gateway shuts down.
type Drain struct {
	// How long the gateway keeps accepting requests after SIGTERM, while /readyz reports that it is
	// not ready. Load balancers that check /readyz need this time to route new requests elsewhere:
	// set it a little above the time they take to notice.
	Delay time.Duration `name:"delay" default:"0s" allowed:"0s..10m"`
	// How long requests in flight may take after that. Keep delay plus grace below the termination
	// grace period of your platform, or accepted notifications are cut off.
	Grace time.Duration `name:"grace" default:"30s" allowed:"0s..1h"`
}
