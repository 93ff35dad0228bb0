// SPDX-License-Identifier: Apache-2.0

package webpush

import (
	"bytes"
	"crypto/aes"
	"crypto/cipher"
	"crypto/ecdh"
	"crypto/rand"
	"encoding/binary"
	"testing"

	"github.com/sluice-push/sluice/mockprovider/webpush/webpushtest"
)

const rfc8291Plaintext = "When I grow up, I want to be a watermelon"

// rfc8291 returns the example of RFC 8291, section 5.
func rfc8291(tb testing.TB) (device *ecdh.PrivateKey, auth, body []byte) {
	tb.Helper()
	device, err := ecdh.P256().NewPrivateKey(webpushtest.Decode(tb, "q1dXpw3UpT5VOmu_cf_v6ih07Aems3njxI-JWgLcM94"))
	if err != nil {
		tb.Fatal(err)
	}
	return device, webpushtest.Decode(tb, "BTBZMqHH6r4Tts7J_aSIgg"), webpushtest.RFC8291(tb)
}

func TestExampleOfRFC8291IsDecrypted(t *testing.T) {
	device, auth, body := rfc8291(t)
	e, err := parseEncrypted(body)
	if err != nil {
		t.Fatal(err)
	}
	text, err := e.decrypt(device, auth)
	if err != nil || string(text) != rfc8291Plaintext {
		t.Errorf("got %q, %v", text, err)
	}
	for i := range body {
		damaged := bytes.Clone(body)
		damaged[i] ^= 1
		if e, err := parseEncrypted(damaged); err == nil && (i < 16 || i > 19) { // the record size may have another value
			if _, err := e.decrypt(device, auth); err == nil {
				t.Errorf("a change of byte %d is not detected", i)
			}
		}
	}
}

func TestRecordEndsWithItsDelimiter(t *testing.T) {
	for padded, want := range map[string]string{"a\x02": "a", "a\x02\x00\x00": "a", "\x02": "", "a\x00\x02\x02": "a\x00\x02"} {
		if got, err := unpad([]byte(padded)); err != nil || string(got) != want {
			t.Errorf("%q: got %q, %v", padded, got, err)
		}
	}
	for _, padded := range []string{"", "a", "a\x01", "\x00\x00", "a\x02\x00b"} {
		if got, err := unpad([]byte(padded)); err == nil {
			t.Errorf("%q: got %q", padded, got)
		}
	}
}

// FuzzDecrypt checks that no body panics, and that no body except the RFC's is decrypted with its keys.
func FuzzDecrypt(f *testing.F) {
	device, auth, valid := rfc8291(f)
	f.Add(valid)
	f.Add(valid[:minLen])
	f.Add(append(bytes.Clone(valid), 0))
	f.Fuzz(func(t *testing.T, body []byte) {
		e, err := parseEncrypted(body)
		if err != nil {
			return
		}
		text, err := e.decrypt(device, auth)
		if err == nil && string(text) != rfc8291Plaintext {
			t.Fatalf("%x is decrypted as %q", body, text)
		}
	})
}

// FuzzEncryptedRecord checks that records of any padding and record size are decrypted according to
// RFC 8188.
func FuzzEncryptedRecord(f *testing.F) {
	device, auth, _ := rfc8291(f)
	f.Add([]byte("Hello\x02"), uint32(4096))
	f.Add([]byte("Hello\x02\x00\x00"), uint32(24))
	f.Add([]byte("\x02"), uint32(18))
	f.Add([]byte("Hello\x01"), uint32(17))
	f.Fuzz(func(t *testing.T, padded []byte, size uint32) {
		e, err := parseEncrypted(encryptRecord(t, device, auth, padded, size))
		if fits := size >= 18 && uint64(len(padded)+16) <= uint64(size) && len(padded) > 0; fits != (err == nil) {
			t.Fatalf("a record of %d bytes with record size %d: %v", len(padded)+16, size, err)
		}
		if err != nil {
			return
		}
		text, err := e.decrypt(device, auth)
		want, valid := bytes.CutSuffix(bytes.TrimRight(padded, "\x00"), []byte{2})
		if valid != (err == nil) || valid && !bytes.Equal(text, want) {
			t.Fatalf("%q is decrypted as %q: %v", padded, text, err)
		}
	})
}

// encryptRecord encrypts a record that includes its padding.
func encryptRecord(t *testing.T, device *ecdh.PrivateKey, auth, padded []byte, size uint32) []byte {
	t.Helper()
	sender, err := ecdh.P256().GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	header := binary.BigEndian.AppendUint32(bytes.Repeat([]byte{7}, 16), size)
	header = append(append(header, 65), sender.PublicKey().Bytes()...)
	// The receiver's side of the derivation gives the same keys as the sender's.
	key, nonce, err := encrypted{salt: header[:16], sender: sender.PublicKey()}.keys(device, auth)
	if err != nil {
		t.Fatal(err)
	}
	block, err := aes.NewCipher(key)
	if err != nil {
		t.Fatal(err)
	}
	aead, err := cipher.NewGCM(block)
	if err != nil {
		t.Fatal(err)
	}
	return aead.Seal(header, nonce, padded, nil)
}
