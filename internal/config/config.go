// SPDX-License-Identifier: Apache-2.0

// Package config is the configuration file: it reads, fills in defaults, lets the environment override, validates and
// explains. It opens no key file, starts nothing and knows no other package of ours.
package config

import "time"

// The comments of the fields below are the manual: Schema and Reference print them as they stand here. The tags are
// name (the key in the file), default, preset (defaults of keys within a block), allowed (words with | between them, a range
// lo..hi, or /pattern/ and its meaning), required, inherit (the block of Config that this one starts as a copy of) and
// secret (never print the value).

// Config is a whole configuration file.
type Config struct {
	// Where the API answers, host:port. Anything but loopback is reachable by others and speaks plain HTTP: put TLS in
	// front of it. Port 0 takes a free one.
	Listen Address `name:"listen" default:"127.0.0.1:8080"`
	Admin  Admin   `name:"admin"`
	// The zone that this gateway runs in. It is told to clients, who prefer the gateways of their own, and shown in
	// /v1/status.
	Zone string `name:"zone" allowed:"/^[A-Za-z0-9._-]{0,63}$/up to 63 letters, digits, dots, dashes and underscores"`

	// Pool, Retry and Quota come before Apps: what stands here is what every app's provider starts from.

	Pool  Pool  `name:"pool"`
	Retry Retry `name:"retry"`
	Quota Quota `name:"quota"`
	// The apps that may send, by the name in the URL (/v1/apps/NAME/notifications).
	Apps    map[string]*App `name:"apps" required:"true"`
	DNS     DNS             `name:"dns"`
	Queue   Queue           `name:"queue"`
	History History         `name:"history"`
	Limits  Limits          `name:"limits"`
	Log     Log             `name:"log"`
	Drain   Drain           `name:"drain"`
}

// Admin is the listener for operators.
type Admin struct {
	// Where /metrics and /debug/pprof answer, host:port. It asks for no key: keep it on loopback or behind a firewall.
	Listen Address `name:"listen" default:"127.0.0.1:9090"`
}

// Pool says how the live endpoints of one service are kept. There is one pool per credential and URL.
type Pool struct {
	// Endpoints (addresses of the service) kept connected. More spread the load and survive more failures; Apple takes
	// many quick connections for an attack.
	Size int `name:"size" default:"8" allowed:"1..64"`
	// Age at which an endpoint is replaced, lengthened by up to 20 % at random so that they do not all go at once.
	MaxAge time.Duration `name:"max_age" default:"10m" allowed:"10s..24h"`
	// Requests in flight on one endpoint; beyond it another is picked, or the request waits. It bounds what a silent
	// endpoint can hold up.
	InFlight int `name:"in_flight" default:"64" allowed:"1..10000"`
	// Connections to one endpoint. One carries hundreds of requests at a time; more only helps where a link loses packets.
	Connections int `name:"connections" default:"1" allowed:"1..16"`
	// Refuse at once while every breaker is open, instead of trying an opened endpoint.
	FailFast bool `name:"fail_fast" default:"false"`
	// How one of the healthy endpoints is chosen.
	Picker string `name:"picker" default:"round_robin" allowed:"round_robin|least_loaded"`
	// Share of the live endpoints that may be kept from traffic at once. Beyond it the trouble is likely the whole service's,
	// and requests are spread over all of them again.
	MaxEjected Percent `name:"max_ejected" default:"50%" allowed:"1%..100%"`
	Breaker    Breaker `name:"breaker"`
	Outlier    Outlier `name:"outlier"`
}

// Breaker says when an endpoint is ejected, and for how long. Only failures that are the endpoint's own count: never a
// refused notification, a quota or a caller who left.
type Breaker struct {
	// Failures in a row that open it, however far apart.
	Consecutive int `name:"consecutive" default:"5" allowed:"1..1000"`
	// Share of failures within the window beyond which it opens.
	FailureRate Percent `name:"failure_rate" default:"50%" allowed:"1%..100%"`
	// Outcomes within the window before the share counts at all: too few, and one unlucky request ejects an endpoint.
	MinOutcomes int `name:"min_outcomes" default:"10" allowed:"1..100000"`
	// The window that the share is taken over.
	Window time.Duration `name:"window" default:"5s" allowed:"2s..10m"`
	// How long the first ejection lasts. Each further one doubles it; as much time in health takes one doubling back.
	Ejection time.Duration `name:"ejection" default:"10s" allowed:"100ms..1h"`
	// Longest that an ejection grows.
	MaxEjection time.Duration `name:"max_ejection" default:"5m" allowed:"100ms..24h"`
	// How long the one probe after an ejection may take. Keep it above retry.attempt_timeout.
	ProbeTimeout time.Duration `name:"trial" default:"10s" allowed:"100ms..10m"`
}

