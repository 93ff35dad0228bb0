// SPDX-License-Identifier: Apache-2.0

package config

import (
	"fmt"
	"maps"
	"slices"
)

// App is one sender and its credentials at the providers. A provider without a block is not
// available to the app.
type App struct {
	// API keys that may act for this app. Several valid keys allow a key rotation without downtime.
	// Required, unless auth names the callers.
	Keys []Key `name:"keys"`
	// Weight of the app where several apps wait for the same quota: an app of weight 3 gets three
	// turns for each turn of an app of weight 1. The others use what it does not need.
	Weight  int      `name:"weight" default:"1" allowed:"1..1000"`
	APNs    *APNs    `name:"apns"`
	FCM     *FCM     `name:"fcm"`
	WebPush *WebPush `name:"webpush"`
	// Receivers of the app's events. They need the queue.
	Webhooks []Webhook `name:"webhooks"`
}

// ProxyBlock is a proxy block and its path in the file.
type ProxyBlock struct {
	Path  string
	Proxy *Proxy
}

// Proxies returns the proxy block of the file, those of the token issuers and those of the apps.
func (c *Config) Proxies() []ProxyBlock {
	blocks := []ProxyBlock{{"proxy", &c.Proxy}}
	add := func(path string, p *Proxy) {
		if p != nil {
			blocks = append(blocks, ProxyBlock{path + ".proxy", p})
		}
	}
	for i := range c.Auth.OIDC {
		add(fmt.Sprintf("auth.oidc[%d]", i), c.Auth.OIDC[i].Proxy)
	}
	for _, name := range slices.Sorted(maps.Keys(c.Apps)) {
		app, path := c.Apps[name], "apps."+name
		if app.APNs != nil {
			add(path+".apns", app.APNs.Proxy)
		}
		if app.FCM != nil {
			add(path+".fcm", app.FCM.Proxy)
		}
		if app.WebPush != nil {
			add(path+".webpush", app.WebPush.Proxy)
		}
		for i := range app.Webhooks {
			add(fmt.Sprintf("%s.webhooks[%d]", path, i), app.Webhooks[i].Proxy)
		}
	}
	return blocks
}

// Key is one API key, stored as its hash. `gateway key` generates both.
type Key struct {
	// Name of the key in logs and metrics.
	Name string `name:"name" example:"backend" required:"true" allowed:"/^[A-Za-z0-9._-]{1,63}$/1 to 63 letters, digits, dots, dashes and underscores"`
	// SHA-256 of the key, as gateway key prints it. Never put the key itself here.
	Hash string `name:"hash" example:"sha256:9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08" required:"true" secret:"true" allowed:"/^sha256:[0-9a-f]{64}$/sha256: and 64 hex digits, as gateway key prints it"`
	// What the key allows. send sends notifications and cancels them. broadcasts sends broadcasts, and
	// single notifications to topics, conditions and channels only. approve approves large broadcasts of
	// other callers. read reads notifications, channels and the status, and includes
	// events, which reads the event feed. channels creates and deletes broadcast channels: deleting a
	// channel removes it for all its subscribers. It also changes topic subscriptions of FCM.
	Scopes []string `name:"scopes" default:"send,read" allowed:"send|read|events|channels|broadcasts|approve"`
	// When the key becomes valid. Empty: at once.
	NotBefore Time `name:"not_before"`
	// When the key expires. A week before, the log and sluice_key_expiry_timestamp_seconds say so. Empty:
	// never.
	ExpiresAt Time `name:"expires_at"`
	// How many notifications and other requests the holder may send; a burst of the whole count is
	// allowed. Beyond it, calls get 429, and a batch is read more slowly. Empty sets no limit.
	Rate Rate `name:"rate" example:"500/s"`
	// Maximum synchronous notifications in flight for the holder. Beyond it, calls get 429, and a batch
	// is read more slowly. 0 sets no limit.
	Concurrency int `name:"concurrency" example:"100" default:"0" allowed:"0..1000000"`
}

