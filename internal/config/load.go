// SPDX-License-Identifier: Apache-2.0

package config

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"reflect"

	"go.yaml.in/yaml/v4"
)

// Load reads the file at path and applies the overrides in env, which has the form of os.Environ.
// The error is an Errors with all errors in the file, or the reason why the file could not be read.
func Load(path string, env []string) (*Config, error) {
	data, err := os.ReadFile(path)
	if err != nil {
		return nil, fmt.Errorf("config: %w", err)
	}
	return Parse(path, data, env)
}

// Parse is like Load, but for a file that is already in memory. Errors contain the file's name, and
// relative paths in the file start at the folder of that name.
func Parse(name string, data []byte, env []string) (*Config, error) {
	node, err := document(data)
	if err != nil {
		return nil, Errors{syntaxError(name, err)}
	}
	vars := overrides(env)
	cfg, found := decode(name, node, vars, false)
	if len(found) > 0 {
		cfg, found = decode(name, node, vars, true)
	}
	if len(found) > 0 {
		return nil, found.sorted()
	}
	return cfg, nil
}

// decode returns a configuration, or the errors in it. Without describe, their positions and hints
// are missing.
func decode(name string, node *yaml.Node, vars map[string]string, describe bool) (*Config, Errors) {
	cfg := new(Config)
	d := decoder{
		file: name, dir: filepath.Dir(name), root: reflect.ValueOf(cfg).Elem(), env: vars, knownVars: map[string]bool{},
		describe: describe, retired: map[string]string{}, positions: map[string]position{},
	}
	d.decode(node, cfg)
	return cfg, d.errors
}

// decode decodes the whole file. If the file is not a mapping, that is the only error: a list of
// missing keys would not help.
func (d *decoder) decode(node *yaml.Node, cfg *Config) {
	d.setDefaults(d.root)
	if !isEmpty(node) && node.Kind != yaml.MappingNode {
		d.fail("", "%s does not belong here: must be a block of keys", describeNode(node))
		return
	}
	d.block("", node, d.root)
	d.validate(cfg)
	d.rejectUnknownVars()
}

// document returns the content of the file's only document, or nil for an empty file.
func document(data []byte) (*yaml.Node, error) {
	loader, err := yaml.NewLoader(bytes.NewReader(data))
	if err != nil {
		return nil, err
	}
	var first, second yaml.Node
	if err := loader.Load(&first); errors.Is(err, io.EOF) {
		return nil, nil
	} else if err != nil {
		return nil, err
	}
	if err := loader.Load(&second); !errors.Is(err, io.EOF) {
		return nil, errors.Join(err, errors.New("more than one document (---): write one file for one gateway"))
	}
	return content(&first), nil
}

// content returns the node that a document or an alias refers to.
func content(node *yaml.Node) *yaml.Node {
	for node != nil && (node.Kind == yaml.AliasNode || node.Kind == yaml.DocumentNode) {
		if node.Kind == yaml.AliasNode {
			node = node.Alias
			continue
		}
		node = first(node.Content)
	}
	return node
}

func first(nodes []*yaml.Node) *yaml.Node {
	if len(nodes) == 0 {
		return nil
	}
	return nodes[0]
}
