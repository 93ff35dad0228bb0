// SPDX-License-Identifier: Apache-2.0

package identity

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/url"
	"reflect"
	"slices"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"github.com/coreos/go-oidc/v3/oidc"
	"github.com/go-jose/go-jose/v4"
	"golang.org/x/oauth2"

	"github.com/sluice-push/sluice/internal/sleep"
)

// IssuerConfig configures an issuer of tokens.
type IssuerConfig struct {
	// URL is the issuer, as the claim iss contains it.
	URL string
	// JWKSURL is where the issuer publishes its keys. Empty means that its discovery document says it.
	JWKSURL string
	// Audiences are the values of which the claim aud must contain one.
	Audiences []string
	// Algorithms are the allowed signature algorithms, such as RS256.
	Algorithms []string
	// ClockSkew is how much the clocks of the issuer and this machine may differ.
	ClockSkew time.Duration
	// Client makes the requests to the issuer. The issuer limits their time.
	Client *http.Client
	// Logger gets a line when the keys cannot be refreshed, and when they can again.
	Logger *slog.Logger
}

const (
	refreshInterval = 10 * time.Minute // of the keys
	minRefresh      = 10 * time.Second // between two refreshes, whatever the reason
	fetchTimeout    = 10 * time.Second
	unknownKeyWait  = 3 * time.Second // of a request for a refresh
	maxDocument     = 1 << 20         // bytes of a discovery document or key set
)

// Issuer verifies the tokens of one issuer. Run fetches its keys and refreshes them. It is safe for
// concurrent use.
type Issuer struct {
	cfg      IssuerConfig
	client   *http.Client
	verifier *oidc.IDTokenVerifier
	keys     atomic.Pointer[keySet]   // nil before the first fetch; replaced only by other keys
	document atomic.Pointer[document] // nil before the first fetch, and with JWKSURL
	fetched  atomic.Int64             // when keys were fetched in Unix nanoseconds
	failures atomic.Int64             // fetches that have failed
	wake     chan struct{}            // asks Run for a refresh

	mu      sync.Mutex    // guards the fields below
	done    chan struct{} // closed at the end of the current or else of the next fetch
	running bool          // a fetch is in progress
	started time.Time     // of the last fetch
	err     error         // of the last fetch
}

// keySet is a set of public keys.
type keySet struct{ keys []jose.JSONWebKey }

// document is the part of a discovery document that the gateway uses.
type document struct {
	endpoint     oauth2.Endpoint
	KeysURL      string   `json:"jwks_uri"`
	EndSession   string   `json:"end_session_endpoint"`                           // empty if the issuer has none
	AuthMethods  []string `json:"token_endpoint_auth_methods_supported"`          // of clients
	IssParameter bool     `json:"authorization_response_iss_parameter_supported"` // RFC 9207
}

// NewIssuer returns an issuer. It fetches nothing.
func NewIssuer(cfg IssuerConfig) *Issuer {
	i := &Issuer{cfg: cfg, wake: make(chan struct{}, 1), done: make(chan struct{})}
	i.client = &http.Client{
		Timeout: fetchTimeout, Transport: limitedTransport{cmp.Or(cfg.Client.Transport, http.DefaultTransport)},
		CheckRedirect: func(r *http.Request, via []*http.Request) error {
			if r.URL.Scheme != "https" || len(via) >= 5 {
				return errors.New("redirected to a URL that is not https, or too often")
			}
			return nil
		},
	}
	i.verifier = oidc.NewVerifier(cfg.URL, i, &oidc.Config{SkipClientIDCheck: true, SkipExpiryCheck: true, SupportedSigningAlgs: cfg.Algorithms})
	return i
}

// limitedTransport limits the size of responses.
type limitedTransport struct{ http.RoundTripper }

// RoundTrip implements http.RoundTripper.
func (t limitedTransport) RoundTrip(r *http.Request) (*http.Response, error) {
	response, err := t.RoundTripper.RoundTrip(r)
	if err != nil {
		return nil, err
	}
	response.Body = struct {
		io.Reader
		io.Closer
	}{io.LimitReader(response.Body, maxDocument), response.Body}
	return response, nil
}

