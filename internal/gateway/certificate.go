// SPDX-License-Identifier: Apache-2.0

package gateway

import (
	"context"
	"crypto/x509"
	"encoding/asn1"
	"fmt"
	"maps"
	"regexp"
	"slices"
	"strings"
	"time"

	"github.com/sluice-push/sluice/internal/config"
	"github.com/sluice-push/sluice/providers/apns"
	"github.com/sluice-push/sluice/push"
)

// certificateInfo is what Apple issued a provider certificate for.
type certificateInfo struct {
	topics       []string
	environments []push.Environment // empty if the certificate names none
	teamID       string
}

// The extensions and attributes of Apple's provider certificates. Apple, "Sending notification
// requests to APNs", names the extension with the topics; the others are those of the "Worldwide
// Developer Relations Certification Practice Statement".
var (
	topicsExtension       = asn1.ObjectIdentifier{1, 2, 840, 113635, 100, 6, 3, 6}
	environmentExtensions = map[push.Environment]asn1.ObjectIdentifier{
		push.Sandbox: {1, 2, 840, 113635, 100, 6, 3, 1}, push.Production: {1, 2, 840, 113635, 100, 6, 3, 2},
	}
	userIDAttribute = asn1.ObjectIdentifier{0, 9, 2342, 19200300, 100, 1, 1} // holds the topic of a certificate for one
)

func parseCertificate(cert *x509.Certificate) (info certificateInfo) {
	for _, extension := range cert.Extensions {
		if extension.Id.Equal(topicsExtension) {
			info.topics = parseTopics(extension.Value)
		}
		for environment, id := range environmentExtensions {
			if extension.Id.Equal(id) {
				info.environments = append(info.environments, environment)
			}
		}
	}
	slices.Sort(info.environments)
	for _, attribute := range cert.Subject.Names {
		if topic, isText := attribute.Value.(string); isText && attribute.Type.Equal(userIDAttribute) && info.topics == nil {
			info.topics = []string{topic}
		}
	}
	if len(cert.Subject.OrganizationalUnit) == 1 && isTeamID(cert.Subject.OrganizationalUnit[0]) {
		info.teamID = cert.Subject.OrganizationalUnit[0]
	}
	return info
}

// parseTopics parses the extension with the topics: a sequence in which a sequence of kinds, such as
// voip, follows each topic.
func parseTopics(der []byte) (topics []string) {
	var members []asn1.RawValue
	if _, err := asn1.Unmarshal(der, &members); err != nil {
		return nil
	}
	for _, member := range members {
		if member.Class == asn1.ClassUniversal && member.Tag == asn1.TagUTF8String {
			topics = append(topics, string(member.Bytes))
		}
	}
	return topics
}

// covers reports whether the certificate is for a configured topic. The certificate of VoIP services
// has only the topic with the suffix, which notifications of that push type have too.
func (c *certificateInfo) covers(topic string) bool {
	return slices.ContainsFunc(c.topics, func(issued string) bool {
		suffix, _ := apns.TopicSuffix(issued)
		return issued == topic || strings.TrimSuffix(issued, suffix) == topic
	})
}

// checkTopic returns the problem if the certificate is not for the topic of the configuration.
func (c *certificateInfo) checkTopic(path string, cfg *config.APNs) error {
	switch {
	case len(c.topics) == 0:
	case cfg.Topic == "" && len(c.topics) > 1:
		return &Problem{path + ".topic", "the certificate is for several topics, so topic must be set: " + strings.Join(c.topics, ", "), "set topic to the bundle ID of the app"}
	case cfg.Topic != "" && !c.covers(cfg.Topic):
		return &Problem{path + ".cert_file", fmt.Sprintf("the certificate is not for the topic %s, but for: %s", cfg.Topic, strings.Join(c.topics, ", ")),
			"use the certificate of the app, or set topic to " + c.topics[0]}
	}
	return nil
}

// checkEnvironment returns the problem if the certificate is not for the environment of the
// configuration.
func (c *certificateInfo) checkEnvironment(path string, cfg *config.APNs) error {
	if environment := push.Environment(cfg.Environment); len(c.environments) > 0 && !slices.Contains(c.environments, environment) {
		return &Problem{path + ".environment", fmt.Sprintf("the certificate is for %s only, and environment is %s", c.environments[0], environment),
			fmt.Sprintf("set environment: %s, or get a certificate for %s from Apple", c.environments[0], environment)}
	}
	return nil
}

