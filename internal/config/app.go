// SPDX-License-Identifier: Apache-2.0

package config

// App is one sender and its credentials at the providers. A provider without a block is not served.
type App struct {
	// The API keys that may act for this app. Two live keys make a change of keys painless.
	Keys []Key `name:"keys" required:"true"`
	// The app's share where apps wait for the same quota: one of weight 3 gets three places for each that one of weight 1
	// gets. What it does not use is the others'.
	Weight  int      `name:"weight" default:"1" allowed:"1..1000"`
	APNs    *APNs    `name:"apns"`
	FCM     *FCM     `name:"fcm"`
	WebPush *WebPush `name:"webpush"`
	// Receivers that are told what became of the app's notifications. They need the queue.
	Webhooks []Webhook `name:"webhooks"`
}

// Key is one API key, of which only the hash is known here: `gateway key` makes both.
type Key struct {
	// What logs and metrics call the key.
	Name string `name:"name" required:"true" allowed:"/^[A-Za-z0-9._-]{1,63}$/1 to 63 letters, digits, dots, dashes and underscores"`
	// SHA-256 of the key, as gateway key prints it. Never write the key itself here.
	Hash string `name:"hash" required:"true" secret:"true" allowed:"/^sha256:[0-9a-f]{64}$/sha256: and 64 hex digits, as gateway key prints it"`
	// What the key may do: send notifications, read states and channels, or create and delete broadcast channels, which all
	// who follow them lose.
	Scopes []string `name:"scopes" default:"send,read" allowed:"send|read|channels"`
}

// Webhook is a receiver of an app's events, which are posted to it in batches, signed as standardwebhooks.com says. What it
// does not take is tried for a day, and then listed in the status.
type Webhook struct {
	// What logs and status call it. How far it is is kept under the name: a new name begins with what happens next.
	Name string `name:"name" required:"true" allowed:"/^[A-Za-z0-9._-]{1,63}$/1 to 63 letters, digits, dots, dashes and underscores"`
	// Where the events are posted. It is never printed: its path may hold a secret.
	URL URL `name:"url" required:"true" secret:"true"`
	// What signs: whsec_ and 24 to 64 bytes in base64. Better give a file.
	Secret string `name:"secret" secret:"true" allowed:"/^whsec_[A-Za-z0-9+/]{32,88}={0,2}$/whsec_ and 24 to 64 bytes in base64"`
	// A file with the secret: mode 0600. While the receiver changes to a new one, with both, on a line each.
	SecretFile File `name:"secret_file"`
	// The states that are told. Empty means every end.
	Events []string `name:"events" allowed:"queued|scheduled|sending|accepted|unregistered|refused|throttled|unauthorized|unavailable|unknown|expired|cancelled"`
	// Networks that it may be in though they are not of the public internet, such as 10.0.0.0/8. Without them a name that
	// leads to a private address is not followed there.
	Networks []Network `name:"networks"`
	// Roots to trust instead of the system's, in PEM.
	CAFile File `name:"ca_file"`
}

// APNs is an app's access to Apple: a token key (key_file, key_id, team_id) or a client certificate (cert_file,
// cert_key_file).
type APNs struct {
	// The .p8 key from Apple's developer site. Whoever reads it can push to all your apps: mode 0600.
	KeyFile File `name:"key_file"`
	// The key's ID, 10 characters; Apple shows it beside the key and in the file's name.
	KeyID string `name:"key_id" allowed:"/^[A-Z0-9]{10}$/10 capital letters and digits"`
	// The team's ID, 10 characters, from the membership page.
	TeamID string `name:"team_id" allowed:"/^[A-Z0-9]{10}$/10 capital letters and digits"`
	// The app's bundle ID. Suffixes such as .voip are added by push type. A certificate of a single topic needs none.
	Topic string `name:"topic" allowed:"/^[A-Za-z0-9][A-Za-z0-9.-]{0,254}$/a bundle ID: letters, digits, dots and dashes"`
	// Which of Apple's services a notification goes to that names none (apns.environment). Device tokens and channels belong
	// to one of them and are bad in the other.
	Environment string `name:"environment" default:"production" allowed:"production|sandbox"`
	// Client certificate in PEM, instead of a token key.
	CertFile File `name:"cert_file"`
	// The certificate's private key in PEM: mode 0600.
	CertKeyFile File `name:"cert_key_file"`
	// Look for a token that Apple's service does not know (BadDeviceToken) in the other environment, once, and remember where
	// it was found, for notifications that name no environment. It costs a refused request for each token that is bad in both.
	LearnEnvironment bool `name:"learn_environment" default:"false"`
	// Where a stand-in for Apple's service answers, such as a mock. It plays both environments. For a mock that tells them
	// apart, leave it out and set endpoints.
	URL Base `name:"url"`
	// Where a stand-in for Apple's channel management answers, for both environments. With url or endpoints there is none
	// without it, so that no test reaches Apple.
	ManageURL Base `name:"manage_url"`
	// Addresses to use instead of asking DNS for the URL's host, as ip:port. For development and tests: nobody replaces
	// them when Apple moves.
	Endpoints []Endpoint `name:"endpoints"`
	// Roots to trust instead of the system's, in PEM. For stand-ins with a certificate of their own.
	CAFile File      `name:"ca_file"`
	Pool   Pool      `name:"pool" inherit:"Pool"`
	Retry  Retry     `name:"retry" inherit:"Retry"`
	Quota  Allowance `name:"quota" inherit:"Quota.APNs"`
}