// IssuerStatus is the state of the keys of an issuer.
type IssuerStatus struct {
	URL       string
	FetchedAt time.Time // zero before the first success
	Failures  int64     // fetches that have failed
}

// Status returns the state of the keys.
func (i *Issuer) Status() IssuerStatus {
	s := IssuerStatus{URL: i.cfg.URL, Failures: i.failures.Load()}
	if at := i.fetched.Load(); at != 0 {
		s.FetchedAt = time.Unix(0, at)
	}
	return s
}

// Run fetches the keys and refreshes them until ctx ends. Known keys stay in use while the issuer does
// not respond.
func (i *Issuer) Run(ctx context.Context) error {
	failed := false
	for {
		err := i.refresh(ctx)
		if ctx.Err() != nil {
			return nil
		}
		wait := refreshInterval
		if err != nil {
			i.failures.Add(1)
			wait = minRefresh
		}
		if log := i.cfg.Logger; log != nil && failed != (err != nil) {
			if failed = err != nil; failed {
				log.Warn("keys of token issuer not fetched; known keys stay in use", "issuer", i.cfg.URL, "err", truncate(err.Error(), 300))
			} else {
				log.Info("keys of token issuer fetched again", "issuer", i.cfg.URL)
			}
		}
		if !sleep.For(ctx, minRefresh) {
			return nil
		}
		timer := time.NewTimer(wait - minRefresh)
		select {
		case <-timer.C:
		case <-i.wake:
			timer.Stop()
		case <-ctx.Done():
			timer.Stop()
			return nil
		}
	}
}

// refresh fetches the keys once, and ends the waits for them.
func (i *Issuer) refresh(ctx context.Context) error {
	i.mu.Lock()
	select {
	case <-i.wake: // this is the refresh that it asks for
	default:
	}
	i.running, i.started = true, time.Now()
	i.mu.Unlock()
	keys, found, err := i.fetch(ctx)
	if found != nil {
		i.document.Store(found)
	}
	if err == nil {
		i.fetched.Store(time.Now().UnixNano())
		if known := i.keys.Load(); known == nil || !reflect.DeepEqual(known.keys, keys) {
			i.keys.Store(&keySet{keys})
		}
	}
	i.mu.Lock()
	defer i.mu.Unlock()
	close(i.done)
	i.running, i.done, i.err = false, make(chan struct{}), err
	return err
}

// Verify fetches the keys once and returns how many there are. It changes nothing.
func (i *Issuer) Verify(ctx context.Context) (keys int, err error) {
	found, _, err := i.fetch(ctx)
	return len(found), err
}

// discover fetches the discovery document.
func (i *Issuer) discover(ctx context.Context) (*document, error) {
	provider, err := oidc.NewProvider(oidc.ClientContext(ctx, i.client), i.cfg.URL)
	if wrong, ok := errors.AsType[*oidc.IssuerMismatchError](err); ok {
		return nil, &CheckError{"issuer", "discovery: the document is of the issuer " + strconv.Quote(wrong.Discovered), "set issuer to exactly this"}
	}
	if _, noResponse := errors.AsType[*url.Error](err); err != nil && !noResponse { // its text contains the whole response
		return nil, &CheckError{"issuer", "discovery: " + printable(err.Error()), "set issuer to the URL before /.well-known/openid-configuration"}
	}
	if err != nil {
		return nil, fmt.Errorf("discovery: %w", err)
	}
	found := &document{endpoint: provider.Endpoint()}
	if err := provider.Claims(found); err != nil {
		return nil, fmt.Errorf("discovery: %w", err)
	}
	if !isHTTPS(found.KeysURL) {
		return nil, errors.New("discovery: jwks_uri is not an https URL")
	}
	return found, nil
}

func isHTTPS(address string) bool {
	u, err := url.Parse(address)
	return err == nil && u.Scheme == "https" && u.Host != ""
}