// Webhook is a receiver of an app's events. They are posted in batches, signed as
// standardwebhooks.com specifies. Events that the receiver does not accept are retried for a day,
// and then listed in the status. If the receiver answers 410, the webhook is disabled until its
// url, secret, events or networks change.
type Webhook struct {
	// Name in logs and status. The position in the event stream is stored under this name: a new
	// name starts with the next event.
	Name string `name:"name" example:"crm" required:"true" allowed:"/^[A-Za-z0-9._-]{1,63}$/1 to 63 letters, digits, dots, dashes and underscores"`
	// URL that the events are posted to. It is never printed, because its path may contain a
	// secret.
	URL URL `name:"url" example:"https://crm.example.com/push-events" required:"true" secret:"true"`
	// Secret for the signature: whsec_ and 24 to 64 bytes in base64. Prefer secret_file.
	Secret string `name:"secret" example:"whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw" secret:"true" allowed:"/^whsec_[A-Za-z0-9+/]{32,88}={0,2}$/whsec_ and 24 to 64 bytes in base64"`
	// File with the secret, mode 0600. To rotate the secret, put the new and the old one on a line
	// each.
	SecretFile File `name:"secret_file" example:"crm.secret"`
	// Statuses to report, also those of broadcasts. Empty reports every final status of notifications.
	Events []string `name:"events" example:"unregistered,refused" allowed:"queued|scheduled|sending|accepted|unregistered|refused|throttled|unauthorized|unavailable|unknown|expired|cancelled|broadcast.started|broadcast.running|broadcast.paused|broadcast.recalling|broadcast.completed|broadcast.cancelled|broadcast.recalled|broadcast.expired"`
	// Private networks that the receiver may be in, such as 10.0.0.0/8. By default only public
	// addresses are called, even if the name resolves to a private one.
	Networks []Network `name:"networks"`
	// Root certificates to trust instead of those of the system, in PEM.
	CAFile File   `name:"ca_file" example:"crm-ca.pem"`
	Proxy  *Proxy `name:"proxy"`
}

// APNs is an app's access to Apple: a token key (key_file, key_id, team_id) or a client certificate
// (cert_file, cert_key_file).
type APNs struct {
	// The .p8 key from Apple's developer site, mode 0600: anyone who can read it can push to all
	// your apps.
	KeyFile File `name:"key_file" example:"AuthKey_ABC123DEFG.p8"`
	// ID of the key, 10 characters; Apple shows it beside the key and in the file name.
	KeyID string `name:"key_id" example:"ABC123DEFG" allowed:"/^[A-Z0-9]{10}$/10 capital letters and digits"`
	// ID of the team, 10 characters, from the membership page.
	TeamID string `name:"team_id" example:"DEF123GHIJ" allowed:"/^[A-Z0-9]{10}$/10 capital letters and digits"`
	// Bundle ID of the app. The gateway adds suffixes such as .voip according to the push type. A
	// certificate for a single topic needs none.
	Topic string `name:"topic" example:"com.example.shop" allowed:"/^[A-Za-z0-9][A-Za-z0-9.-]{0,254}$/a bundle ID: letters, digits, dots and dashes"`
	// Environment of notifications that name none (apns.environment). A device token or channel
	// belongs to one environment and is invalid in the other.
	Environment string `name:"environment" example:"sandbox" default:"production" allowed:"production|sandbox"`
	// Client certificate in PEM, instead of a token key.
	CertFile File `name:"cert_file" example:"shop-apns.pem"`
	// Private key of the certificate in PEM, mode 0600.
	CertKeyFile File `name:"cert_key_file" example:"shop-apns.key"`
	// Try a token that one environment does not accept (BadDeviceToken) in the other environment,
	// once, and remember where it was accepted. Applies to notifications that name no environment.
	// A token that is invalid in both costs one additional refused request.
	LearnEnvironment bool `name:"learn_environment" example:"true" default:"false"`
	// URL to use instead of Apple's, such as that of a mock. It serves both environments. For a
	// mock that distinguishes them, leave url out and set endpoints.
	URL Base `name:"url"`
	// URL to use instead of Apple's channel management, for both environments. If url or endpoints
	// is set and manage_url is not, there is no channel management, so that no test reaches Apple.
	ManageURL Base `name:"manage_url" example:"https://localhost:2196"`
	// Addresses to use instead of those that DNS returns, as ip:port. For development and tests
	// only: they are not updated when Apple's addresses change.
	Endpoints []Endpoint `name:"endpoints"`
	// Root certificates to trust instead of those of the system, in PEM. For mocks with their own
	// certificate.
	CAFile File      `name:"ca_file" example:"mock-ca.pem"`
	Proxy  *Proxy    `name:"proxy"`
	Pool   Pool      `name:"pool" inherit:"Pool"`
	Retry  Retry     `name:"retry" inherit:"Retry"`
	Quota  Allowance `name:"quota" inherit:"Quota.APNs"`
}

