// SPDX-License-Identifier: Apache-2.0

// Command gateway runs Sluice: the gateway itself, a stand-in for the providers, and small tools around them. It turns
// flags and signals into calls and errors into exit codes; everything else happens below.
package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"syscall"

	"github.com/alecthomas/kong"

	"github.com/sluice-push/sluice/config"
)

// The exit codes.
const (
	done   = 0
	failed = 1
	misuse = 2 // wrong usage or configuration: trying again changes nothing
)

// commands is the command line. A command's method Help holds its example.
type commands struct {
	Dev     dev        `cmd:"" help:"Run everything on this machine: mock providers and a gateway with a ready configuration."`
	Serve   serve      `cmd:"" help:"Run a gateway."`
	Mock    mock       `cmd:"" help:"Run only the mock providers, for other programs' tests."`
	Check   check      `cmd:"" help:"Tell whether a gateway would run with a configuration, and reach its providers."`
	Audit   audit      `cmd:"" help:"Prove that everything that was accepted for later has ended once or still waits."`
	Send    send       `cmd:"" help:"Send one notification through a gateway, or a file of them."`
	Bench   bench      `cmd:"" help:"Offer a gateway a load and measure what comes of it."`
	Key     key        `cmd:"" help:"Make an API key and its hash, or a key pair for Web Push."`
	OpenAPI openAPI    `cmd:"" name:"openapi" help:"Print the HTTP API's contract, OpenAPI 3.1."`
	Schema  schema     `cmd:"" help:"Print the configuration's JSON Schema, or its reference."`
	Version versionCmd `cmd:"" help:"Print the version."`
}

func main() {
	ctx, drain := context.WithCancel(context.Background())
	signals := make(chan os.Signal, 2)
	signal.Notify(signals, syscall.SIGINT, syscall.SIGTERM) // before anything is done that a signal could cut short
	go heed(signals, drain)
	os.Exit(command(process{ctx, os.Stdout, os.Stderr}, os.Args[1:]))
}

// heed lets the first signal drain the command and the second end the process, whatever is in flight.
func heed(signals <-chan os.Signal, drain func()) {
	<-signals
	drain()
	<-signals
	say(os.Stderr, "gateway: ended by a second signal; what was in flight is lost\n")
	os.Exit(failed)
}

// process is what a command is given of its process.
type process struct {
	context.Context // ends at the first SIGINT or SIGTERM
	stdout, stderr  io.Writer
}

// say writes to people. If they have closed their end, there is nobody to tell.
func say(w io.Writer, format string, args ...any) { _, _ = fmt.Fprintf(w, format, args...) }

// command runs one command line and returns its exit code.
func command(p process, args []string) (code int) {
	defer func() { // kong knows no other way to say that --help has been printed
		if exit, ok := recover().(kongExit); ok {
			code = int(exit)
		}
	}()
	parser := kong.Must(new(commands), kong.Name("gateway"), kong.Writers(p.stdout, p.stderr), kong.UsageOnError(),
		kong.Exit(func(code int) { panic(kongExit(code)) }),
		kong.ConfigureHelp(kong.HelpOptions{Compact: true, NoExpandSubcommands: true, WrapUpperBound: 100}),
		kong.Description("Sluice sends push notifications to APNs, FCM and browsers through pools of watched endpoints.\n\n"+
			"Begin with: gateway dev"))
	parsed, err := parser.Parse(args)
	if err != nil {
		say(p.stderr, "gateway: %v (gateway --help tells more)\n", err)
		return misuse
	}
	return exitCode(p.stderr, parsed.Run(p))
}

type kongExit int

// wrong marks an error as one of usage or configuration.
type wrong struct{ error }

func (w wrong) Unwrap() error { return w.error }

// errSaid is the end of a command that failed and has said so.
var errSaid = errors.New("said already")

// exitCode prints err and returns the code that it stands for.
func exitCode(stderr io.Writer, err error) int {
	if err == nil {
		return done
	}
	if !errors.Is(err, errSaid) {
		say(stderr, "%v\n", err)
	}
	if _, ok := errors.AsType[wrong](err); ok {
		return misuse
	}
	if _, ok := errors.AsType[config.Errors](err); ok {
		return misuse
	}
	return failed
}
