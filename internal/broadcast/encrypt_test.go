// SPDX-License-Identifier: Apache-2.0

package broadcast_test

import (
	"bytes"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/sluice-push/sluice/internal/broadcast"
	"github.com/sluice-push/sluice/internal/keyring"
)

// TestAudienceIsEncrypted looks for a token and a text in all files.
func TestAudienceIsEncrypted(t *testing.T) {
	const token, title = "a-token-to-look-for", "a title to look for"
	for _, encrypt := range []bool{false, true} {
		dir := t.TempDir()
		n := newTestNode(t, nodeConfig{dir: dir, keys: keyring.NewRing(encrypt, keyring.NewKey())})
		id := n.create(strings.Replace(simple, "Hello", title, 1), `{"token":"`+token+`"}`+"\n")
		n.start(id)
		n.waitState(id, broadcast.Completed)
		n.stop()
		found := map[string]bool{}
		err := filepath.WalkDir(dir, func(path string, entry fs.DirEntry, err error) error {
			if err != nil || entry.IsDir() {
				return err
			}
			data, err := os.ReadFile(path)
			for _, text := range []string{token, title} {
				if bytes.Contains(data, []byte(text)) {
					found[text] = true
				}
			}
			return err
		})
		if err != nil || found[token] == encrypt || found[title] == encrypt {
			t.Errorf("encrypted: %v, found %v, %v", encrypt, found, err)
		}
	}
}
