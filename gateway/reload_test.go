// SPDX-License-Identifier: Apache-2.0

package gateway_test

import (
	"flag"
	"fmt"
	"math/rand/v2"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/sluice-push/sluice/config"
	"github.com/sluice-push/sluice/mockprovider"
	"github.com/sluice-push/sluice/rest"
)

// reload reads a configuration and puts it in force.
func (h house) reload(text string) ([]string, error) {
	cfg, err := config.Parse(filepath.Join(h.t.TempDir(), "gateway.yaml"), []byte(text), nil)
	if err != nil {
		return nil, err
	}
	return h.gate.Reload(cfg)
}

// notes posts one notification for shop to a device of each platform and fails unless both are accepted.
func (h house) notes() {
	h.t.Helper()
	for _, body := range []string{fcmTo, fmt.Sprintf(`{"platform":"apns","token":%q,"title":"Hi"}`, device)} {
		if code, receipt := h.post("shop", body); code != http.StatusOK || receipt["status"] != "accepted" {
			h.t.Errorf("%s: %d %v", body, code, receipt)
		}
	}
}

// dials counts the connections that the mock's APNs and FCM have taken so far.
func (s street) dials() (n uint64) {
	for _, name := range []string{mockprovider.APNs, mockprovider.FCM} {
		for _, endpoint := range s.mock.Ledger().Summary().Services[name].Endpoints {
			n += endpoint.Dials
		}
	}
	return n
}

var reloads = flag.Int("reloads", 200, "how often the configuration is changed under load")

func TestReloadsUnderLoadFailNothing(t *testing.T) {
	s := newStreet(t)
	shop := func(apns string) string { return s.app("shop", apns, s.fcm()) }
	with := func(retry, limits, more, apps string) string { // in other respects patient
		return head + fmt.Sprintf("retry: {attempt_timeout: 2m%s}\nlimits: {send_time: 10m%s}\n%sapps:\n%s", retry, limits, more, apps)
	}
	h := s.open(t, with("", "", "", shop(s.apns())))
	h.notes()
	var callers sync.WaitGroup
	var over atomic.Bool
	for range 4 {
		callers.Go(func() {
			for !over.Load() {
				h.notes()
			}
		})
	}
	good := []func(i int) string{
		func(int) string { return with("", "", "", shop(s.apns())) },
		func(int) string { return with("", "", "", shop(s.certificate())) },
		func(i int) string { return with("", "", "", shop(s.apns())+s.app(fmt.Sprint("app", i), s.fcm())) },
		func(i int) string { return with(fmt.Sprint(", attempts: ", 2+i%3), "", "", shop(s.apns())) },
		func(i int) string { return with("", fmt.Sprint(", batch: ", 1+i), "", shop(s.apns())) },
		func(i int) string { return with("", "", fmt.Sprintf("pool: {size: %d}\n", 1+i%4), shop(s.apns())) },
	}
	bad := []string{
		with("", "", "pol: {size: 4}\n", shop(s.apns())),
		with("", "", "", strings.Replace(shop(s.apns()), s.at.APNsKeyFile, "nowhere.p8", 1)),
		head + "apps: {}\n",
	}
	random := rand.New(rand.NewPCG(1, 2))
	for i := range *reloads {
		if i%10 == 9 {
			if _, err := h.reload(bad[random.IntN(len(bad))]); err == nil {
				t.Fatal("a bad configuration was put in force")
			}
			h.notes() // so that no more is dialled at a time than a slow machine can bear
			continue
		}
		if _, err := h.reload(good[random.IntN(len(good))](i)); err != nil {
			t.Fatal(err)
		}
	}
	over.Store(true)
	callers.Wait()
	h.notes()
}

func TestAReloadChangesWhatAppsAreThereAndWhoMaySpeakForThem(t *testing.T) {
	s := newStreet(t)
	h := s.open(t, head+"apps:\n"+s.app("shop", s.fcm()))
	other, hash := rest.NewKey()
	changes, err := h.reload(head + "apps:\n" + strings.Replace(s.app("bank", s.fcm()), s.hash, hash, 1))
	if err != nil || strings.Join(changes, "; ") != "apps.bank: (none) → (new); apps.shop: (there) → (none)" {
		t.Errorf("%q, %v", changes, err)
	}
	if code, _ := h.post("shop", fcmTo); code != http.StatusUnauthorized {
		t.Errorf("the app that is gone answers %d", code)
	}
	h.key = other
	if code, receipt := h.post("bank", fcmTo); code != http.StatusOK {
		t.Errorf("the new one answers %d: %v", code, receipt)
	}
}

