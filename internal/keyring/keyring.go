// SPDX-License-Identifier: Apache-2.0

// Package keyring encrypts data at rest with keys of which one encrypts and all decrypt. It reads no
// files and knows nothing of what it encrypts.
package keyring

import (
	"bytes"
	"crypto/aes"
	"crypto/cipher"
	"crypto/hkdf"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"slices"
)

const (
	keyLen  = 32 // AES-256
	saltLen = 24
	// HeaderLen is the length of the header of a box.
	HeaderLen = len(ID{}) + saltLen
	// Overhead is what Seal adds to an item.
	Overhead = 16
)

// What a key is used for, so that its results for different purposes are independent.
const (
	purposeID  = "sluice key id"
	purposeBox = "sluice box "
)

// ID identifies a key. It is derived from the key and does not reveal it.
type ID [8]byte

// String returns the ID as 16 hex digits.
func (id ID) String() string { return hex.EncodeToString(id[:]) }

// ParseID parses the text of an ID.
func ParseID(text string) (id ID, err error) {
	if len(text) != hex.EncodedLen(len(id)) {
		return ID{}, fmt.Errorf("keyring: invalid ID %q", text)
	}
	_, err = hex.Decode(id[:], []byte(text))
	return id, err
}

// Key is a secret of 256 random bits. It never appears in the output of package fmt.
type Key struct {
	id     ID
	secret []byte
}

// NewKey returns a new key.
func NewKey() *Key {
	secret := make([]byte, keyLen)
	_, _ = rand.Read(secret) // never fails
	return newKey(secret)
}

func newKey(secret []byte) *Key {
	k := &Key{secret: secret}
	copy(k.id[:], k.derive(purposeID, len(k.id)))
	return k
}

// ErrInvalidKey means that a text is not a key.
var ErrInvalidKey = errors.New("must be 32 random bytes in base64, as gateway key encryption prints them")

// ParseKey returns the key in a text: 32 bytes in base64, with or without white space around it, after any
// number of lines that start with #.
func ParseKey(text []byte) (*Key, error) {
	text = bytes.TrimSpace(text)
	for bytes.HasPrefix(text, []byte{'#'}) {
		_, text, _ = bytes.Cut(text, []byte{'\n'})
		text = bytes.TrimSpace(text)
	}
	secret, err := base64.StdEncoding.DecodeString(string(text))
	if err != nil || len(secret) != keyLen {
		return nil, ErrInvalidKey
	}
	return newKey(secret), nil
}

// ID returns the ID of the key.
func (k *Key) ID() ID { return k.id }

// Text returns the text that ParseKey parses: the content of a key file. Its first line names the ID.
func (k *Key) Text() string {
	return "# Sluice encryption key " + k.id.String() + "\n" + base64.StdEncoding.EncodeToString(k.secret) + "\n"
}

// Format implements fmt.Formatter, so that no format prints the secret.
func (k *Key) Format(s fmt.State, _ rune) { _, _ = fmt.Fprintf(s, "key %s", k.id) }

// derive returns bytes that depend on the key and on info. It is HKDF without its first step, which a key
// that is uniformly random does not need (RFC 5869, section 3.3).
func (k *Key) derive(info string, length int) []byte {
	derived, err := hkdf.Expand(sha256.New, k.secret, info, length)
	if err != nil {
		panic(err) // only if length is too large
	}
	return derived
}

// box returns the box with a salt.
func (k *Key) box(salt []byte) *Box {
	block, err := aes.NewCipher(k.derive(purposeBox+string(salt), keyLen))
	if err != nil {
		panic(err) // only if the key has the wrong length
	}
	aead, err := cipher.NewGCM(block)
	if err != nil {
		panic(err) // only if the block has the wrong length
	}
	return &Box{aead: aead}
}

// Ring is a set of keys. It does not change. A nil *Ring has no keys and encrypts nothing.
type Ring struct {
	keys    []*Key
	encrypt bool
}

// NewRing returns a ring of keys. The first one encrypts, if encrypt is set; all decrypt.
func NewRing(encrypt bool, keys ...*Key) *Ring {
	return &Ring{slices.Clone(keys), encrypt && len(keys) > 0}
}

// Current returns the key that encrypts, or nil if nothing is encrypted.
func (r *Ring) Current() *Key {
	if r == nil || !r.encrypt {
		return nil
	}
	return r.keys[0]
}

// Keys returns all keys.
func (r *Ring) Keys() []*Key {
	if r == nil {
		return nil
	}
	return slices.Clone(r.keys)
}

// Has reports whether the ring has the key with an ID.
func (r *Ring) Has(id ID) bool { return r.find(id) != nil }

func (r *Ring) find(id ID) *Key {
	if r == nil {
		return nil
	}
	for _, k := range r.keys {
		if k.id == id {
			return k
		}
	}
	return nil
}

// MissingKeyError means that something is encrypted with a key that the ring does not have.
type MissingKeyError struct{ ID ID }

// Error names the key.
func (e *MissingKeyError) Error() string { return "the key " + e.ID.String() + " is missing" }

// Open returns the box with a header of HeaderLen bytes that NewBox has returned. The error is a
// *MissingKeyError.
func (r *Ring) Open(header []byte) (*Box, error) {
	id := ID(header)
	k := r.find(id)
	if k == nil {
		return nil, &MissingKeyError{id}
	}
	return k.box(header[len(id):HeaderLen]), nil
}

// Box encrypts and decrypts the items of one message. Each box has a key of its own, derived from the key
// and a random salt of 192 bits, so the nonce of an item is its index. The items cannot be exchanged with
// each other or with those of another box. A Box is not safe for concurrent use.
type Box struct {
	aead  cipher.AEAD
	nonce [12]byte
}

// NewBox returns a new box and its header, from which Ring.Open makes the box again. The header is not
// secret.
func (k *Key) NewBox() (header []byte, b *Box) {
	header = make([]byte, HeaderLen)
	n := copy(header, k.id[:])
	_, _ = rand.Read(header[n:]) // never fails
	return header, k.box(header[n:])
}

// Seal appends the encrypted form of an item to dst. It must be called once for each index.
func (b *Box) Seal(dst []byte, index int, item []byte) []byte {
	return b.aead.Seal(dst, b.nonceOf(index), item, nil)
}

// errAltered means that an item was not sealed with this box and index, or has changed since.
var errAltered = errors.New("keyring: altered data")

// Open appends the item with an index to dst.
func (b *Box) Open(dst []byte, index int, sealed []byte) ([]byte, error) {
	opened, err := b.aead.Open(dst, b.nonceOf(index), sealed, nil)
	if err != nil {
		return nil, errAltered
	}
	return opened, nil
}

// nonceOf returns the nonce of the item with an index, until the next call.
func (b *Box) nonceOf(index int) []byte {
	binary.BigEndian.PutUint64(b.nonce[4:], uint64(index))
	return b.nonce[:]
}
