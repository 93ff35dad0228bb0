// SPDX-License-Identifier: Apache-2.0

package mockprovider

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

// sealed is a body of the content coding aes128gcm with the key that Web Push puts into its header, RFC 8188 2.1 and
// RFC 8291 4:
//
//	salt (16) | record size (4) | key length (1) | key (65) | one record
type sealed struct {
	salt   []byte
	sender *ecdh.PublicKey
	record []byte
}

// sealedHeader is the length of the header, and minSealed of a body whose record holds nothing: a delimiter and a tag.
const (
	sealedHeader = 16 + 4 + 1 + 65
	minSealed    = sealedHeader + 1 + 16
)

// readSealed checks all that can be checked without the subscription's key.
func readSealed(body []byte) (sealed, error) {
	if len(body) < minSealed {
		return sealed{}, fmt.Errorf("aes128gcm: %d bytes (at least %d: a header of %d, a delimiter and a tag)", len(body), minSealed, sealedHeader)
	}
	size, keyLength := binary.BigEndian.Uint32(body[16:20]), int(body[20])
	if keyLength != 65 {
		return sealed{}, fmt.Errorf("aes128gcm: the key ID has %d bytes (the sender's public key has 65)", keyLength)
	}
	sender, err := ecdh.P256().NewPublicKey(body[21:sealedHeader])
	if err != nil {
		return sealed{}, errors.New("aes128gcm: the key ID is no uncompressed point of P-256")
	}
	record := body[sealedHeader:]
	if size < 18 || uint64(len(record)) > uint64(size) {
		return sealed{}, fmt.Errorf("aes128gcm: record size %d for a record of %d bytes (a push message is one record, of 18 bytes or more)", size, len(record))
	}
	return sealed{salt: body[:16], sender: sender, record: record}, nil
}

// open decrypts as the browser does: RFC 8291 3.4 for the keys, RFC 8188 2 for the record.
func (s sealed) open(device *ecdh.PrivateKey, auth []byte) ([]byte, error) {
	key, nonce, err := s.keys(device, auth)
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
	padded, err := aead.Open(nil, nonce, s.record, nil)
	if err != nil {
		return nil, errors.New("aes128gcm: not sealed for this subscription (wrong p256dh or auth, or damaged on the way)")
	}
	return unpad(padded)
}

// keys derives the content encryption key and the nonce of the only record, whose number is 0.
func (s sealed) keys(device *ecdh.PrivateKey, auth []byte) (key, nonce []byte, err error) {
	shared, err := device.ECDH(s.sender)
	if err != nil {
		return nil, nil, err
	}
	info := "WebPush: info\x00" + string(device.PublicKey().Bytes()) + string(s.sender.Bytes())
	ikm, err := hkdf.Key(sha256.New, shared, auth, info, 32)
	if err != nil {
		return nil, nil, err
	}
	if key, err = hkdf.Key(sha256.New, ikm, s.salt, "Content-Encoding: aes128gcm\x00", 16); err != nil {
		return nil, nil, err
	}
	nonce, err = hkdf.Key(sha256.New, ikm, s.salt, "Content-Encoding: nonce\x00", 12)
	return key, nonce, err
}

// unpad takes the zeros and the delimiter of the last record off.
func unpad(padded []byte) ([]byte, error) {
	for i := len(padded) - 1; i >= 0; i-- {
		switch padded[i] {
		case 0:
		case 2:
			return padded[:i], nil
		default:
			return nil, errors.New("aes128gcm: the record does not end in the delimiter 0x02 of the last one")
		}
	}
	return nil, errors.New("aes128gcm: the record is nothing but padding")
}
