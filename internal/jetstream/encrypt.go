// SPDX-License-Identifier: Apache-2.0

package jetstream

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"iter"
	"slices"
	"strings"

	natsjs "github.com/nats-io/nats.go/jetstream"

	"github.com/sluice-push/sluice/internal/keyring"
)

// An encrypted message of a Log has the header of a box and its checksum before the records. Each record
// is encrypted with its index, so damage of one affects no other, and the checksum of a record is that of
// its encrypted form, so damage is found without the key. The last part of the subject names the key: the
// server counts the messages of each subject, and so of each key.
const (
	boxHeaderLen = keyring.HeaderLen + crc32.Size
	keyToken     = ".key-" // before the ID of the key in a subject
)

// isEncrypted reports whether a message has encrypted records.
func isEncrypted(message []byte) bool { return len(message) > 0 && message[0] == encryptedFormat }

// boxOf returns the header of the box of an encrypted message and the records after it, or nothing if the
// header is damaged.
func boxOf(message []byte) (header, sealed []byte) {
	if len(message) < 1+boxHeaderLen {
		return nil, nil
	}
	header, sealed = message[1:1+keyring.HeaderLen], message[1+boxHeaderLen:]
	if crc32.Checksum(header, castagnoli) != binary.LittleEndian.Uint32(message[1+keyring.HeaderLen:]) {
		return nil, nil
	}
	return header, sealed
}

// encrypted returns the encrypted form of the body of a group.
func (g *group) encrypted(key *keyring.Key) []byte {
	header, box := key.NewBox()
	b := make([]byte, 0, len(g.body)+boxHeaderLen+len(g.records)*(keyring.Overhead+1))
	b = append(append(b, encryptedFormat), header...)
	b = binary.LittleEndian.AppendUint32(b, crc32.Checksum(header, castagnoli))
	var sealed []byte
	for i, r := range g.records {
		sealed = box.Seal(sealed[:0], i, g.body[r.start:r.end])
		b = appendRecord(b, sealed)
	}
	return b
}

// seal decides what is stored of g, and where. Its result for a group that is written again is the same,
// so that it can be recognized.
func (l *Log) seal(g *group) {
	stored, subject := g.body, l.subject
	if key := l.engine.Keys().Current(); key != nil {
		stored, subject = g.encrypted(key), l.subject+keyToken+key.ID().String()
	}
	if subject != l.storedIn { // the first message of a new subject
		l.storedIn, l.expectedSeq = subject, 0
	}
	l.mu.Lock() // for ownGroup
	g.stored, g.subject = stored, subject
	l.mu.Unlock()
}

// Keys returns the keys for the records of logs, or nil if there are none.
func (e *Engine) Keys() *keyring.Ring { return e.keys.Load() }

// SetKeys replaces the keys for the records of logs. Call Log.CheckKeys before.
func (e *Engine) SetKeys(keys *keyring.Ring) { e.keys.Store(keys) }

// Items returns the items of a message with their indexes, as the function Items does, and decrypts them.
// It skips those that were altered. The error is a *keyring.MissingKeyError.
func (e *Engine) Items(message []byte) (iter.Seq2[int, []byte], error) {
	return e.items(message, func(int) {})
}

// items is Items. It calls altered for records that are undamaged and cannot be decrypted.
func (e *Engine) items(message []byte, altered func(index int)) (iter.Seq2[int, []byte], error) {
	if !isEncrypted(message) {
		return Items(message), nil
	}
	header, sealed := boxOf(message)
	if header == nil {
		return records(nil), nil
	}
	box, err := e.Keys().Open(header)
	if err != nil {
		return nil, err
	}
	return func(yield func(int, []byte) bool) {
		plain := make([]byte, 0, len(sealed))
		for index, data := range records(sealed) {
			start := len(plain)
			opened, err := box.Open(plain, index, data)
			if err != nil {
				altered(index)
				continue
			}
			if plain = opened; !yield(index, plain[start:len(plain):len(plain)]) {
				return
			}
		}
	}, nil
}

// The first byte of sealed data.
const (
	sealedPlain     = 0
	sealedEncrypted = 1
)

// Seal returns the form of data to store outside of a log: encrypted with the current key, if there is one.
func (e *Engine) Seal(data []byte) []byte {
	key := e.Keys().Current()
	if key == nil {
		return append([]byte{sealedPlain}, data...)
	}
	header, box := key.NewBox()
	return box.Seal(append([]byte{sealedEncrypted}, header...), 0, data)
}

