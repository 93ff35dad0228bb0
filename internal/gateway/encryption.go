// SPDX-License-Identifier: Apache-2.0

package gateway

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/sluice-push/sluice/internal/config"
	"github.com/sluice-push/sluice/internal/keyring"
)

// encryptionKey is the configuration block of the encryption.
const encryptionKey = "queue.encryption"

// keyFileName returns the name of an item of key_files.
func keyFileName(i int) string { return fmt.Sprintf("key_files[%d]", i) }

// encryptionKeys reads the keys for the records of the queue and the history. It returns nil if there are
// none.
func encryptionKeys(cfg *config.Config) (*keyring.Ring, error) {
	e := &cfg.Queue.Encryption
	if len(e.KeyFiles) == 0 {
		return nil, nil
	}
	var keys []*keyring.Key
	for i, file := range e.KeyFiles {
		name := keyFileName(i)
		text, err := readFile(encryptionKey, name, file)
		if err != nil {
			return nil, err
		}
		key, err := keyring.ParseKey(text)
		if err == nil {
			same := slices.IndexFunc(keys, func(other *keyring.Key) bool { return other.ID() == key.ID() })
			if same >= 0 {
				err = fmt.Errorf("has the same key as %s", keyFileName(same))
			}
		}
		if err != nil {
			return nil, keyError(encryptionKey, name, fmt.Errorf("%q: %w", string(file), err))
		}
		keys = append(keys, key)
	}
	return keyring.NewRing(e.Enabled, keys...), nil
}

// describeKeys says what the keys do.
func describeKeys(r *keyring.Ring) string {
	decrypting := fmt.Sprintf("%d keys decrypt", len(r.Keys()))
	if len(r.Keys()) == 1 {
		decrypting = "1 key decrypts"
	}
	if k := r.Current(); k != nil {
		return fmt.Sprintf("encrypts with the key %s; %s", k.ID(), decrypting)
	}
	return "does not encrypt; " + decrypting
}

// sameKeys reports whether two rings have the same keys and encrypt with the same one.
func sameKeys(a, b *keyring.Ring) bool {
	return a.Current() == nil == (b.Current() == nil) &&
		slices.EqualFunc(a.Keys(), b.Keys(), func(a, b *keyring.Key) bool { return a.ID() == b.ID() })
}

// missingKey explains the error of a log that needs a key which the configuration lacks. It returns other
// errors unchanged.
func missingKey(err error, keys *keyring.Ring) error {
	if _, ok := errors.AsType[*keyring.MissingKeyError](err); !ok {
		return err
	}
	has := "no key"
	for i, k := range keys.Keys() {
		if i == 0 {
			has = k.ID().String()
		} else {
			has += ", " + k.ID().String()
		}
	}
	return fmt.Errorf("config: %s.key_files lacks a key: %w (the files have %s; add the file that names the missing key in its first line; nothing is lost until then)", encryptionKey, err, has)
}

// keysTimeout bounds the request for the keys that the log needs.
const keysTimeout = 10 * time.Second

// checkKeys returns an error if a reload cannot replace the keys. The key that encrypts must stay, because
// records can still be written with it.
func (st *storage) checkKeys(old, next *keyring.Ring) error {
	if st == nil || !st.opened.Load() || sameKeys(old, next) {
		return nil
	}
	if k := old.Current(); k != nil && !next.Has(k.ID()) {
		return fmt.Errorf("config: %s.key_files must keep the key %s, which encrypts now (put another key before it, and remove it when GET /v1/status does not list it any more)", encryptionKey, k.ID())
	}
	ctx, cancel := context.WithTimeout(context.Background(), keysTimeout)
	defer cancel()
	return missingKey(st.eventLog.CheckKeys(ctx, next), next)
}

// useKeys replaces the keys. checkKeys has returned nil.
func (st *storage) useKeys(keys *keyring.Ring) {
	if st != nil && st.opened.Load() {
		st.engine.SetKeys(keys)
	}
}

// EncryptionStatus says which keys the stored records need.
type EncryptionStatus struct {
	// Key is the ID of the key that encrypts; empty if none does.
	Key string `json:"key,omitempty"`
	// Keys lists the IDs of all keys of the configuration.
	Keys []string `json:"keys"`
	// Needed lists the keys with which stored messages are encrypted. A key that is not in the list can be
	// removed from the configuration, unless it is Key.
	Needed []NeededKey `json:"needed"`
}

// NeededKey is a key with which messages of the log are encrypted. A message has the records of several
// notifications.
type NeededKey struct {
	Key      string `json:"key"`
	Messages uint64 `json:"messages"`
}

// encryptedMessages returns the number of messages that are encrypted with each key, for the metrics.
func (st *storage) encryptedMessages() map[string]uint64 {
	ctx, cancel := context.WithTimeout(context.Background(), statusTimeout)
	defer cancel()
	counts := map[string]uint64{}
	if s := st.encryption(ctx); s != nil {
		for _, needed := range s.Needed {
			if needed.Messages > 0 {
				counts[needed.Key] = needed.Messages
			}
		}
	}
	return counts
}

// encryption returns the state of the encryption, or nil without keys.
func (st *storage) encryption(ctx context.Context) *EncryptionStatus {
	keys := st.engine.Keys()
	if keys == nil {
		return nil
	}
	s := &EncryptionStatus{Needed: []NeededKey{}}
	if k := keys.Current(); k != nil {
		s.Key = k.ID().String()
	}
	for _, k := range keys.Keys() {
		s.Keys = append(s.Keys, k.ID().String())
	}
	uses, err := st.eventLog.KeyUses(ctx)
	if err != nil { // all may be needed
		for _, k := range keys.Keys() {
			s.Needed = append(s.Needed, NeededKey{Key: k.ID().String()})
		}
		return s
	}
	for _, use := range uses {
		s.Needed = append(s.Needed, NeededKey{use.Key.String(), use.Messages})
	}
	return s
}
