// SPDX-License-Identifier: Apache-2.0

package gateway_test

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// withByteOrderMark writes a copy of a file that starts with a byte order mark.
func withByteOrderMark(t *testing.T, file string) string {
	t.Helper()
	text, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	marked := filepath.Join(t.TempDir(), filepath.Base(file))
	if err := os.WriteFile(marked, append([]byte("\ufeff"), text...), 0o600); err != nil {
		t.Fatal(err)
	}
	return marked
}

func TestCredentialFilesMayHaveByteOrderMark(t *testing.T) {
	s := newMockEnv(t)
	s.ready.CAFile, s.ready.APNsKeyFile, s.ready.ServiceAccountFile = withByteOrderMark(t, s.ready.CAFile), withByteOrderMark(t, s.ready.APNsKeyFile), withByteOrderMark(t, s.ready.ServiceAccountFile)
	s.files.ClientCert, s.files.ClientKey = withByteOrderMark(t, s.files.ClientCert), withByteOrderMark(t, s.files.ClientKey)
	webPush := fmt.Sprintf("webpush: {vapid_key_file: %q, subject: 'mailto:ops@example.com'}", withByteOrderMark(t, vapidKeyFile(t)))
	h := s.start(t, "\ufeff"+listenConfig+"apps:\n"+s.appBlock("shop", s.apnsBlock(), s.fcmBlock(), webPush)+s.appBlock("cert", s.apnsCertBlock()))
	for app, body := range map[string]string{
		"shop": apnsNotification(deviceToken), "cert": apnsNotification(deviceToken), "shop ": strings.Replace(apnsNotification("a:b"), "apns", "fcm", 1),
	} {
		if status, receipt := h.post(strings.TrimSpace(app), body); status != 200 || receipt["status"] != "accepted" {
			t.Errorf("%s: %d %v", app, status, receipt)
		}
	}
}