// Outlier says when an endpoint is ejected for being worse than its peers, though its breaker would bear it.
type Outlier struct {
	// Leave the ejecting to the breaker alone.
	Off bool `name:"off" default:"false"`
	// Endpoints with enough outcomes before they are compared.
	MinEndpoints int `name:"min_endpoints" default:"5" allowed:"2..64"`
	// Outcomes of an endpoint within ten seconds before its success rate is compared.
	MinOutcomes int `name:"min_outcomes" default:"100" allowed:"1..1000000"`
	// Share of failures that is always borne. Some tokens find no answer on some addresses; the others must not lose those
	// addresses for it.
	MinFailures Percent `name:"min_failures" default:"10%" allowed:"1%..100%"`
	// An endpoint whose median answer takes so many times that of its peers is slow, and slow is a failure too.
	SlowFactor int `name:"slow_factor" default:"4" allowed:"2..1000"`
	// But only if it takes this much longer, too.
	SlowBy time.Duration `name:"slow_by" default:"100ms" allowed:"1ms..1m"`
}

// Retry says when a failed attempt is followed by another. A refusal never is. An app's provider may lower attempts,
// max_retry_after, budget and budget_floor, and not raise them.
type Retry struct {
	// Attempts at one notification, the first included; 1 never retries. Of those that provably reached no service, up to
	// eight do not count.
	Attempts int `name:"attempts" default:"3" allowed:"1..10"`
	// How long an endpoint may take over one attempt; its fault when it runs out. Too short doubles notifications that
	// were on their way.
	AttemptTimeout time.Duration `name:"attempt_timeout" default:"5s" allowed:"100ms..2m"`
	// Longest wait before the second attempt; it doubles with each, and the wait is drawn at random below it.
	Backoff time.Duration `name:"backoff" default:"50ms" allowed:"1ms..1m"`
	// The same after a provider's "too much".
	ThrottledBackoff time.Duration `name:"throttled_backoff" default:"1s" allowed:"10ms..10m"`
	// Longest that either grows.
	MaxBackoff time.Duration `name:"max_backoff" default:"20s" allowed:"10ms..10m"`
	// What a provider's Retry-After counts for: comply waits at least that long, stop ends the send, ignore waits as if
	// there were none and invites longer bans.
	RetryAfter string `name:"retry_after" default:"comply" allowed:"comply|stop|ignore"`
	// Longest Retry-After that is waited for. Beyond it the send ends, and its receipt says how long to wait.
	MaxRetryAfter time.Duration `name:"max_retry_after" default:"20s" allowed:"1ms..10m"`
	// Retries for each hundred notifications of a credential. It keeps a failing provider from being buried under repeats.
	Budget Percent `name:"budget" default:"10%" allowed:"0%..100%"`
	// Retries that a credential has besides, so that a quiet one can retry at all. As many notifications probe a provider
	// that is down; the others are answered at once.
	BudgetFloor Rate `name:"budget_floor" default:"3/s"`
	// Exceptions. Of those that match an attempt's end the first counts. Rules under a provider stand in for all of these.
	Rules []Rule `name:"rules"`
}

// Rule is an exception for some ends of an attempt. It can forbid another or change its wait, never allow one.
type Rule struct {
	// How the attempt ended. Empty means every end.
	Verdict string `name:"verdict" allowed:"throttled|unauthorized|unavailable|unknown"`
	// The reason in its receipt, such as InternalServerError. Empty means every reason.
	Reason string `name:"reason"`
	// No further attempt.
	Stop bool `name:"stop" default:"false"`
	// A wait that no backoff goes below. Google asks senders in bulk for 10s after 500 and 503.
	MinWait time.Duration `name:"least" allowed:"0s..10m"`
	// In place of retry.backoff or retry.throttled_backoff. 0s leaves those.
	Backoff time.Duration `name:"backoff" allowed:"0s..10m"`
	// In place of retry.max_backoff. 0s leaves that.
	MaxBackoff time.Duration `name:"max_backoff" allowed:"0s..10m"`
}

