// SPDX-License-Identifier: Apache-2.0

package jetstream_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	natsjs "github.com/nats-io/nats.go/jetstream"

	"github.com/sluice-push/sluice/internal/jetstream"
	"github.com/sluice-push/sluice/internal/jetstream/jetstreamtest"
	"github.com/sluice-push/sluice/internal/keyring"
	"github.com/sluice-push/sluice/internal/testwait"
)

// eachEngine runs a test with an embedded engine and with an external server.
func eachEngine(t *testing.T, test func(t *testing.T, cfg jetstream.Config)) {
	t.Run("embedded", func(t *testing.T) { test(t, jetstream.Config{Dir: t.TempDir(), Reserve: -1}) })
	t.Run("external", func(t *testing.T) { test(t, jetstream.Config{URL: jetstreamtest.StartServer(t)}) })
}

// rawMessages returns the messages of the stream as they are stored.
func (f *logFixture) rawMessages(t *testing.T) (messages []*natsjs.RawStreamMsg) {
	t.Helper()
	for seq := uint64(1); seq <= f.LastSeq(); seq++ {
		m, err := f.Stream().GetMsg(t.Context(), seq)
		if err != nil {
			t.Fatal(err)
		}
		messages = append(messages, m)
	}
	return messages
}

// appendTexts appends each text as a message of its own.
func (f *logFixture) appendTexts(t *testing.T, texts ...string) {
	t.Helper()
	for _, text := range texts {
		if _, err := f.Append(t.Context(), textRecord(text)); err != nil {
			t.Fatal(err)
		}
	}
}

