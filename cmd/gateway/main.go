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

	"github.com/sluice-push/sluice/internal/config"
)

// The exit codes.
const (
	exitOK     = 0
	exitFailed = 1
	exitUsage  = 2 // wrong usage or configuration: trying again changes nothing
)

// cli is the command line. A command's method Help holds its example.
type cli struct {
	Dev     devCmd     `cmd:"" help:"Run everything on this machine: mock providers and a gateway with a ready configuration."`
	Serve   serveCmd   `cmd:"" help:"Run a gateway."`
	Mock    mockCmd    `cmd:"" help:"Run only the mock providers, for other programs' tests."`
	Check   checkCmd   `cmd:"" help:"Tell whether a gateway would run with a configuration, and reach its providers."`
	Audit   auditCmd   `cmd:"" help:"Prove that everything that was accepted for later has ended once or still waits."`
	Send    sendCmd    `cmd:"" help:"Send one notification through a gateway, or a file of them."`
	Bench   benchCmd   `cmd:"" help:"Offer a gateway a load and measure what comes of it."`
	Key     keyCmd     `cmd:"" help:"Make an API key and its hash, or a key pair for Web Push."`
	OpenAPI openAPICmd `cmd:"" name:"openapi" help:"Print the HTTP API's contract, OpenAPI 3.1."`
	Schema  schemaCmd  `cmd:"" help:"Print the configuration's JSON Schema, or its reference."`
	Version versionCmd `cmd:"" help:"Print the version."`
}

func main() {
	ctx, drain := context.WithCancel(context.Background())
	signals := make(chan os.Signal, 2)
	signal.Notify(signals, syscall.SIGINT, syscall.SIGTERM) // before anything is done that a signal could cut short
	go handleSignals(signals, drain)
	os.Exit(run(process{ctx, os.Stdout, os.Stderr}, os.Args[1:]))
}

// handleSignals lets the first signal drain the command and the second end the process, whatever is in flight.
func handleSignals(signals <-chan os.Signal, drain func()) {
	<-signals
	drain()
	<-signals
	printf(os.Stderr, "gateway: ended by a second signal; what was in flight is lost\n")
	os.Exit(exitFailed)
}

// process is what a command is given of its process.
type process struct {
	context.Context // ends at the first SIGINT or SIGTERM
	stdout, stderr  io.Writer
}

// printf writes to people. If they have closed their end, there is nobody to tell.
func printf(w io.Writer, format string, args ...any) { _, _ = fmt.Fprintf(w, format, args...) }

// run runs one command line and returns its exit code.
func run(p process, args []string) (code int) {
	defer func() { // kong knows no other way to say that --help has been printed
		if exit, ok := recover().(kongExit); ok {
			code = int(exit)
		}
	}()
	parser := kong.Must(new(cli), kong.Name("gateway"), kong.Writers(p.stdout, p.stderr), kong.UsageOnError(),
		kong.Exit(func(code int) { panic(kongExit(code)) }),
		kong.ConfigureHelp(kong.HelpOptions{Compact: true, NoExpandSubcommands: true, WrapUpperBound: 100}),
		kong.Description("Sluice sends push notifications to APNs, FCM and browsers through pools of watched endpoints.\n\n"+
			"Begin with: gateway dev"))
	parsed, err := parser.Parse(args)
	if err != nil {
		printf(p.stderr, "gateway: %v (gateway --help tells more)\n", err)
		return exitUsage
	}
	return exitCode(p.stderr, parsed.Run(p))
}

type kongExit int

// usageError marks an error as one of usage or configuration.
type usageError struct{ error }

func (w usageError) Unwrap() error { return w.error }

// errReported is the end of a command that failed and has said so.
var errReported = errors.New("said already")

// exitCode prints err and returns the code that it stands for.
func exitCode(stderr io.Writer, err error) int {
	if err == nil {
		return exitOK
	}
	if !errors.Is(err, errReported) {
		printf(stderr, "%v\n", err)
	}
	if _, ok := errors.AsType[usageError](err); ok {
		return exitUsage
	}
	if _, ok := errors.AsType[config.Errors](err); ok {
		return exitUsage
	}
	return exitFailed
}