// Quota is how much may be sent to each provider.
type Quota struct {
	// Of each APNs credential.
	APNs Allowance `name:"apns"`
	// Of each FCM project. Its rate is 600000/min by default, which is what Google grants a project unless you were told
	// otherwise. Gateways of one cluster (queue.nats.url) share that; where several have no cluster, give each its part.
	FCM Allowance `name:"fcm" preset:"rate=600000/min"`
	// Of each VAPID key.
	WebPush Allowance `name:"webpush"`
	// How the gateways of a cluster share all of these but the limits of single devices and topics.
	Shared Shared `name:"shared"`
}

// Shared says what becomes of a gateway's share of the quotas when it loses touch with the cluster.
type Shared struct {
	// How long it goes on with the share that it has. As long, and a tenth more, the others wait for the share of a gateway
	// that has died. Longer bears longer troubles of the cluster; shorter loses less with a gateway.
	Lease time.Duration `name:"lease" default:"5s" allowed:"2s..1h"`
	// What it has when that time is over, and before it has found the cluster: together the gateways that there can be have
	// this part of each quota, each as much as any other. What is set apart for gateways that are not there is lost.
	FallbackShare Percent `name:"apart" default:"2%" allowed:"0%..100%"`
	// How many gateways there can be at a time. More out of touch than that send more than the quota.
	Members int `name:"members" default:"10" allowed:"1..1000"`
}

// Allowance is how much may be sent with one credential.
type Allowance struct {
	// All notifications together, such as 600000/min or 500/s, spread evenly, and never more in any such time: say it as the
	// provider grants it. none sets no limit, and so does empty but for FCM; a provider's own refusals are obeyed either way.
	Rate Rate `name:"rate"`
	// Notifications to one device, which may come at once: 240/min is FCM's limit for Android. Empty sets no limit.
	DeviceRate Rate `name:"device_rate"`
	// The same over a longer time: 5000/h is FCM's limit for Android. Empty sets no limit.
	DeviceSustained Rate `name:"device_sustained"`
	// Notifications to one device that may replace an earlier one, which may come at once: 20/h is FCM's limit, twenty and
	// then one in three minutes. Empty sets no limit.
	CollapsibleRate Rate `name:"collapsible_rate"`
	// Notifications to one topic, condition or channel, which may come at once. Empty sets no limit.
	TopicRate Rate `name:"topic_rate"`
	// Notifications to all topics, conditions and channels together, spread evenly. Each is a fan-out at the provider, of
	// which Google runs a thousand at a time. Empty sets no limit.
	TopicsRate Rate `name:"topics_rate"`
	// Limits of your own for a part of the traffic. Scopes under a provider stand in for all of these.
	Scopes []Scope `name:"scopes"`
}

// Scope is a limit of the operator's own.
type Scope struct {
	// What status and metrics call it.
	Name string `name:"name" required:"true" allowed:"/^[A-Za-z0-9._-]{1,63}$/1 to 63 letters, digits, dots, dashes and underscores"`
	// The apps that it holds. Empty means all that share the credential.
	Apps []string `name:"apps"`
	// The lanes that it holds. Empty means all.
	Lanes []string `name:"lanes" allowed:"critical|normal|bulk"`
	// How much they may send together, spread evenly.
	Rate Rate `name:"rate" required:"true"`
}

// DNS says who knows the addresses of the services.
type DNS struct {
	// Name servers, as ip:port, asked in turn until one answers. Empty asks the system's for Apple's and Google's services,
	// and the system's resolver for stand-ins.
	Servers []Endpoint `name:"servers"`
}

// Queue keeps what is accepted for later on disk until it has ended, and the history of it. Without dir and nats.url there
// is neither: asynchronous calls, schedules, GET of a notification and the feed of events are refused.
type Queue struct {
	// Folder of the embedded queue. It holds device tokens and message text: keep it private and on a disk that survives a
	// restart. One gateway at a time can have it.
	Dir  File `name:"dir"`
	NATS NATS `name:"nats"`
	// Most that may wait on disk, and as much again that is scheduled; beyond it asynchronous calls are refused.
	MaxBytes Bytes `name:"max_bytes" default:"4GiB" allowed:"1MiB..1TiB"`
	// Room on the disk of dir that is left to what has been accepted already: below it asynchronous calls are refused.
	// Without room nobody can write down what was sent, and nothing is.
	Reserve Bytes `name:"reserve" default:"256MiB" allowed:"1MiB..1TiB"`
	// Notifications of one app and lane that the queue has on their way at a time. More use the disk better, and are more
	// that can be in doubt after a crash.
	InFlight int `name:"in_flight" default:"512" allowed:"1..10000"`
	// How long after it was due a notification without ttl is tried again. Then it ends as what it met last.
	RetryFor time.Duration `name:"retry_for" default:"24h" allowed:"1s..720h"`
}