// texts returns the stored records in order.
func (f *logFixture) texts(t *testing.T) (texts []string) {
	t.Helper()
	err := f.ReadFrom(t.Context(), 0, func(m *jetstream.Message) error {
		for _, r := range m.Records {
			texts = append(texts, string(r.Data))
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return texts
}

// needed returns how many messages need each key.
func (f *logFixture) needed(t *testing.T) map[keyring.ID]uint64 {
	t.Helper()
	uses, err := f.KeyUses(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	needed := map[keyring.ID]uint64{}
	for _, use := range uses {
		needed[use.Key] = use.Messages
	}
	return needed
}

// TestKeysOfLogAreRotated opens one log with no key, a key, another key before it, encryption off, and
// finally without the first key, when nothing needs it any more. Each start reads all records.
func TestKeysOfLogAreRotated(t *testing.T) {
	eachEngine(t, func(t *testing.T, cfg jetstream.Config) {
		first, second := keyring.NewKey(), keyring.NewKey()
		var want []string
		step := func(name string, keys *keyring.Ring, needed map[keyring.ID]uint64) *logFixture {
			t.Helper()
			cfg.Keys = keys
			f := openLogAt(t, cfg)
			f.appendTexts(t, name+" a", name+" b")
			want = append(want, name+" a", name+" b")
			if got := f.texts(t); !slices.Equal(got, want) {
				t.Errorf("%s: %q, want %q", name, got, want)
			}
			if got := f.needed(t); !cmp.Equal(got, needed) {
				t.Errorf("%s: needed keys %v, want %v", name, got, needed)
			}
			if err := f.CatchUp(t.Context()); err != nil {
				t.Error(err)
			}
			for _, m := range f.observed {
				if text := string(m.Records[0].Data); !strings.HasPrefix(text, name) || m.Records[0].Tag != text || m.Writer != f.Writer() {
					t.Errorf("%s: observed %q with tag %v by %q", name, text, m.Records[0].Tag, m.Writer)
				}
			}
			return f
		}
		step("clear", nil, map[keyring.ID]uint64{}).stop()
		f := step("first", keyring.NewRing(true, first), map[keyring.ID]uint64{first.ID(): 2})
		for _, m := range f.rawMessages(t)[2:] {
			if bytes.Contains(m.Data, []byte("first")) {
				t.Errorf("a message of the stream is %q", m.Data)
			}
		}
		f.stop()
		step("second", keyring.NewRing(true, second, first), map[keyring.ID]uint64{first.ID(): 2, second.ID(): 2}).stop()
		f = step("off", keyring.NewRing(false, second, first), map[keyring.ID]uint64{first.ID(): 2, second.ID(): 2})
		err := f.CheckKeys(t.Context(), keyring.NewRing(true, second))
		if missing, ok := errors.AsType[*keyring.MissingKeyError](err); !ok || missing.ID != first.ID() {
			t.Errorf("without the first key: %v", err)
		}
		if err := f.Delete(t.Context(), 5); err != nil { // by retention
			t.Fatal(err)
		}
		want = want[4:]
		f.stop()
		step("last", keyring.NewRing(true, second), map[keyring.ID]uint64{second.ID(): 4}).stop()
	})
}

// TestLogRefusesMissingKey opens an encrypted log without its key. The log is unchanged.
func TestLogRefusesMissingKey(t *testing.T) {
	eachEngine(t, func(t *testing.T, cfg jetstream.Config) {
		key := keyring.NewKey()
		cfg.Keys = keyring.NewRing(true, key)
		f := openLogAt(t, cfg)
		f.appendTexts(t, "text")
		f.stop()
		for _, keys := range []*keyring.Ring{nil, keyring.NewRing(true, keyring.NewKey())} {
			other := cfg
			other.Keys = keys
			e, err := jetstream.Open(t.Context(), other)
			if err != nil {
				t.Fatal(err)
			}
			_, err = e.Log(t.Context(), logStream(), "log", "")
			if missing, ok := errors.AsType[*keyring.MissingKeyError](err); !ok || missing.ID != key.ID() || !strings.Contains(err.Error(), key.ID().String()) {
				t.Error(err)
			}
			if err := e.Close(); err != nil {
				t.Error(err)
			}
		}
		if got := openLogAt(t, cfg).texts(t); !slices.Equal(got, []string{"text"}) {
			t.Errorf("%q", got)
		}
	})
}

// TestEarlierVersionRefusesEncryptedLog updates the stream as versions without encryption do: they would
// take encrypted records for damaged ones.
func TestEarlierVersionRefusesEncryptedLog(t *testing.T) {
	eachEngine(t, func(t *testing.T, cfg jetstream.Config) {
		earlier := func(f *logFixture) error {
			stream := logStream()
			stream.AllowDirect = f.engine.Embedded()
			_, err := f.engine.JetStream().CreateOrUpdateStream(t.Context(), stream)
			return err
		}
		f := openLogAt(t, cfg)
		if err := earlier(f); err != nil {
			t.Errorf("it refuses a log that was never encrypted: %v", err)
		}
		f.stop()
		for _, encrypt := range []bool{true, false} {
			cfg.Keys = keyring.NewRing(encrypt, keyring.NewKey())
			f = openLogAt(t, cfg)
			if err := earlier(f); err == nil {
				t.Error("it opens an encrypted log")
			}
			f.stop()
		}
	})
}

// TestKeysChangeWhileLogsWrite changes the keys of two logs of one cluster while they write, and cuts their
// connections. Every record is stored once.
func TestKeysChangeWhileLogsWrite(t *testing.T) {
	server := jetstreamtest.NewServer(t, t.TempDir())
	first, second := keyring.NewKey(), keyring.NewKey()
	cfg := jetstream.Config{URL: server.URL, Keys: keyring.NewRing(true, first, second)}
	checkFollowers(t, cfg, func(logs []*logFixture, appended func() int) {
		for i, keys := range []*keyring.Ring{
			keyring.NewRing(true, second, first), keyring.NewRing(false, first, second), keyring.NewRing(true, first, second), keyring.NewRing(false, first, second),
		} {
			at := appended() + 20
			testwait.Until(t, func() bool { return appended() >= at }, "writes before the change")
			if i%2 == 1 {
				server.Stop()
			}
			for _, f := range logs {
				f.engine.SetKeys(keys)
			}
			if i%2 == 1 {
				server.Start()
			}
		}
		last := appended()
		testwait.Until(t, func() bool { return appended() >= last+20 }, "writes after the last change")
		if needed := logs[0].needed(t); needed[first.ID()] == 0 || needed[second.ID()] == 0 {
			t.Errorf("needed keys %v, want both", needed)
		}
	})
}

// TestLogClosesIfItLacksKeyOfOtherGateway lets one gateway encrypt with a key that the other one does not
// have. The state of that one would not be that of the log any more.
func TestLogClosesIfItLacksKeyOfOtherGateway(t *testing.T) {
	cfg := jetstream.Config{URL: jetstreamtest.StartServer(t)}
	e, err := jetstream.Open(t.Context(), cfg)
	if err != nil {
		t.Fatal(err)
	}
	l, err := e.Log(t.Context(), logStream(), "log", "")
	if err != nil {
		t.Fatal(err)
	}
	ended := make(chan error, 1)
	go func() { ended <- l.Run(context.Background()) }()
	key := keyring.NewKey()
	cfg.Keys = keyring.NewRing(true, key)
	openLogAt(t, cfg).appendTexts(t, "text")
	err = testwait.For(t, ended, "the end of the log")
	if missing, ok := errors.AsType[*keyring.MissingKeyError](err); !ok || missing.ID != key.ID() || l.Err() == nil {
		t.Errorf("%v, %v", err, l.Err())
	}
	if err := e.Close(); err != nil {
		t.Error(err)
	}
}

const (
	// The lengths of the start of an encrypted message, and of what precedes a short record.
	messageStart, recordStart = 1 + keyring.HeaderLen + 4, 1 + 4
)

// findMessages returns where the messages that are encrypted with a key start in a block.
func findMessages(block []byte, key *keyring.Key) (starts []int) {
	id := key.ID()
	for at := 0; ; at++ {
		i := bytes.Index(block[at:], append([]byte{2}, id[:]...))
		if i < 0 {
			return starts
		}
		at += i
		starts = append(starts, at)
	}
}

func TestDamagedEncryptedRecordIsSkipped(t *testing.T) {
	key := keyring.NewKey()
	checkDamagedRecords(t, keyring.NewRing(true, key), func(block []byte) []int {
		m := findMessages(block, key)
		second := messageStart + recordStart + len("first message") + keyring.Overhead
		return []int{m[0] + second + recordStart + 3, m[1] + messageStart + recordStart + 3}
	})
}

// TestAlteredRecordIsDamaged stores messages whose records have a valid checksum and were altered, exchanged,
// or have a damaged header.
func TestAlteredRecordIsDamaged(t *testing.T) {
	var log bytes.Buffer
	key := keyring.NewKey()
	cfg := jetstream.Config{Dir: t.TempDir(), Reserve: -1, Keys: keyring.NewRing(true, key), Logger: slog.New(slog.NewTextHandler(&log, nil))}
	f := openLogAt(t, cfg)
	if _, err := f.Append(t.Context(), textRecord("one"), textRecord("two"), textRecord("six")); err != nil {
		t.Fatal(err)
	}
	message := f.rawMessages(t)[0]
	f.stop()
	e, err := jetstream.Open(t.Context(), cfg)
	if err != nil {
		t.Fatal(err)
	}
	size := recordStart + len("one") + keyring.Overhead
	for _, alter := range []func(data []byte){
		func(data []byte) { jetstream.AlterRecord(data[messageStart+size:][:size]) },
		func(data []byte) { // exchange the first and the last
			first := bytes.Clone(data[messageStart:][:size])
			copy(data[messageStart:], data[messageStart+2*size:])
			copy(data[messageStart+2*size:], first)
		},
		func(data []byte) { data[messageStart-10] ^= 1 }, // of the salt
		func(data []byte) { data[3] ^= 1 },               // of the ID of the key
	} {
		data := bytes.Clone(message.Data)
		alter(data)
		if _, err := e.JetStream().Publish(t.Context(), message.Subject, data); err != nil {
			t.Fatal(err)
		}
	}
	if err := e.Close(); err != nil {
		t.Fatal(err)
	}
	f = openLogAt(t, cfg)
	want := map[jetstream.Offset]string{
		{Seq: 1}: "one", {Seq: 1, Index: 1}: "two", {Seq: 1, Index: 2}: "six",
		{Seq: 2}: "one", {Seq: 2, Index: 1}: "", {Seq: 2, Index: 2}: "six",
		{Seq: 3}: "", {Seq: 3, Index: 1}: "two",
	}
	if got := f.stored(t); fmt.Sprint(got) != fmt.Sprint(want) {
		t.Errorf("%v, want %v", got, want)
	}
	f.stop()
	if text := log.String(); strings.Count(text, "record cannot be decrypted") != 1 || !strings.Contains(text, "seq=2 index=1 key="+key.ID().String()) {
		t.Errorf("the log says %s", text)
	}
}
