// SPDX-License-Identifier: Apache-2.0

// Command generate writes examples/notifications.ndjson, a representative mix
// of notifications, and the expected result of each line to
// examples/notifications.expected.ndjson. The expected results follow from the
// providers' documentation and from the mock's conventions for tokens, not from
// the code of the gateway.
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

// object is a JSON object.
type object = map[string]any

// line is one line of the input and its expected result. The input is a string
// because some lines are not valid JSON.
type line struct {
	input  string
	expect expectation
}

// expectation holds the members of a receipt that the protocols determine.
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

// generateAll generates all lines and shuffles them.
func generateAll(random *rand.Rand) []line {
	g := generator{random: random}
	var lines []line
	for _, kind := range []struct {
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
		for i := range kind.count {
			lines = append(lines, kind.make(i))
		}
	}
	random.Shuffle(len(lines), func(i, j int) { lines[i], lines[j] = lines[j], lines[i] })
	for i := range lines {
		lines[i].expect.Index = i
	}
	return lines
}

// write writes the two files to dir.
func write(dir string, lines []line) error {
	input, err := os.Create(filepath.Join(dir, "notifications.ndjson"))
	if err != nil {
		return err
	}
	defer input.Close()
	expected, err := os.Create(filepath.Join(dir, "notifications.expected.ndjson"))
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

// marshalLine encodes an object as one line of JSON without escaping HTML or
// non-ASCII characters.
func marshalLine(o object) string {
	var b strings.Builder
	encoder := json.NewEncoder(&b)
	encoder.SetEscapeHTML(false)
	if err := encoder.Encode(o); err != nil {
		log.Fatal(err)
	}
	return strings.TrimSpace(b.String())
}