// History is what has become of every notification, of the queue's and of others. It is kept where the queue is.
type History struct {
	// Folder of the index, which can be thrown away at any time: it is made anew from the history. Empty puts it beside the
	// embedded queue; with a cluster, into a temporary folder.
	Dir File `name:"dir"`
	// How long events are kept.
	MaxAge time.Duration `name:"max_age" default:"168h" allowed:"1h..8760h"`
	// Most that they take on disk; beyond it the oldest go, whatever their age. The index takes about as much again.
	MaxBytes Bytes `name:"max_bytes" default:"8GiB" allowed:"1MiB..1TiB"`
	// How long an Idempotency-Key is known; never longer than max_age.
	IdempotencyTTL time.Duration `name:"keep_keys" default:"24h" allowed:"1m..720h"`
}

// NATS is a JetStream cluster in place of the embedded queue.
type NATS struct {
	// Where it answers. A password in it is never printed.
	URL string `name:"url" secret:"true" allowed:"/^(nats|tls|ws|wss)://.+$/a URL that starts with nats://, tls://, ws:// or wss://"`
	// Copies of every message, an odd number. One copy is lost with its disk.
	Replicas int `name:"replicas" default:"3" allowed:"1|3|5"`
}

// Limits bound what one caller may ask for.
type Limits struct {
	// Largest body of a single notification's request. Memory in use grows with it.
	Body Bytes `name:"body" default:"1MiB" allowed:"1KiB..64MiB"`
	// Notifications in one batch.
	Batch int `name:"batch" default:"10000" allowed:"1..1000000"`
	// Largest notification in a batch.
	BatchItem Bytes `name:"batch_item" default:"64KiB" allowed:"1KiB..1MiB"`
	// Notifications of one batch that are sent at a time. More let one caller crowd out the others.
	BatchInFlight int `name:"batch_in_flight" default:"512" allowed:"1..100000"`
	// How long a notification may take until its verdict, with all its waits and attempts; then it is answered with what
	// is known. Keep it above retry.attempt_timeout and below drain.grace and the callers' own patience.
	SendTimeout time.Duration `name:"send_time" default:"25s" allowed:"100ms..10m"`
	// Time within which a notification is meant to have its verdict. Clients are told; nothing is ended by it.
	TargetLatency time.Duration `name:"target_time" default:"1s" allowed:"1ms..10m"`
	// Notifications that the gateway carries at a time, whatever they wait for. Beyond it, and for one app and platform
	// beyond four fifths of it, single ones are answered 503, and those of a batch wait. Each costs some 35 KiB with its
	// caller's connection, in a batch 13 KiB: the default is good for 350 MB.
	InFlight int `name:"in_flight" default:"10000" allowed:"16..1000000"`
	// Requests that the gateway would have in flight at a time, all connections together; each is told its share, and our
	// client keeps to it. Nobody is refused by it.
	Concurrency int `name:"concurrency" default:"4096" allowed:"8..1000000"`
	// How long a token that its provider declared dead is answered here, as unregistered, instead of being sent again; 0s
	// sends every time.
	UnregisteredTTL time.Duration `name:"dead_tokens" default:"24h" allowed:"0s..720h"`
	// How long a body may take to arrive; in a batch, the next notification. It ends callers who stall.
	BodyTimeout time.Duration `name:"body_time" default:"15s" allowed:"100ms..10m"`
}

// Log says what is written to standard error.
type Log struct {
	// The least level that is written.
	Level string `name:"level" default:"info" allowed:"debug|info|warn|error"`
	// json for machines, text for people, auto for text on a terminal and json elsewhere.
	Format string `name:"format" default:"auto" allowed:"auto|json|text"`
}

// Drain is the end of a gateway's life.
type Drain struct {
	// How long it goes on as before after SIGTERM, but for /readyz, which says no. Load balancers that ask /readyz need it
	// to send new requests elsewhere: give it a little more than they take to notice.
	Delay time.Duration `name:"delay" default:"0s" allowed:"0s..10m"`
	// How long what is in flight may take after that. Keep both together below the grace that your platform grants, or
	// accepted notifications are cut.
	Grace time.Duration `name:"grace" default:"30s" allowed:"0s..1h"`
}
