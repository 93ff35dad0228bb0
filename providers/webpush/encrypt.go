// SPDX-License-Identifier: Apache-2.0

package webpush

import (
	"crypto/aes"
	"crypto/cipher"
	"crypto/ecdh"
	"crypto/hkdf"
	"crypto/rand"
	"crypto/sha256"
	"encoding/binary"
)

const (
	// recordSize is the record size in the header. A push message is one record (RFC 8291, section
	// 4), and push services must accept bodies of at least 4096 bytes; most accept no more (RFC
	// 8030, section 7.2).
	recordSize = 4096
	saltSize   = 16
	headerSize = saltSize + 4 + 1 + 65 // salt, record size, key length, key (RFC 8188, section 2.1)
	// maxPlaintext is what remains after the header, the delimiter and the authentication tag.
	maxPlaintext = recordSize - headerSize - 1 - 16
)

// encrypt returns the body for the recipient, with a new key and salt for each call.
func (b *recipient) encrypt(plaintext []byte) ([]byte, error) {
	sender, err := ecdh.P256().GenerateKey(rand.Reader)
	if err != nil {
		return nil, err
	}
	salt := make([]byte, saltSize)
	_, _ = rand.Read(salt) // never fails
	return b.seal(plaintext, sender, salt)
}

// seal encrypts as in RFC 8291, section 3.4, with the single record of RFC 8188.
func (b *recipient) seal(plaintext []byte, sender *ecdh.PrivateKey, salt []byte) ([]byte, error) {
	aead, nonce, err := b.contentKey(sender, salt)
	if err != nil {
		return nil, err
	}
	body := make([]byte, 0, headerSize+len(plaintext)+1+aead.Overhead())
	body = append(body, salt...)
	body = binary.BigEndian.AppendUint32(body, recordSize)
	body = append(body, 65)
	body = append(body, sender.PublicKey().Bytes()...)
	record := append(append(make([]byte, 0, len(plaintext)+1), plaintext...), 2) // the delimiter of the last record
	return aead.Seal(body, nonce, record, nil), nil
}

// contentKey derives the cipher and the nonce of the first record.
func (b *recipient) contentKey(sender *ecdh.PrivateKey, salt []byte) (cipher.AEAD, []byte, error) {
	shared, err := sender.ECDH(b.publicKey)
	if err != nil {
		return nil, nil, err
	}
	info := "WebPush: info\x00" + string(b.publicKey.Bytes()) + string(sender.PublicKey().Bytes())
	material, err := hkdf.Key(sha256.New, shared, b.authSecret, info, 32)
	if err != nil {
		return nil, nil, err
	}
	key, err := hkdf.Key(sha256.New, material, salt, "Content-Encoding: aes128gcm\x00", 16)
	if err != nil {
		return nil, nil, err
	}
	nonce, err := hkdf.Key(sha256.New, material, salt, "Content-Encoding: nonce\x00", 12)
	if err != nil {
		return nil, nil, err
	}
	block, err := aes.NewCipher(key)
	if err != nil {
		return nil, nil, err
	}
	aead, err := cipher.NewGCM(block)
	return aead, nonce, err
}
