// SPDX-License-Identifier: Apache-2.0

package keyring_test

import (
	"bytes"
	"encoding/hex"
	"errors"
	"fmt"
	"strings"
	"testing"

	"github.com/sluice-push/sluice/internal/keyring"
)

func TestRingDecryptsWithEveryKey(t *testing.T) {
	first, second := keyring.NewKey(), keyring.NewKey()
	before := keyring.NewRing(true, first)
	header, box := before.Current().NewBox()
	sealed := box.Seal([]byte("prefix"), 7, []byte("a token"))
	if bytes.Contains(sealed, []byte("token")) || len(sealed) != len("prefix")+len("a token")+keyring.Overhead {
		t.Errorf("sealed %q", sealed)
	}
	for name, ring := range map[string]*keyring.Ring{
		"same": before, "rotated": keyring.NewRing(true, second, first), "off": keyring.NewRing(false, first),
	} {
		box, err := ring.Open(header)
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		if item, err := box.Open(nil, 7, sealed[len("prefix"):]); err != nil || string(item) != "a token" {
			t.Errorf("%s: %q, %v", name, item, err)
		}
	}
	for name, ring := range map[string]*keyring.Ring{"other": keyring.NewRing(true, second), "empty": keyring.NewRing(true), "nil": nil} {
		_, err := ring.Open(header)
		if missing, ok := errors.AsType[*keyring.MissingKeyError](err); !ok || missing.ID != first.ID() {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestOnlyCurrentKeyEncrypts(t *testing.T) {
	first, second := keyring.NewKey(), keyring.NewKey()
	if k := keyring.NewRing(true, first, second).Current(); k != first {
		t.Errorf("current %v, want %v", k, first)
	}
	for name, ring := range map[string]*keyring.Ring{"off": keyring.NewRing(false, first), "empty": keyring.NewRing(true), "nil": nil} {
		if ring.Current() != nil {
			t.Errorf("%s encrypts", name)
		}
	}
}

func TestSealedItemsCannotBeExchanged(t *testing.T) {
	key := keyring.NewKey()
	_, one := key.NewBox()
	_, other := key.NewBox()
	sealed := one.Seal(nil, 0, []byte("item"))
	altered := bytes.Clone(sealed)
	altered[0] ^= 1
	for name, open := range map[string]func() ([]byte, error){
		"other index": func() ([]byte, error) { return one.Open(nil, 1, sealed) },
		"other box":   func() ([]byte, error) { return other.Open(nil, 0, sealed) },
		"altered":     func() ([]byte, error) { return one.Open(nil, 0, altered) },
		"truncated":   func() ([]byte, error) { return one.Open(nil, 0, sealed[:3]) },
	} {
		if item, err := open(); err == nil {
			t.Errorf("%s: %q", name, item)
		}
	}
}

func TestEqualItemsLookDifferent(t *testing.T) {
	key, seen := keyring.NewKey(), map[string]bool{}
	for range 100 {
		header, box := key.NewBox()
		for index := range 10 {
			seen[string(box.Seal(nil, index, []byte("item")))] = true
		}
		seen[string(header)] = true
	}
	if len(seen) != 1100 {
		t.Errorf("%d different texts, want 1100", len(seen))
	}
}

func TestParseKey(t *testing.T) {
	key := keyring.NewKey()
	parsed, err := keyring.ParseKey([]byte(" " + key.Text() + "\r\n"))
	if err != nil || parsed.ID() != key.ID() {
		t.Errorf("%v, %v, want %v", parsed, err, key)
	}
	secret := strings.Repeat("A", 43) + "="
	if _, err := keyring.ParseKey([]byte(secret)); err != nil { // as openssl rand -base64 32 prints it
		t.Error(err)
	}
	for _, text := range []string{"", "# a comment", "AAAA", secret + secret, key.Text() + key.Text(), strings.Repeat("z", 43) + "!", "-----BEGIN PRIVATE KEY-----"} {
		if _, err := keyring.ParseKey([]byte(text)); !errors.Is(err, keyring.ErrInvalidKey) {
			t.Errorf("%q: %v", text, err)
		}
	}
}

func TestKeyIsNotPrinted(t *testing.T) {
	key := keyring.NewKey()
	ring := keyring.NewRing(true, key)
	_, secret, _ := strings.Cut(strings.TrimSpace(key.Text()), "\n")
	for _, format := range []string{"%v", "%+v", "%#v", "%s", "%q", "%x"} {
		if text := fmt.Sprintf(format, key); strings.Contains(text, secret) || !strings.Contains(text, key.ID().String()) {
			t.Errorf("%s prints %q", format, text)
		}
	}
	if text := fmt.Sprintf("%+v", ring.Keys()); strings.Contains(text, secret) {
		t.Errorf("a ring prints %q", text)
	}
}

// BenchmarkMessage measures the encryption and decryption of a message with 500 records of 250 bytes.
func BenchmarkMessage(b *testing.B) {
	ring := keyring.NewRing(true, keyring.NewKey())
	const items = 500
	item := bytes.Repeat([]byte("x"), 250)
	var message, plain []byte
	header, box := ring.Current().NewBox()
	for index := range items {
		message = box.Seal(message, index, item)
	}
	b.Run("seal", func(b *testing.B) {
		b.SetBytes(items * int64(len(item)))
		b.ReportAllocs()
		sealed := make([]byte, 0, len(message))
		for b.Loop() {
			_, box := ring.Current().NewBox()
			sealed = sealed[:0]
			for index := range items {
				sealed = box.Seal(sealed, index, item)
			}
		}
	})
	b.Run("open", func(b *testing.B) {
		b.SetBytes(items * int64(len(item)))
		b.ReportAllocs()
		for b.Loop() {
			box, err := ring.Open(header)
			if err != nil {
				b.Fatal(err)
			}
			plain = plain[:0]
			for index := range items {
				if plain, err = box.Open(plain, index, message[index*(len(item)+keyring.Overhead):][:len(item)+keyring.Overhead]); err != nil {
					b.Fatal(err)
				}
			}
		}
	})
}

// TestFormatOnDisk opens an item that was sealed when the format was defined.
func TestFormatOnDisk(t *testing.T) {
	key, err := keyring.ParseKey([]byte("AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8="))
	if err != nil {
		t.Fatal(err)
	}
	header, _ := hex.DecodeString("d67b3ab1e3ac8e18" + "202122232425262728292a2b2c2d2e2f3031323334353637")
	sealed, _ := hex.DecodeString("48028f060a131dff8f6f444282600731e92fe0ce")
	box, err := keyring.NewRing(false, key).Open(header)
	if err != nil {
		t.Fatal(err)
	}
	if item, err := box.Open(nil, 258, sealed); err != nil || string(item) != "item" {
		t.Errorf("%q, %v", item, err)
	}
}