// fetch fetches the keys and, without JWKSURL, the discovery document.
func (i *Issuer) fetch(ctx context.Context) (keys []jose.JSONWebKey, found *document, err error) {
	ctx, cancel := context.WithTimeout(ctx, fetchTimeout)
	defer cancel()
	address := i.cfg.JWKSURL
	if address == "" {
		if found, err = i.discover(ctx); err != nil {
			return nil, nil, err
		}
		address = found.KeysURL
	}
	keys, err = i.fetchKeys(ctx, address)
	return keys, found, err
}

func (i *Issuer) fetchKeys(ctx context.Context, address string) ([]jose.JSONWebKey, error) {
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, address, nil)
	if err != nil {
		return nil, err
	}
	response, err := i.client.Do(request)
	if err != nil {
		return nil, err
	}
	defer func() { _ = response.Body.Close() }() // nothing is written
	text, err := io.ReadAll(response.Body)
	switch {
	case err != nil:
		return nil, err
	case response.StatusCode != http.StatusOK:
		return nil, fmt.Errorf("keys: the issuer responded %d", response.StatusCode)
	}
	return parseKeys(text)
}

// parseKeys parses a key set. It skips keys that are not for signatures or of an unknown kind, as RFC 7517
// asks for.
func parseKeys(text []byte) (keys []jose.JSONWebKey, err error) {
	var set struct {
		Keys []json.RawMessage `json:"keys"`
	}
	if err := json.Unmarshal(text, &set); err != nil {
		return nil, errors.New("keys: the response is not a JSON Web Key Set")
	}
	for _, raw := range set.Keys {
		var key jose.JSONWebKey
		if key.UnmarshalJSON(raw) == nil && key.IsPublic() && (key.Use == "" || key.Use == "sig") {
			keys = append(keys, key)
		}
	}
	if len(keys) == 0 {
		return nil, errors.New("keys: the response contains no public key for signatures")
	}
	return keys, nil
}

// verification is the result of VerifySignature, of which the verifier keeps only the text of an error.
// Its address is the value of a context with verificationKey.
type verification struct {
	keys    *keySet // of the valid signature
	failure Refusal
}

type verificationKey struct{}

var (
	errSignature = errors.New("signature not verified")

	badSignature = Refusal{Reason: "bad_signature", Detail: "the signature of the token is not valid"}
	unknownKey   = Refusal{Reason: "unknown_signing_key", Detail: "the token is signed with a key that its issuer does not publish"}
	unavailable  = Refusal{Reason: "issuer_unavailable", Detail: "the keys of the token's issuer are not available, and the token cannot be verified without them", RetryAfter: minRefresh}
)

// VerifySignature implements oidc.KeySet.
func (i *Issuer) VerifySignature(ctx context.Context, token string) ([]byte, error) {
	algorithms := make([]jose.SignatureAlgorithm, len(i.cfg.Algorithms))
	for n, a := range i.cfg.Algorithms {
		algorithms[n] = jose.SignatureAlgorithm(a)
	}
	jws, err := jose.ParseSignedCompact(token, algorithms)
	if err != nil || len(jws.Signatures) != 1 {
		return nil, errSignature
	}
	id, result := jws.Signatures[0].Header.KeyID, ctx.Value(verificationKey{}).(*verification)
	result.keys = i.keys.Load()
	payload, found := result.keys.verify(jws, id)
	if !found {
		i.waitForRefresh(ctx)
		result.keys = i.keys.Load()
		payload, found = result.keys.verify(jws, id)
	}
	if payload != nil {
		return payload, nil
	}
	switch result.failure = unknownKey; {
	case found:
		result.failure = badSignature
	case i.lastError() != nil || result.keys == nil:
		result.failure = unavailable
	}
	return nil, errSignature
}

// verify returns the payload of a token, or nil, and whether the set contains a key with this ID. A
// token without an ID is tried with all keys.
func (s *keySet) verify(jws *jose.JSONWebSignature, id string) (payload []byte, found bool) {
	if s == nil {
		return nil, false
	}
	for n := range s.keys {
		if key := &s.keys[n]; id == "" || key.KeyID == id {
			found = true
			if payload, err := jws.Verify(key); err == nil {
				return payload, true
			}
		}
	}
	return nil, found
}

