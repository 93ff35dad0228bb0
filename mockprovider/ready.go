// SPDX-License-Identifier: Apache-2.0

package mockprovider

import (
	"bytes"
	"crypto/tls"
	"crypto/x509"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strconv"
)

// Files holds the absolute paths of the files that a client needs. All except CA are secrets that only
// the mock accepts.
type Files struct {
	APNsKey        string // AuthKey_<key id>.p8
	ServiceAccount string // service-account.json, with the token_uri of the mock
	CA             string // ca.pem
	ClientCert     string // apns-cert.pem, for certificate authentication
	ClientKey      string // apns-cert-key.pem
}

// Ready describes the running services for clients in other processes.
type Ready struct {
	APNs               string   `json:"apns"` // host:port of the first endpoint
	APNsEndpoints      []string `json:"apns_endpoints"`
	APNsManage         string   `json:"apns_manage"` // host:port of channel management
	APNsKeyFile        string   `json:"apns_key_file,omitempty"`
	APNsKeyID          string   `json:"apns_key_id"`
	APNsTeamID         string   `json:"apns_team_id"`
	APNsTopic          string   `json:"apns_topic"`
	FCM                string   `json:"fcm"` // base URL of the first endpoint
	FCMEndpoints       []string `json:"fcm_endpoints"`
	TokenURL           string   `json:"token_url"`
	ProjectID          string   `json:"project_id"`
	ServiceAccountFile string   `json:"service_account_file,omitempty"`
	WebPush            string   `json:"webpush"`       // base URL; any path under /push/ is an active subscription
	Subscriptions      string   `json:"subscriptions"` // URL for making subscriptions with keys
	Ledger             string   `json:"ledger"`        // URL of the ledger
	Script             string   `json:"script"`        // URL for replacing the script
	CAFile             string   `json:"ca_file,omitempty"`
}

// Ready returns the addresses of the services. files is the result of WriteFiles, or empty.
func (m *Mock) Ready(files Files) Ready {
	first := m.id.credentials[0]
	return Ready{
		APNs: m.advertise(m.APNsAddrs()[0]), APNsEndpoints: m.advertiseAll(m.APNsAddrs()), APNsKeyFile: files.APNsKey,
		APNsManage: m.advertise(m.APNsManageAddr()),
		APNsKeyID:  first.KeyID, APNsTeamID: first.TeamID, APNsTopic: first.Topics[0],
		FCM: m.FCMURL(), FCMEndpoints: m.advertiseAll(m.FCMAddrs()), TokenURL: m.TokenURL(),
		ProjectID: m.cfg.ProjectID, ServiceAccountFile: files.ServiceAccount,
		WebPush: m.WebPushURL(), Subscriptions: m.SubscriptionsURL(), Ledger: m.LedgerURL(), Script: m.ScriptURL(), CAFile: files.CA,
	}
}

// WriteFiles writes the keys and certificates into dir, readable only by the owner.
func (m *Mock) WriteFiles(dir string) (Files, error) {
	dir, err := filepath.Abs(dir)
	if err != nil {
		return Files{}, err
	}
	account, err := m.ServiceAccount()
	if err != nil {
		return Files{}, err
	}
	der, err := x509.MarshalPKCS8PrivateKey(m.id.client.PrivateKey)
	if err != nil {
		return Files{}, err
	}
	first := m.id.credentials[0]
	f := Files{
		APNsKey: filepath.Join(dir, "AuthKey_"+first.KeyID+".p8"), ServiceAccount: filepath.Join(dir, "service-account.json"),
		CA: filepath.Join(dir, "ca.pem"), ClientCert: filepath.Join(dir, "apns-cert.pem"), ClientKey: filepath.Join(dir, "apns-cert-key.pem"),
	}
	for path, content := range map[string][]byte{
		f.APNsKey: first.KeyPEM, f.ServiceAccount: account, f.CA: m.id.authorityPEM,
		f.ClientCert: encodePEM("CERTIFICATE", m.id.client.Certificate[0]), f.ClientKey: encodePEM("PRIVATE KEY", der),
	} {
		if err := os.WriteFile(path, content, 0o600); err != nil {
			return Files{}, err
		}
	}
	return f, nil
}