// FCM is an app's access to Firebase Cloud Messaging, HTTP v1.
type FCM struct {
	// The service account's JSON key from the Firebase console, mode 0600: whoever reads it can push to your project. Or a
	// file of workload identity federation (external_account) or of an impersonated service account; the URLs and files
	// that these name are used. Empty takes Google's application default credentials: the file that the environment's
	// GOOGLE_APPLICATION_CREDENTIALS names, else gcloud's, else the machine's or workload's own on Google Cloud.
	ServiceAccountFile File `name:"service_account_file"`
	// The project to send in. Empty takes the one that a service account's key names, or that the machine is in.
	ProjectID string `name:"project_id" allowed:"/^[a-z0-9][a-z0-9:.-]{0,62}$/a project's ID or number"`
	// Where the service answers, or a stand-in such as a mock.
	URL Base `name:"url" default:"https://fcm.googleapis.com"`
	// Where access tokens are fetched with a service account's key. Empty takes what the key's file names.
	TokenURL URL `name:"token_url"`
	// Addresses to use instead of asking DNS for the URL's host, as ip:port. For development and tests.
	Endpoints []Endpoint `name:"endpoints"`
	// Roots to trust instead of the system's, in PEM, for url and token_url. For stand-ins.
	CAFile File      `name:"ca_file"`
	Pool   Pool      `name:"pool" inherit:"Pool"`
	Retry  Retry     `name:"retry" inherit:"Retry"`
	Quota  Allowance `name:"quota" inherit:"Quota.FCM"`
}

// WebPush is an app's access to the browsers' push services.
type WebPush struct {
	// The VAPID private key in PEM, as `gateway key vapid` makes it, or in base64url. Browsers tie their subscriptions to
	// it: lose it, and all of them are lost.
	VAPIDKeyFile File `name:"vapid_key_file" required:"true"`
	// How a push service reaches you when something is wrong: mailto: or https:.
	Subject string `name:"subject" required:"true" allowed:"/^(mailto:|https://).+$/a contact that starts with mailto: or https://"`
	// Hosts that subscriptions may name: a name, or *. and a name for all below it, or * for every public host. Strangers
	// choose among these what the gateway calls.
	Services []string `name:"services" default:"fcm.googleapis.com,*.push.services.mozilla.com,*.push.apple.com,*.notify.windows.com" allowed:"/^(\\*|(\\*\\.)?[a-z0-9-]+(\\.[a-z0-9-]+)+)$/a host name in lower case, *. and one, or *"`
	// The only push service to call, for a stand-in such as a mock. Empty calls the service that each subscription names.
	URL Base `name:"url"`
	// Addresses to use instead of asking DNS for the URL's host, as ip:port. For development and tests.
	Endpoints []Endpoint `name:"endpoints"`
	// Roots to trust instead of the system's, in PEM. For stand-ins.
	CAFile File      `name:"ca_file"`
	Pool   Pool      `name:"pool" inherit:"Pool"`
	Retry  Retry     `name:"retry" inherit:"Retry"`
	Quota  Allowance `name:"quota" inherit:"Quota.WebPush"`
}
