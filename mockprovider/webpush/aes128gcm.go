// SPDX-License-Identifier: Apache-2.0

package webpush

import (
	"crypto/aes"
	"crypto/cipher"
	"crypto/ecdh"
	"crypto/hkdf"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
)

// encrypted is a body with the content coding aes128gcm (RFC 8188, section 2.1), whose header holds the
// public key of the sender (RFC 8291, section 4). The numbers are lengths in bytes:
//
//	salt (16) | record size (4) | key length (1) | key (65) | one record
type encrypted struct {
	salt   []byte
	sender *ecdh.PublicKey
	record []byte
}

const (
	headerLen = 16 + 4 + 1 + 65
	minLen    = headerLen + 1 + 16 // the record of an empty message is a delimiter and a tag
)

// parseEncrypted parses a body, and checks everything that does not need the key of the subscription.
func parseEncrypted(body []byte) (encrypted, error) {
	if len(body) < minLen {
		return encrypted{}, fmt.Errorf("aes128gcm: %d bytes (at least %d: a header of %d, a delimiter and a tag)", len(body), minLen, headerLen)
	}
	size, keyLength := binary.BigEndian.Uint32(body[16:20]), int(body[20])
	if keyLength != 65 {
		return encrypted{}, fmt.Errorf("aes128gcm: the key ID has %d bytes (the sender's public key has 65)", keyLength)
	}
	sender, err := ecdh.P256().NewPublicKey(body[21:headerLen])
	if err != nil {
		return encrypted{}, errors.New("aes128gcm: the key ID is not an uncompressed point of P-256")
	}
	record := body[headerLen:]
	if size < 18 || uint64(len(record)) > uint64(size) {
		return encrypted{}, fmt.Errorf("aes128gcm: record size %d for a record of %d bytes (a push message is one record, of 18 bytes or more)", size, len(record))
	}
	return encrypted{salt: body[:16], sender: sender, record: record}, nil
}

// decrypt decrypts the message as a browser does (RFC 8291, section 3.4, and RFC 8188, section 2).
func (e encrypted) decrypt(device *ecdh.PrivateKey, auth []byte) ([]byte, error) {
	key, nonce, err := e.keys(device, auth)
	if err != nil {
		return nil, err
	}
	block, err := aes.NewCipher(key)
	if err != nil {
		return nil, err
	}
	aead, err := cipher.NewGCM(block)
	if err != nil {
		return nil, err
	}
	padded, err := aead.Open(nil, nonce, e.record, nil)
	if err != nil {
		return nil, errors.New("aes128gcm: not encrypted for this subscription (wrong p256dh or auth, or a damaged message)")
	}
	return unpad(padded)
}

// keys derives the content encryption key and the nonce of the only record, record 0.
func (e encrypted) keys(device *ecdh.PrivateKey, auth []byte) (key, nonce []byte, err error) {
	shared, err := device.ECDH(e.sender)
	if err != nil {
		return nil, nil, err
	}
	info := "WebPush: info\x00" + string(device.PublicKey().Bytes()) + string(e.sender.Bytes())
	ikm, err := hkdf.Key(sha256.New, shared, auth, info, 32)
	if err != nil {
		return nil, nil, err
	}
	if key, err = hkdf.Key(sha256.New, ikm, e.salt, "Content-Encoding: aes128gcm\x00", 16); err != nil {
		return nil, nil, err
	}
	nonce, err = hkdf.Key(sha256.New, ikm, e.salt, "Content-Encoding: nonce\x00", 12)
	return key, nonce, err
}

// unpad removes the zeros and the delimiter at the end of the last record.
func unpad(padded []byte) ([]byte, error) {
	for i := len(padded) - 1; i >= 0; i-- {
		switch padded[i] {
		case 0:
		case 2:
			return padded[:i], nil
		default:
			return nil, errors.New("aes128gcm: the record does not end with 0x02, the delimiter of the last record")
		}
	}
	return nil, errors.New("aes128gcm: the record has no delimiter, only padding")
}