// apnsChecks returns the checks of the topics and certificates of all apps.
func apnsChecks(cfg *config.Config) (checks []Check) {
	for _, name := range slices.Sorted(maps.Keys(cfg.Apps)) {
		c, path := cfg.Apps[name].APNs, "apps."+name+".apns"
		if c == nil {
			continue
		}
		if c.Topic != "" {
			checks = append(checks, Check{Key: path + ".topic", Verify: func(context.Context) (string, error) { return c.Topic, checkTopic(path, c) }})
		}
		if c.CertFile != "" {
			checks = append(checks, Check{Key: path + ".cert_file", Verify: func(context.Context) (string, error) { return checkCertificate(path, c, (*certificateInfo).checkTopic) }})
			checks = append(checks, Check{Key: path + ".environment", Verify: func(context.Context) (string, error) {
				_, err := checkCertificate(path, c, (*certificateInfo).checkEnvironment)
				return c.Environment, err
			}})
		}
	}
	return checks
}

// checkTopic returns an error if a topic starts with the ID of the team, as in the entitlements of an
// app.
func checkTopic(path string, c *config.APNs) error {
	if bundleID, found := strings.CutPrefix(c.Topic, teamIDOf(path, c)+"."); found {
		return &Problem{path + ".topic", c.Topic + " starts with the team ID, which APNs refuses: set the bundle ID " + bundleID, "set topic: " + bundleID}
	}
	return nil
}

// teamIDOf returns the ID of the team that the credential of an APNs block belongs to, or "" if it is
// unknown.
func teamIDOf(path string, c *config.APNs) string {
	if c.CertFile == "" {
		return c.TeamID
	}
	cred, err := clientCertificate(path, c)
	if err != nil {
		return ""
	}
	return parseCertificate(cred.cert.Leaf).teamID
}

// checkCertificate checks the certificate of an APNs block with check, and says what it is for.
func checkCertificate(path string, c *config.APNs, check func(*certificateInfo, string, *config.APNs) error) (string, error) {
	cred, err := clientCertificate(path, c)
	if err != nil {
		return "", err
	}
	info := parseCertificate(cred.cert.Leaf)
	if err := check(&info, path, c); err != nil {
		return "", err
	}
	found := "valid until " + cred.cert.Leaf.NotAfter.Format("2 January 2006")
	if len(info.topics) > 0 {
		found += ", for " + strings.Join(info.topics, ", ")
	}
	for i, environment := range info.environments {
		found += []string{" in ", " and "}[min(i, 1)] + string(environment)
	}
	return found, nil
}

// isTeamID matches a team ID.
var isTeamID = regexp.MustCompile(`^[A-Z0-9]{10}$`).MatchString

// certificateWarning is how long before its expiry a certificate causes a warning.
const certificateWarning = 30 * 24 * time.Hour

// apnsWarnings returns suspicious settings of an APNs block, each with its key.
func apnsWarnings(path string, c *config.APNs) (found []string) {
	if suffix, pushType := apns.TopicSuffix(c.Topic); suffix != "" {
		found = append(found, fmt.Sprintf("%s.topic: ends in %s, so notifications that set no push type are sent as %s (set the bundle ID, unless it ends so)",
			path, suffix, pushType))
	}
	if prefix, _, _ := strings.Cut(c.Topic, "."); isTeamID(prefix) && prefix != teamIDOf(path, c) {
		found = append(found, path+".topic: starts with ten capital letters and digits, like a team ID (set the bundle ID without it)")
	}
	if c.CertFile == "" {
		return found
	}
	if cred, err := clientCertificate(path, c); err == nil {
		end := cred.cert.Leaf.NotAfter
		if left := time.Until(end); left < certificateWarning {
			found = append(found, fmt.Sprintf("%s.cert_file: %q expires on %s, in %d days (get a new one from Apple)",
				path, string(c.CertFile), end.Format("2 January 2006"), int(left.Hours()/24)))
		}
	}
	return found
}