// ServiceAccount returns the JSON key file of the account that may send.
func (m *Mock) ServiceAccount() ([]byte, error) { return m.id.account.KeyFile(m.TokenURL()) }

// APNsAddrs returns the addresses of the APNs endpoints, in the order of their numbers in
// Fault.Endpoint.
func (m *Mock) APNsAddrs() []netip.AddrPort { return m.addrs(APNs) }

// APNsManageAddr returns the address of APNs' channel management.
func (m *Mock) APNsManageAddr() netip.AddrPort { return m.services[APNsManage][0].addr }

// FCMAddrs returns the addresses of the FCM endpoints, in the order of their numbers in
// Fault.Endpoint.
func (m *Mock) FCMAddrs() []netip.AddrPort { return m.addrs(FCM) }

// FCMURL returns the base URL of the first FCM endpoint.
func (m *Mock) FCMURL() string { return "https://" + m.advertise(m.services[FCM][0].addr) }

// TokenURL returns the URL of the OAuth2 token endpoint.
func (m *Mock) TokenURL() string {
	return "https://" + m.advertise(m.services[OAuth][0].addr) + "/token"
}

// WebPushURL returns the base URL of the Web Push services.
func (m *Mock) WebPushURL() string { return "https://" + m.advertise(m.services[WebPush][0].addr) }

// LedgerURL returns the URL of the ledger's HTTP API.
func (m *Mock) LedgerURL() string { return m.adminURL() + "/ledger" }

// SubscriptionsURL returns the URL for making Web Push subscriptions with POST and ending them with
// DELETE.
func (m *Mock) SubscriptionsURL() string { return m.adminURL() + "/subscriptions" }

// ScriptURL returns the URL for replacing the script with PUT and reading it with GET.
func (m *Mock) ScriptURL() string { return m.adminURL() + "/script" }

// Credentials returns the APNs keys that are accepted, with all defaults.
func (m *Mock) Credentials() []Credential { return slices.Clone(m.id.credentials) }

// ProjectID returns the FCM project.
func (m *Mock) ProjectID() string { return m.cfg.ProjectID }

// CACertPEM returns the certificate that a client must trust.
func (m *Mock) CACertPEM() []byte { return bytes.Clone(m.id.authorityPEM) }

// ClientCertificate returns a certificate for APNs, for the first topic of the first credential.
func (m *Mock) ClientCertificate() tls.Certificate { return m.id.client }

// IssueCertificate issues a certificate for a new key, which APNs accepts from clients: its topics and
// environments are in the extensions and the subject of the template, as in Apple's certificates. The
// serial number is replaced, and by default the certificate is valid for three months.
func (m *Mock) IssueCertificate(template *x509.Certificate) (tls.Certificate, error) {
	ca, err := processAuthority()
	if err != nil {
		return tls.Certificate{}, err
	}
	return ca.issue(template)
}

// ClientTLS returns a TLS configuration that trusts only the mock.
func (m *Mock) ClientTLS() *tls.Config {
	roots := x509.NewCertPool()
	roots.AddCert(m.id.authority)
	return &tls.Config{RootCAs: roots, MinVersion: tls.VersionTLS12}
}

// addrs returns the addresses of one service.
func (m *Mock) addrs(service string) []netip.AddrPort {
	all := make([]netip.AddrPort, len(m.services[service]))
	for i, e := range m.services[service] {
		all[i] = e.addr
	}
	return all
}

func (m *Mock) advertiseAll(addrs []netip.AddrPort) []string {
	all := make([]string, len(addrs))
	for i, a := range addrs {
		all[i] = m.advertise(a)
	}
	return all
}

// advertise returns the host:port for clients to connect to.
func (m *Mock) advertise(addr netip.AddrPort) string {
	if m.cfg.Advertise == "" {
		return addr.String()
	}
	return net.JoinHostPort(m.cfg.Advertise, strconv.Itoa(int(addr.Port())))
}

func (m *Mock) adminURL() string {
	return "http://" + m.advertise(m.admin.listener.Addr().(*net.TCPAddr).AddrPort())
}
