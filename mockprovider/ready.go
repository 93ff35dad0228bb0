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

// Files are the paths of what a client of the services needs: all but CA are secrets of the mock, and worthless elsewhere.
type Files struct {
	APNsKey        string // AuthKey_<key id>.p8
	ServiceAccount string // service-account.json, whose token_uri is the mock's
	CA             string // ca.pem
	ClientCert     string // apns-cert.pem, for certificate authentication
	ClientKey      string // apns-cert-key.pem
}

// Ready is what a script needs to find the services. Its file members are set by WriteFiles.
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
	WebPush            string   `json:"webpush"`       // base URL; any path under /push/ is a live subscription
	Subscriptions      string   `json:"subscriptions"` // URL that makes subscriptions with keys
	Ledger             string   `json:"ledger"`        // URL of the ledger
	Script             string   `json:"script"`        // URL that takes a new script
	CAFile             string   `json:"ca_file,omitempty"`
}

// Ready says where everything listens. Give it what WriteFiles returned, or an empty Files.
func (m *Mock) Ready(files Files) Ready {
	first := m.id.credentials[0]
	return Ready{
		APNs: m.advertised(m.APNsAddrs()[0]), APNsEndpoints: m.texts(m.APNsAddrs()), APNsKeyFile: files.APNsKey,
		APNsManage: m.advertised(m.APNsManageAddr()),
		APNsKeyID:  first.KeyID, APNsTeamID: first.TeamID, APNsTopic: first.Topics[0],
		FCM: m.FCMURL(), FCMEndpoints: m.texts(m.FCMAddrs()), TokenURL: m.TokenURL(),
		ProjectID: m.cfg.ProjectID, ServiceAccountFile: files.ServiceAccount,
		WebPush: m.WebPushURL(), Subscriptions: m.SubscriptionsURL(), Ledger: m.LedgerURL(), Script: m.ScriptURL(), CAFile: files.CA,
	}
}

// WriteFiles writes keys and certificates into dir, readable by the owner only.
func (m *Mock) WriteFiles(dir string) (Files, error) {
	account, err := m.ServiceAccount()
	if err != nil {
		return Files{}, err
	}
	key, err := pkcs8(m.id.client.PrivateKey)
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
		f.ClientCert: pemOf("CERTIFICATE", m.id.client.Certificate[0]), f.ClientKey: key,
	} {
		if err := os.WriteFile(path, content, 0o600); err != nil {
			return Files{}, err
		}
	}
	return f, nil
}

// APNsAddrs are the addresses of the APNs endpoints, in the order that Fault.Endpoint counts them.
func (m *Mock) APNsAddrs() []netip.AddrPort { return m.addrs(APNs) }

// APNsManageAddr is the address of APNs' channel management.
func (m *Mock) APNsManageAddr() netip.AddrPort { return m.services[APNsManage][0].addr }

// FCMAddrs are the addresses of the FCM endpoints, in the order that Fault.Endpoint counts them.
func (m *Mock) FCMAddrs() []netip.AddrPort { return m.addrs(FCM) }

// FCMURL is the base URL of the first FCM endpoint.
func (m *Mock) FCMURL() string { return "https://" + m.advertised(m.services[FCM][0].addr) }

// TokenURL is the OAuth2 token endpoint.
func (m *Mock) TokenURL() string {
	return "https://" + m.advertised(m.services[OAuth][0].addr) + "/token"
}

// WebPushURL is the base URL of the Web Push service: any path under /push/ is a live subscription.
func (m *Mock) WebPushURL() string { return "https://" + m.advertised(m.services[WebPush][0].addr) }

// LedgerURL is the ledger's HTTP API.
func (m *Mock) LedgerURL() string { return m.adminURL() + "/ledger" }

// SubscriptionsURL makes Web Push subscriptions by POST, and ends them by DELETE.
func (m *Mock) SubscriptionsURL() string { return m.adminURL() + "/subscriptions" }

// ScriptURL takes a new script by PUT, and shows the present one by GET.
func (m *Mock) ScriptURL() string { return m.adminURL() + "/script" }

// Credentials are the APNs keys that the mock knows, complete.
func (m *Mock) Credentials() []Credential { return slices.Clone(m.id.credentials) }

// ProjectID is the FCM project.
func (m *Mock) ProjectID() string { return m.cfg.ProjectID }

// CACertPEM is the certificate that a client must trust.
func (m *Mock) CACertPEM() []byte { return bytes.Clone(m.id.authorityPEM) }

// ClientCertificate is good for APNs certificate authentication, for the first credential's first topic.
func (m *Mock) ClientCertificate() tls.Certificate { return m.id.client }

// ClientTLS trusts the mock and nobody else.
func (m *Mock) ClientTLS() *tls.Config {
	roots := x509.NewCertPool()
	roots.AddCert(m.id.authority)
	return &tls.Config{RootCAs: roots, MinVersion: tls.VersionTLS12}
}

// addrs lists the addresses of one service.
func (m *Mock) addrs(service string) []netip.AddrPort {
	all := make([]netip.AddrPort, len(m.services[service]))
	for i, e := range m.services[service] {
		all[i] = e.addr
	}
	return all
}

func (m *Mock) texts(addrs []netip.AddrPort) []string {
	all := make([]string, len(addrs))
	for i, a := range addrs {
		all[i] = m.advertised(a)
	}
	return all
}

// advertised is an address as clients shall call it.
func (m *Mock) advertised(addr netip.AddrPort) string {
	if m.cfg.Advertise == "" {
		return addr.String()
	}
	return net.JoinHostPort(m.cfg.Advertise, strconv.Itoa(int(addr.Port())))
}

func (m *Mock) adminURL() string {
	return "http://" + m.advertised(m.admin.listener.Addr().(*net.TCPAddr).AddrPort())
}