func (i *Issuer) lastError() error {
	i.mu.Lock()
	defer i.mu.Unlock()
	return i.err
}

// waitForRefresh waits for the end of a refresh, unless the last one was a moment ago: tokens with unknown
// keys must not become a flood of requests to the issuer.
func (i *Issuer) waitForRefresh(ctx context.Context) {
	i.mu.Lock()
	done, running := i.done, i.running
	if !running && time.Since(i.started) < minRefresh {
		i.mu.Unlock()
		return
	}
	if !running {
		select {
		case i.wake <- struct{}{}:
		default: // another request has asked for it
		}
	}
	i.mu.Unlock()
	timer := time.NewTimer(unknownKeyWait)
	defer timer.Stop()
	select {
	case <-done:
	case <-timer.C:
	case <-ctx.Done():
	}
}

// verified is what a token says after its verification.
type verified struct {
	rules     *issuerRules
	signIn    bool    // it is the ID token of a sign-in to the console
	keys      *keySet // with which it was verified
	audience  []string
	notBefore time.Time
	issuedAt  time.Time
	expiresAt time.Time
	claims    map[string]any
}

// verify verifies the signature of a token of the issuer, and parses it.
func (i *Issuer) verify(ctx context.Context, token string) (*verified, *Refusal) {
	result := verification{failure: Refusal{Reason: "invalid_token", Detail: fmt.Sprintf("the token is not a JSON Web Token with one of the algorithms %s", joinWords(i.cfg.Algorithms))}}
	parsed, err := i.verifier.Verify(context.WithValue(ctx, verificationKey{}, &result), token)
	if err != nil {
		return nil, &result.failure
	}
	v := &verified{keys: result.keys, audience: parsed.Audience, issuedAt: parsed.IssuedAt, expiresAt: parsed.Expiry}
	var times struct {
		NotBefore json.Number `json:"nbf"`
	}
	if parsed.Claims(&v.claims) != nil || parsed.Claims(&times) != nil {
		return nil, &result.failure
	}
	if seconds, err := times.NotBefore.Float64(); err == nil {
		v.notBefore = time.Unix(int64(seconds), 0)
	}
	if parsed.Expiry.Unix() <= 0 || parsed.Expiry.IsZero() {
		return nil, &Refusal{Reason: "expired_token", Detail: "the token has no expiry (claim exp)"}
	}
	v.expiresAt = v.expiresAt.Add(i.cfg.ClockSkew)
	return v, nil
}

// check returns why a token with a valid signature is not accepted at present.
func (v *verified) check() *Refusal {
	now, cfg, audiences := time.Now(), &v.rules.Issuer.cfg, v.rules.Issuer.cfg.Audiences
	if v.signIn {
		audiences = []string{v.rules.SignIn.cfg.ClientID}
	}
	switch {
	case !now.Before(v.expiresAt):
		return &Refusal{Reason: "expired_token", Detail: "the token has expired on " + v.expiresAt.Add(-cfg.ClockSkew).UTC().Format(time.RFC3339) + ": get a new one from its issuer"}
	case now.Add(cfg.ClockSkew).Before(v.notBefore):
		return &Refusal{Reason: "early_token", Detail: "the token is valid from " + v.notBefore.UTC().Format(time.RFC3339) + ": compare the clocks"}
	case v.signIn && now.Add(cfg.ClockSkew).Before(v.issuedAt):
		return &Refusal{Reason: "early_token", Detail: "the token was issued at " + v.issuedAt.UTC().Format(time.RFC3339) + ", which is in the future: compare the clocks"}
	case len(audiences) == 0:
		return &Refusal{Reason: "wrong_audience", Detail: "the gateway accepts tokens of this issuer only for signing in to the console (audience is not set in auth.oidc)"}
	case !slices.ContainsFunc(v.audience, func(a string) bool { return slices.Contains(audiences, a) }):
		return &Refusal{Reason: "wrong_audience", Detail: "the token is for another audience: its claim aud must contain " + joinWords(audiences)}
	}
	return nil
}
