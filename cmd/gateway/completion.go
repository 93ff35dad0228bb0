// SPDX-License-Identifier: Apache-2.0

package main

import (
	"github.com/alecthomas/kong"
	kongcompletion "github.com/jotaen/kong-completion"
)

type completionCmd struct {
	Shell string `arg:"" enum:"bash,zsh,fish" help:"bash, zsh or fish."`
}

// Help returns the description and examples.
func (completionCmd) Help() string {
	return `Examples:

    source <(gateway completion bash)       # in ~/.bashrc
    source <(gateway completion zsh)        # in ~/.zshrc, after compinit
    gateway completion fish | source        # in ~/.config/fish/config.fish

Prints a script that makes the shell complete commands, flags and their values. The script calls this binary by its absolute path, for commands that start with "gateway".`
}

// Run prints the script.
func (c completionCmd) Run(ctx *kong.Context) error {
	script := kongcompletion.Completion{Shell: c.Shell, Code: true}
	return script.Run(ctx)
}
