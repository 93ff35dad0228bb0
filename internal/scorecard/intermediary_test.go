// SPDX-License-Identifier: Apache-2.0

package scorecard

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/pem"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"time"

	"github.com/sluice-push/sluice/internal/load"
	"github.com/sluice-push/sluice/mockprovider"
	"github.com/sluice-push/sluice/push"
)

// blockedStatuses are the statuses of the pages of proxies, firewalls and captive portals.
var blockedStatuses = []int{200, 301, 302, 307, 400, 403, 404, 407, 410, 413, 451, 502, 503}

// blockPages returns faults that answer every request with the page of an intermediary, each status
// equally often.
func blockPages() (faults []mockprovider.Fault) {
	for i, status := range blockedStatuses {
		faults = append(faults, mockprovider.Fault{
			Status: status, Body: new("<!DOCTYPE html><html><title>This site is blocked</title></html>"),
			Share: 1 / float64(len(blockedStatuses)-i), Delay: 10 * time.Millisecond,
		})
	}
	return faults
}

// intermediary is S27. For 20 s, an intermediary answers every request to APNs, FCM, a Web Push
// service and the token endpoint with a block page. Access tokens live for 20 s, so that they must
// be renewed during the fault.
func intermediary(s *scenario) {
	const before, fault, after, rate, queued = 8 * time.Second, 20 * time.Second, 25 * time.Second, 100, 100
	usual := mockprovider.Fault{Delay: healthyResponse.Delay}
	m := s.startMock(mockprovider.Config{Endpoints: poolSize, AccessTokenLifetime: fault, Script: script(usual)})
	g := s.startBlockedGateway(m)
	services := s.blockedServices(m)
	for i := range services {
		services[i].run = s.offerRate(g, rate, before+fault+after, services[i].newNotification)
	}
	services[0].run.waitUntil(before)
	faultStart := s.playFaults(m, append(blockPages(), usual)...)
	for i := range services {
		services[i].queued = s.enqueueAll(g, queued, services[i].newNotification)
	}
	services[0].run.waitUntil(before + fault)
	healedAt := s.playFaults(m, usual)

	pages := m.Ledger().Entries(mockprovider.Query{Service: mockprovider.OAuth})
	blocked := slices.ContainsFunc(pages, func(e mockprovider.Entry) bool { return e.Fault == "body" })
	s.expect("block pages of the token endpoint", fmt.Sprint(blocked), blocked)
	for i := range services {
		s.checkBlocked(g, m, &services[i], faultStart, healedAt)
	}
	warnings := len(g.eventsSince(faultStart, "response is not from the push service", ""))
	s.expect("warnings that name the cause", fmt.Sprint(warnings), warnings > 0)
}

// blockedService is one service of S27, with its load and the IDs of its queued notifications.
type blockedService struct {
	name            string
	newNotification func(int) *push.Notification
	maxRecovery     time.Duration
	run             *loadRun
	queued          []string
}

func (s *scenario) blockedServices(m *mockprovider.Mock) []blockedService {
	subscription, err := m.Subscribe(mockprovider.Mozilla, "")
	s.noError(err)
	to := push.Subscription{Endpoint: subscription.Endpoint, Keys: push.SubscriptionKeys{P256dh: subscription.Keys.P256DH, Auth: subscription.Keys.Auth}}
	return []blockedService{
		{name: mockprovider.APNs, newNotification: apnsNotification, maxRecovery: 5 * time.Second},
		// The next exchange for an access token waits for its backoff, at most about as long as the
		// fault.
		{name: mockprovider.FCM, newNotification: fcmNotification, maxRecovery: 20 * time.Second},
		{name: mockprovider.WebPush, maxRecovery: 5 * time.Second, newNotification: func(int) *push.Notification {
			return &push.Notification{Platform: push.WebPush, Target: push.Target{Subscription: &to}, Title: "Your parcel is on its way"}
		}},
	}
}

// startBlockedGateway starts a gateway with a queue and an app for all services of the mock.
func (s *scenario) startBlockedGateway(m *mockprovider.Mock) *gateway {
	private, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	s.noError(err)
	der, err := x509.MarshalPKCS8PrivateKey(private)
	s.noError(err)
	vapid := filepath.Join(s.newTempDir(), "vapid.pem")
	s.noError(os.WriteFile(vapid, pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der}), 0o600))
	files := s.writeMockFiles(m)
	webPush := fmt.Sprintf("webpush: {url: '%s', ca_file: %q, vapid_key_file: %q, subject: 'mailto:ops@example.com'}", m.WebPushURL(), files.CA, vapid)
	blocks := joinBlocks(joinBlocks(apnsBlock(m, files, ""), fcmBlock(m, files, "")), webPush)
	return s.startGateway(fmt.Sprintf("queue: {dir: %q}", s.newTempDir()), app{shopApp, blocks})
}

// checkBlocked records what became of the notifications of one service.
func (s *scenario) checkBlocked(g *gateway, m *mockprovider.Mock, b *blockedService, faultStart, healedAt time.Time) {
	got := b.run.wait()
	during := got.Between(faultStart, healedAt)
	pages := 0
	for _, e := range m.Ledger().Entries(mockprovider.Query{Service: b.name}) {
		if e.Fault == "body" {
			pages++
		}
	}
	s.expect(b.name+": block pages", fmt.Sprint(pages), pages > 0)
	wrong := map[string]int{}
	named := 0
	for i := range during {
		switch end := &during[i]; {
		case end.Status == "unregistered", end.Status == "refused", end.Status == "unauthorized":
			wrong[end.Status]++
		case end.Reason == push.IntermediaryResponse, end.Reason == "OAUTH_INTERMEDIARY_RESPONSE":
			named++
		}
	}
	s.expectZero(b.name+": unregistered", wrong["unregistered"])
	s.expectZero("refused", wrong["refused"])
	s.expectZero("unauthorized", wrong["unauthorized"])
	s.expect("receipts that name the cause", fmt.Sprint(named), named > 0)
	atMost(&s.rowResult, "goodput back at 95% after", recoveryTime(got, healedAt, healedAt.Add(24*time.Second), 0.95), b.maxRecovery)
	s.expectZero("queued and not accepted after 60s", s.countUnaccepted(g, b.queued, healedAt.Add(time.Minute)))
	accepted := len(got.Samples) - got.Samples.Count(notAccepted) + len(b.queued)
	s.expectZero("accepted and not delivered", max(accepted-len(m.Ledger().Entries(mockprovider.Query{Service: b.name, Accepted: new(true)})), 0))
}

// countUnaccepted waits until the queued notifications have ended, or until limit, and counts those
// that were not accepted.
func (s *scenario) countUnaccepted(g *gateway, ids []string, limit time.Time) (n int) {
	ends := map[string]int{}
	for _, id := range ids {
		if status := s.awaitEnd(g, id, limit); status != "accepted" {
			ends[status]++
			n++
		}
	}
	if n > 0 {
		s.note("queued notifications ended as %v", ends)
	}
	return n
}

// enqueueAll queues count notifications in one call and returns their IDs.
func (s *scenario) enqueueAll(g *gateway, count int, newNotification func(int) *push.Notification) (ids []string) {
	results, err := s.generator(g, load.Generator{Stream: true, Async: true, Count: count}, func(i int) *push.Notification { return newNotification(1_000_000 + i) }).Collect(s.ctx)
	s.noError(err)
	for _, n := range results.Samples {
		if n.Status != "queued" {
			s.Fatalf("the receipt of an item has status %s, reason %s", n.Status, n.Reason)
		}
		ids = append(ids, n.ID)
	}
	return ids
}
