// SPDX-License-Identifier: Apache-2.0

package jsonobj_test

import (
	"encoding/json"
	"fmt"
	"testing"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"github.com/sluice-push/sluice/internal/jsonobj"
)

func ExampleWriter() {
	var w jsonobj.Writer
	w.Open("")
	w.Open("aps")
	w.Text("alert", "Hello", "title")
	w.Text("sound", "", "sound") // an empty string is not written
	w.Number("badge", 0)
	w.Close()
	w.Texts(map[string]string{"screen": "home", "from": ""}, "data")
	w.Close()
	fmt.Println(string(w.Bytes))
	// Output: {"aps":{"alert":"Hello","badge":0},"from":"","screen":"home"}
}

func TestInvalidUTF8NamesFirstField(t *testing.T) {
	for field, write := range map[string]func(*jsonobj.Writer){
		"":     func(w *jsonobj.Writer) { w.Text("a", "é\u2028\x00", "body") },
		"body": func(w *jsonobj.Writer) { w.Text("a", "\xff", "body"); w.Texts(map[string]string{"\xff": ""}, "data") },
		"data": func(w *jsonobj.Writer) { w.Texts(map[string]string{"a": "\xff"}, "data"); w.Text("b", "\xff", "body") },
		"x":    func(w *jsonobj.Writer) { w.Name("\xff", "x"); w.Open("") },
	} {
		var w jsonobj.Writer
		w.Open("")
		write(&w)
		if w.InvalidField != field {
			t.Errorf("InvalidField = %q, want %q", w.InvalidField, field)
		}
	}
}

func TestOutputIsDeterministicAndValid(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		entries := rapid.MapOfN(rapid.String(), rapid.String(), 0, 40).Draw(t, "entries")
		number := rapid.Int().Draw(t, "number")
		write := func() []byte {
			var w jsonobj.Writer
			w.Open("")
			w.Open("texts")
			w.Texts(entries, "data")
			w.Close()
			w.Number("number", number)
			w.Close()
			return w.Bytes
		}
		var back struct {
			Texts  map[string]string
			Number int
		}
		if err := json.Unmarshal(write(), &back); err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(entries, back.Texts); diff != "" || back.Number != number {
			t.Fatalf("number %d and %d, strings written (-) and read (+):\n%s", number, back.Number, diff)
		}
		if diff := cmp.Diff(string(write()), string(write())); diff != "" {
			t.Fatal(diff)
		}
	})
}