// Unseal returns the data that Seal got. The error can be a *keyring.MissingKeyError.
func (e *Engine) Unseal(sealed []byte) ([]byte, error) {
	switch {
	case len(sealed) > 0 && sealed[0] == sealedPlain:
		return sealed[1:], nil
	case len(sealed) <= keyring.HeaderLen || sealed[0] != sealedEncrypted:
		return nil, errors.New("jetstream: sealed data is damaged")
	}
	box, err := e.Keys().Open(sealed[1 : 1+keyring.HeaderLen])
	if err != nil {
		return nil, fmt.Errorf("jetstream: %w", err)
	}
	data, err := box.Open(nil, 0, sealed[1+keyring.HeaderLen:])
	if err != nil {
		return nil, fmt.Errorf("jetstream: %w", err)
	}
	return data, nil
}

// KeyUse is the number of messages of a log that are encrypted with a key.
type KeyUse struct {
	Key      keyring.ID
	Messages uint64
}

// KeyUses returns the keys that the messages of the log need, in ascending order.
func (l *Log) KeyUses(ctx context.Context) ([]KeyUse, error) {
	ctx, cancel := context.WithTimeout(ctx, apiTimeout)
	defer cancel()
	return keyUses(ctx, l.stream, l.prefix+">")
}

// keyUses returns the keys that messages of a stream need, in ascending order.
func keyUses(ctx context.Context, stream natsjs.Stream, filter string) ([]KeyUse, error) {
	info, err := stream.Info(ctx, natsjs.WithSubjectFilter(filter))
	if err != nil {
		return nil, fmt.Errorf("jetstream: %w", err)
	}
	messages := map[keyring.ID]uint64{}
	for subject, count := range info.State.Subjects {
		if _, key, found := cutKey(subject); found {
			messages[key] += count
		}
	}
	uses := make([]KeyUse, 0, len(messages))
	for key, count := range messages {
		uses = append(uses, KeyUse{key, count})
	}
	slices.SortFunc(uses, func(a, b KeyUse) int { return strings.Compare(a.Key.String(), b.Key.String()) })
	return uses, nil
}

// cutKey removes the key from a subject.
func cutKey(subject string) (rest string, key keyring.ID, found bool) {
	i := strings.LastIndex(subject, keyToken)
	if i < 0 {
		return subject, key, false
	}
	key, err := keyring.ParseID(subject[i+len(keyToken):])
	return subject[:i], key, err == nil
}

// CheckKeys returns an error if the log cannot be used with these keys: a *keyring.MissingKeyError if
// messages of the log need a key that is not among them. If one of them encrypts, it marks the stream, so
// that versions which cannot read encrypted messages refuse to open it: they would lose them.
func (l *Log) CheckKeys(ctx context.Context, keys *keyring.Ring) error {
	uses, err := l.KeyUses(ctx)
	if err != nil {
		return err
	}
	if err := checkUses(l.stream, uses, keys); err != nil {
		return err
	}
	if keys.Current() == nil {
		return nil
	}
	return l.engine.Setup(ctx, "mark of encryption", func(ctx context.Context) error {
		stream, err := l.engine.js.Stream(ctx, l.stream.CachedInfo().Config.Name)
		if err != nil || isMarked(stream) {
			return err
		}
		cfg := stream.CachedInfo().Config
		cfg.DenyDelete = true
		_, err = l.engine.js.UpdateStream(ctx, cfg)
		return err
	})
}

// checkUses returns an error if a key that the messages of a stream need is missing.
func checkUses(stream natsjs.Stream, uses []KeyUse, keys *keyring.Ring) error {
	for _, use := range uses {
		if !keys.Has(use.Key) {
			return fmt.Errorf("jetstream: %d messages of %s are encrypted: %w", use.Messages, stream.CachedInfo().Config.Name, &keyring.MissingKeyError{ID: use.Key})
		}
	}
	return nil
}

// isMarked reports whether the stream has or had encrypted messages. The mark is a setting that cannot be
// taken back, that has no effect on the gateway, and that earlier versions do not set: they fail to update
// the stream at their start.
func isMarked(stream natsjs.Stream) bool { return stream.CachedInfo().Config.DenyDelete }

// keepMark sets the mark of an existing stream in its new configuration.
func (e *Engine) keepMark(ctx context.Context, cfg *natsjs.StreamConfig) error {
	stream, err := e.js.Stream(ctx, cfg.Name)
	if errors.Is(err, natsjs.ErrStreamNotFound) {
		return nil
	}
	if err == nil && isMarked(stream) {
		cfg.DenyDelete = true
	}
	return err
}