func TestARefusedReloadSaysWhyAndLeavesAllAsItWas(t *testing.T) {
	s := newStreet(t)
	h := s.open(t, head+"apps:\n"+s.app("shop", s.apns(), s.fcm()))
	for text, want := range map[string]string{
		"pool: {size: 99}\napps:\n" + s.app("shop", s.fcm()):                      "pool.size",
		"zone: osaka\napps:\n" + s.app("shop", s.fcm()):                           "zone cannot change while the gateway runs",
		"apps:\n" + strings.ReplaceAll(s.app("shop", s.fcm()), "ca_file", "cafi"): "cafi",
		"apps:\n" + strings.ReplaceAll(s.app("shop", s.fcm()), ".json", ".jso"):   "no such file",
	} {
		if _, err := h.reload(head + text); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%q is not in: %v", want, err)
		}
	}
	h.notes()
	if changes, err := h.reload(head + "apps:\n" + s.app("shop", s.apns(), s.fcm())); err != nil || len(changes) != 0 {
		t.Errorf("%v, %v", changes, err)
	}
}

func TestWhatAReloadLeavesAloneKeepsItsConnections(t *testing.T) {
	s := newStreet(t)
	h := s.open(t, head+"apps:\n"+s.app("shop", s.apns(), s.fcm()))
	h.notes()
	for i := range 20 {
		text := head + fmt.Sprintf("limits: {batch: %d}\nretry: {attempts: %d}\napps:\n", 100+i, 1+i%3) +
			s.app("shop", s.apns(), s.fcm()) + s.app(fmt.Sprint("other", i), s.fcm())
		if _, err := h.reload(text); err != nil {
			t.Fatal(err)
		}
		h.notes()
	}
	if dials, places := s.dials(), uint64(len(s.at.APNsEndpoints)+len(s.at.FCMEndpoints)); dials > places {
		t.Errorf("%d connections were dialled, for %d places", dials, places)
	}
}

func TestAKeyFileWithNewContentsIsANewCredential(t *testing.T) {
	s := newStreet(t)
	account := filepath.Join(t.TempDir(), "account.json")
	move := func(from string) {
		t.Helper()
		text, err := os.ReadFile(from)
		if err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(account, text, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	move(s.at.ServiceAccountFile)
	text := head + "apps:\n" + strings.ReplaceAll(s.app("shop", s.apns(), s.fcm()), s.at.ServiceAccountFile, account)
	h := s.open(t, text)
	h.notes()
	other := newStreet(t, mockprovider.Config{})
	move(other.at.ServiceAccountFile)
	changes, err := h.reload(text)
	if err != nil || strings.Join(changes, "; ") != "apps.shop.fcm: another credential" {
		t.Errorf("%q, %v", changes, err)
	}
}

func TestAKeyThatWasAnsweredBeforeAReloadIsAnsweredAlikeAfterIt(t *testing.T) {
	s := newStreet(t)
	h := s.open(t, head+"apps:\n"+s.app("shop", s.fcm()))
	_, first := h.ask(http.MethodPost, "", fcmTo, "Idempotency-Key", "once")
	if _, err := h.reload(head + "limits: {batch: 7}\napps:\n" + s.app("shop", s.fcm())); err != nil {
		t.Fatal(err)
	}
	if _, again := h.ask(http.MethodPost, "", fcmTo, "Idempotency-Key", "once"); again["id"] != first["id"] || first["id"] == nil {
		t.Errorf("%v and then %v", first, again)
	}
}

func TestAReloadedQuotaKeepsItsConnectionsAndWhatWasSpent(t *testing.T) {
	s := newStreet(t)
	with := func(top string) string { return head + top + "apps:\n" + s.app("shop", s.fcm()) }
	h := s.open(t, with("quota: {fcm: {rate: 1/h}}\n"))
	if code, receipt := h.post("shop", fcmTo); code != http.StatusOK {
		t.Fatalf("the one of this hour: %d %v", code, receipt)
	}
	dials := uint64(len(s.at.FCMEndpoints))
	until(func() bool { return s.dials() == dials }) // the first of them was enough to send
	for _, c := range []struct {
		top  string
		want int
	}{
		{"quota: {fcm: {rate: 2/h}}\n", http.StatusTooManyRequests},
		{"quota: {fcm: {rate: 2/h, topics_rate: 1/h}}\npool: {size: 3}\n", http.StatusTooManyRequests}, // connects anew, and has spent it all the same
		{"quota: {fcm: {rate: 1000/s}}\npool: {size: 3}\n", http.StatusOK},
	} {
		if changes, err := h.reload(with(c.top)); err != nil || len(changes) == 0 {
			t.Errorf("%s%q, %v", c.top, changes, err)
		}
		if code, receipt := h.post("shop", fcmTo); code != c.want {
			t.Errorf("%s%d %v, want %d", c.top, code, receipt, c.want)
		}
		if c.top == "quota: {fcm: {rate: 2/h}}\n" && s.dials() != dials {
			t.Errorf("%d connections were made for another quota", s.dials()-dials)
		}
	}
}
