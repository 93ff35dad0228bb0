// SPDX-License-Identifier: Apache-2.0

// Command generate writes examples/notifications.ndjson, a day in the life of
// a gateway, and beside it what must come of each line. It knows the
// providers' documents and the mock's conventions for tokens, and nothing of
// the gateway: what it expects is the protocol's word, not our code's.
//
//	go run ./examples/generate
package main

import (
	"bufio"
	"encoding/json"
	"fmt"
	"log"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
)

// object is a JSON object to be.
type object = map[string]any

// line is one line of the input with what must come of it. The input is text,
// for some lines are not JSON.
type line struct {
	input  string
	expect expectation
}

// expectation names the members of a receipt that the protocol determines.
type expectation struct {
	Index       int    `json:"index"`
	Status      string `json:"status"`
	Reason      string `json:"reason,omitempty"`
	Field       string `json:"field,omitempty"`
	ForgetToken bool   `json:"forget_token,omitempty"`
	Attempts    int    `json:"attempts"`
}

func main() {
	log.SetFlags(0)
	lines := generateAll(rand.New(rand.NewPCG(20261122, 1)))
	if err := write("examples", lines); err != nil {
		log.Fatal(err)
	}
	fmt.Printf("%d notifications written to examples\n", len(lines))
}

// generateAll makes each kind of line as often as it occurs and shuffles them.
func generateAll(random *rand.Rand) []line {
	g := generator{random: random}
	var lines []line
	for _, part := range []struct {
		count int
		make  func(i int) line
	}{
		{620, g.alert},
		{180, g.background},
		{160, g.voip},
		{160, g.liveActivity},
		{640, g.fcmToken},
		{160, g.fcmTopic},
		{120, g.fcmCondition},
		{110, g.invalidToken},
		{12, g.oversized},
		{malformedKindCount() * 2, g.malformed},
	} {
		for i := range part.count {
			lines = append(lines, part.make(i))
		}
	}
	random.Shuffle(len(lines), func(i, j int) { lines[i], lines[j] = lines[j], lines[i] })
	for i := range lines {
		lines[i].expect.Index = i
	}
	return lines
}

// write puts the two files side by side.
func write(folder string, lines []line) error {
	input, err := os.Create(filepath.Join(folder, "notifications.ndjson"))
	if err != nil {
		return err
	}
	defer input.Close()
	expected, err := os.Create(filepath.Join(folder, "notifications.expected.ndjson"))
	if err != nil {
		return err
	}
	defer expected.Close()

	in, out := bufio.NewWriter(input), bufio.NewWriter(expected)
	encoder := json.NewEncoder(out)
	for _, l := range lines {
		if _, err := in.WriteString(l.input + "\n"); err != nil {
			return err
		}
		if err := encoder.Encode(l.expect); err != nil {
			return err
		}
	}
	if err := in.Flush(); err != nil {
		return err
	}
	return out.Flush()
}

// marshalLine renders an object as one line of JSON, with its emoji and scripts as
// they are.
func marshalLine(o object) string {
	var b strings.Builder
	encoder := json.NewEncoder(&b)
	encoder.SetEscapeHTML(false)
	if err := encoder.Encode(o); err != nil {
		log.Fatal(err)
	}
	return strings.TrimSpace(b.String())
}
