// SPDX-License-Identifier: Apache-2.0

package identity

import (
	"crypto/x509"
	"net/http"
	"strings"
	"time"
)

// CertificateRule says what the holders of client certificates may do. The listener has verified them.
type CertificateRule struct {
	// Name is that of the certificate, as CertificateName returns it. An asterisk at its end matches any
	// characters.
	Name string
	// Apps are the apps that the holder may act for.
	Apps []string
	// Scopes are the permissions in these apps.
	Scopes Scopes
	// Limit limits all holders together.
	Limit Limit
}

// certificate is a rule and a caller without a name.
type certificate struct {
	name   string
	caller Caller
}

func (a *Authenticator) addCertificate(rule CertificateRule) {
	added := &certificate{rule.Name, Caller{Kind: Certificate, grants: map[string]grant{}, Limits: a.limits(rule.Limit, "certificate", rule.Name)}}
	a.grant(&added.caller, rule.Apps, grant{scopes: rule.Scopes})
	a.certificates = append(a.certificates, added)
}

// certificateOf returns the holder of the client certificate of a request, or nil. The first rule that
// matches applies.
func (a *Authenticator) certificateOf(r *http.Request) *Caller {
	if len(a.certificates) == 0 || r.TLS == nil || len(r.TLS.VerifiedChains) == 0 {
		return nil
	}
	cert := r.TLS.PeerCertificates[0]
	return a.holder(CertificateName(cert), cert.NotAfter)
}

// holder returns the holder of a certificate, or nil.
func (a *Authenticator) holder(name string, expiresAt time.Time) *Caller {
	for _, rule := range a.certificates {
		prefix, anySuffix := strings.CutSuffix(rule.name, "*")
		if name != "" && (name == rule.name || anySuffix && strings.HasPrefix(name, prefix)) {
			c := rule.caller
			c.Name, c.ExpiresAt = name, expiresAt
			c.renew = func(next *Authenticator) *Caller { return next.holder(name, expiresAt) }
			return &c
		}
	}
	return nil
}

// CertificateName returns the name in a client certificate: the URI of a workload (SPIFFE), or else the
// common name, or else the first DNS name. It is "" without a name.
func CertificateName(cert *x509.Certificate) string {
	for _, uri := range cert.URIs {
		return uri.String()
	}
	if cert.Subject.CommonName == "" && len(cert.DNSNames) > 0 {
		return cert.DNSNames[0]
	}
	return cert.Subject.CommonName
}