// FCM is an app's access to Firebase Cloud Messaging, HTTP v1.
type FCM struct {
	// The service account's JSON key from the Firebase console, mode 0600: anyone who can read it
	// can push to your project. Also accepted: a workload identity federation file
	// (external_account) or an impersonated service account; the gateway uses the URLs and files
	// named in them. Empty uses Google's application default credentials: the file named by
	// GOOGLE_APPLICATION_CREDENTIALS, else gcloud's, else the service account of the machine or
	// workload on Google Cloud.
	ServiceAccountFile File `name:"service_account_file" example:"shop-firebase.json"`
	// Project to send in. Empty uses the project of the service account's key, or of the machine.
	ProjectID string `name:"project_id" example:"shop-1234" allowed:"/^[a-z0-9][a-z0-9:.-]{0,62}$/a project's ID or number"`
	// Send a notification to a registration token that is unregistered once more, to the Firebase
	// installation ID in the token, and remember where that was accepted. Devices whose app has moved
	// to installation IDs stay reachable, and receipts and events have the ID as replaced. A token of a
	// device that is gone costs one additional refused request a day.
	LearnInstallation bool `name:"learn_installation" example:"true" default:"false"`
	// URL of the service, or of a mock.
	URL Base `name:"url" default:"https://fcm.googleapis.com"`
	// URL where access tokens are fetched with a service account's key. Empty uses the URL in the
	// key file.
	TokenURL URL `name:"token_url" example:"https://localhost:4431/token"`
	// Addresses to use instead of those that DNS returns, as ip:port. For development and tests.
	Endpoints []Endpoint `name:"endpoints" example:"127.0.0.1:4430"`
	// Root certificates to trust instead of those of the system, in PEM, for url and token_url. For
	// mocks.
	CAFile File      `name:"ca_file" example:"mock-ca.pem"`
	Proxy  *Proxy    `name:"proxy"`
	Pool   Pool      `name:"pool" inherit:"Pool"`
	Retry  Retry     `name:"retry" inherit:"Retry"`
	Quota  Allowance `name:"quota" inherit:"Quota.FCM"`
}

// WebPush is an app's access to the push services of browsers.
type WebPush struct {
	// VAPID private key in PEM, as `gateway key vapid` generates it, or in base64url. Subscriptions
	// are bound to this key: if you lose it, you lose all of them.
	VAPIDKeyFile File `name:"vapid_key_file" example:"vapid.pem" required:"true"`
	// How a push service can contact you: mailto: or https:.
	Subject string `name:"subject" example:"mailto:ops@example.com" required:"true" allowed:"/^(mailto:|https://).+$/a contact that starts with mailto: or https://"`
	// Hosts that subscriptions may name: a host name, *. and a name for all its subdomains, or *
	// for every public host. Subscriptions come from untrusted users, so this list limits which
	// hosts they can make the gateway call.
	Services []string `name:"services" default:"fcm.googleapis.com,*.push.services.mozilla.com,*.push.apple.com,*.notify.windows.com" allowed:"/^(\\*|(\\*\\.)?[a-z0-9-]+(\\.[a-z0-9-]+)+)$/a host name in lower case, *. and one, or *"`
	// Which push services get declarative push messages, which browsers display without a service
	// worker: apple (those of Apple, whose browsers support them), always or never. It applies to
	// notifications that have a title and a URL to open and no webpush.payload, and that do not choose
	// themselves (webpush.declarative).
	Declarative string `name:"declarative" default:"apple" allowed:"apple|always|never"`
	// URL to open when the user activates a notification that names none
	// (webpush.notification.navigate).
	Navigate string `name:"navigate" example:"https://shop.example.com/" allowed:"/^https://[^/\\s]+(/\\S*)?$/an https URL"`
	// The only push service to call, such as a mock. Empty calls the service that each subscription
	// names.
	URL Base `name:"url"`
	// Addresses to use instead of those that DNS returns, as ip:port. For development and tests.
	Endpoints []Endpoint `name:"endpoints" example:"127.0.0.1:4432"`
	// Root certificates to trust instead of those of the system, in PEM. For mocks.
	CAFile File      `name:"ca_file" example:"mock-ca.pem"`
	Proxy  *Proxy    `name:"proxy"`
	Pool   Pool      `name:"pool" inherit:"Pool"`
	Retry  Retry     `name:"retry" inherit:"Retry"`
	Quota  Allowance `name:"quota" inherit:"Quota.WebPush"`
}
