// SPDX-License-Identifier: Apache-2.0

package config_test

import (
	"encoding/json"
	"fmt"
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"

	"go.yaml.in/yaml/v4"

	"github.com/sluice-push/sluice/internal/config"
)

type node = map[string]any

// schemaErrors validates value against the subset of JSON Schema that config.Schema uses, and
// returns the violations.
func schemaErrors(root, schema node, path string, value any) (bad []string) {
	if ref, ok := schema["$ref"].(string); ok {
		schema = root["$defs"].(node)[strings.TrimPrefix(ref, "#/$defs/")].(node)
	}
	violation := func(why string, args ...any) { bad = append(bad, path+": "+fmt.Sprintf(why, args...)) }
	switch v := value.(type) {
	case node:
		if schema["type"] != "object" {
			violation("must not be an object")
			return bad
		}
		properties, _ := schema["properties"].(node)
		for key, inner := range v {
			property, known := properties[key].(node)
			if !known {
				property, known = schema["additionalProperties"].(node)
			}
			if !known {
				violation("unknown key %s", key)
				continue
			}
			bad = append(bad, schemaErrors(root, property, path+"."+key, inner)...)
		}
		required, _ := schema["required"].([]any)
		for _, key := range required {
			if _, found := v[key.(string)]; !found {
				violation("%s is required", key)
			}
		}
	case []any:
		if schema["type"] != "array" {
			violation("must not be an array")
			return bad
		}
		for i, inner := range v {
			bad = append(bad, schemaErrors(root, schema["items"].(node), fmt.Sprintf("%s[%d]", path, i), inner)...)
		}
	case string:
		pattern, _ := schema["pattern"].(string)
		if schema["type"] != "string" || !regexp.MustCompile(pattern).MatchString(v) {
			violation("%q does not match", v)
		}
	case float64:
		minimum, bounded := schema["minimum"].(float64)
		if schema["type"] != "integer" || bounded && (v < minimum || v > schema["maximum"].(float64)) {
			violation("%v is out of range", v)
		}
	case bool:
		if schema["type"] != "boolean" {
			violation("must not be a boolean")
		}
	}
	if words, ok := schema["enum"].([]any); ok && !slices.Contains(words, value) {
		violation("%v is not one of %v", value, words)
	}
	return bad
}

// toJSON converts YAML to decoded JSON.
func toJSON(t *testing.T, file []byte) (value any) {
	t.Helper()
	var decoded any
	if err := yaml.Load(file, &decoded); err != nil {
		t.Fatal(err)
	}
	text, err := json.Marshal(decoded)
	if err != nil {
		t.Fatal(err)
	}
	if err := json.Unmarshal(text, &value); err != nil {
		t.Fatal(err)
	}
	return value
}

func schema(t *testing.T) node {
	t.Helper()
	var s node
	if err := json.Unmarshal(config.Schema(), &s); err != nil {
		t.Fatal(err)
	}
	return s
}

func TestExampleMatchesSchema(t *testing.T) {
	file, err := os.ReadFile("../../examples/gateway.yaml")
	if err != nil {
		t.Fatal(err)
	}
	if bad := schemaErrors(schema(t), schema(t), "", toJSON(t, file)); bad != nil {
		t.Error(strings.Join(bad, "\n"))
	}
}

func TestSchemaRejectsWhatParseRejects(t *testing.T) {
	for _, file := range []string{
		"listen: 127.0.0.1:1\n", shopConfig + "lisen: x\n", shopConfig + "pool: {size: 65}\n", shopConfig + "log: {level: loud}\n",
		shopConfig + "drain: {grace: soon}\n", shopConfig + "queue: {nats: {replicas: 2}}\n", strings.Replace(shopConfig, hash, "sha256:beef", 1),
	} {
		if bad := schemaErrors(schema(t), schema(t), "", toJSON(t, []byte(file))); len(bad) == 0 {
			t.Errorf("the schema accepts\n%s", file)
		}
		parseErrors(t, file)
	}
}

func TestEveryKeyIsDocumented(t *testing.T) {
	s := schema(t)
	blocks := node{"Config": s}
	for name, def := range s["$defs"].(node) {
		blocks[name] = def
	}
	for name, block := range blocks {
		for key, property := range block.(node)["properties"].(node) {
			property := property.(node)
			if _, isBlock := property["$ref"]; !isBlock && len(property["description"].(string)) < 15 {
				t.Errorf("%s.%s has only the description %q", name, key, property["description"])
			}
		}
	}
	if !strings.Contains(config.Reference(), "#### pool.breaker.ejection\n\nDuration of the first ejection. Each") ||
		!strings.Contains(config.Reference(), "| duration | `ms`, `s`, `m`, `h` | `10s` | `100ms` to `1h` | yes | `ejection: 10s` | `SLUICE_POOL_BREAKER_EJECTION` |") {
		t.Error("the reference does not describe pool.breaker.ejection as expected")
	}
}
