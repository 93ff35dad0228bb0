// SPDX-License-Identifier: Apache-2.0

// Command gateway runs Sluice: the gateway, mock providers, and tools for sending, load tests and
// audits. It handles flags, signals and exit codes; other packages do the work.
package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log"
	"os"
	"os/signal"
	"syscall"
	"time"

	"github.com/alecthomas/kong"
	kongcompletion "github.com/jotaen/kong-completion"

	"github.com/sluice-push/sluice/internal/asyncwriter"
	"github.com/sluice-push/sluice/internal/config"
)

// Exit codes.
const (
	exitOK     = 0
	exitFailed = 1
	exitUsage  = 2 // invalid usage or configuration; a retry does not help
)

// cli is the command line. The Help method of a command returns its description and examples.
type cli struct {
	Dev        devCmd        `cmd:"" help:"Run mock providers and a gateway with a ready-made configuration on this machine."`
	Serve      serveCmd      `cmd:"" help:"Run a gateway."`
	Mock       mockCmd       `cmd:"" help:"Run only the mock providers, for tests of other programs."`
	Init       initCmd       `cmd:"" help:"Write a configuration for production, an API key, and a unit for systemd or values for Helm."`
	Check      checkCmd      `cmd:"" help:"Check a configuration and the connections to its providers."`
	Audit      auditCmd      `cmd:"" help:"Verify that every queued notification has ended once or is still waiting."`
	Auditlog   auditlogCmd   `cmd:"" help:"Print who did what: the audit log of a running gateway."`
	Search     searchCmd     `cmd:"" help:"Find notifications by tag, status, platform and time, or one by its ID."`
	Stats      statsCmd      `cmd:"" help:"Count the notifications that have ended, by status, reason and platform."`
	Status     statusCmd     `cmd:"" help:"Print the state of a running gateway."`
	Top        topCmd        `cmd:"" help:"Show the state of a running gateway in a terminal, refreshed every second."`
	Send       sendCmd       `cmd:"" help:"Send one notification through a gateway, or a file of notifications."`
	Broadcast  broadcastCmd  `cmd:"" help:"Create, run, watch and recall broadcasts to audiences of up to millions of devices."`
	Bench      benchCmd      `cmd:"" help:"Run a load test against a gateway."`
	Key        keyCmd        `cmd:"" help:"Create an API key and its hash, or a key pair for Web Push."`
	OpenAPI    openAPICmd    `cmd:"" name:"openapi" help:"Print the OpenAPI 3.1 document of the HTTP API."`
	Schema     schemaCmd     `cmd:"" help:"Print the JSON Schema or the reference of the configuration."`
	Completion completionCmd `cmd:"" help:"Print a shell completion script."`
	Version    versionCmd    `cmd:"" help:"Print the version."`

	VersionFlag kong.VersionFlag `name:"version" help:"Print the version."`
}

const (
	// maxPendingLog limits the log that is kept in memory while the reader of standard error stalls,
	// in bytes.
	maxPendingLog = 1 << 20
	// logFlushTimeout limits the time for which the exit waits for the reader of standard error.
	logFlushTimeout = time.Second
)

func main() {
	restrictFileModes()
	signal.Ignore(syscall.SIGPIPE) // the reader of the log or of the output may end first
	logOutput := asyncwriter.New(os.Stderr, maxPendingLog)
	log.SetOutput(logOutput) // for libraries
	ctx, drain := context.WithCancel(context.Background())
	signals := make(chan os.Signal, 2)
	signal.Notify(signals, syscall.SIGINT, syscall.SIGTERM) // before any work that a signal could interrupt
	go handleSignals(signals, drain, logOutput)
	code := run(process{ctx, output{os.Stdout}, os.Stderr, logOutput}, os.Args[1:])
	logOutput.Close(logFlushTimeout)
	os.Exit(code)
}

// handleSignals calls drain on the first signal. On the second signal it ends the process
// immediately.
func handleSignals(signals <-chan os.Signal, drain func(), logOutput *asyncwriter.Writer) {
	<-signals
	drain()
	<-signals
	printf(logOutput, "gateway: ended by a second signal; requests in flight are lost\n")
	logOutput.Close(logFlushTimeout)
	os.Exit(exitFailed)
}

// process is the environment of a command.
type process struct {
	context.Context // canceled by the first SIGINT or SIGTERM
	stdout, stderr  io.Writer
	// log writes to standard error without blocking. Logs and the errors of commands go there.
	log *asyncwriter.Writer
}

// output is standard output. It discards what is written after its reader has ended, so that a
// command completes its work, such as sending a file, when its output goes to head.
type output struct{ io.Writer }

// Write returns no error for a closed pipe.
func (o output) Write(p []byte) (int, error) {
	n, err := o.Writer.Write(p)
	if errors.Is(err, syscall.EPIPE) {
		return len(p), nil
	}
	return n, err
}

// printf writes to w and ignores errors, which occur if the reader has closed a pipe.
func printf(w io.Writer, format string, args ...any) { _, _ = fmt.Fprintf(w, format, args...) }

// run runs one command line and returns its exit code.
func run(p process, args []string) (code int) {
	defer func() { // kong ends --help, --version and completions with Exit, which must not return
		switch p := recover().(type) {
		case nil:
		case kongExit:
			code = int(p)
		default:
			panic(p)
		}
	}()
	parser := newParser(p)
	kongcompletion.Register(parser)
	parsed, err := parser.Parse(args)
	if err != nil {
		printf(p.log, "gateway: %v (see gateway --help)\n", err)
		return exitUsage
	}
	return exitCode(p.log, parsed.Run(p))
}

// newParser returns the parser of the command line.
func newParser(p process) *kong.Kong {
	return kong.Must(new(cli), kong.Name("gateway"), kong.Writers(p.stdout, p.stderr), kong.UsageOnError(),
		kong.Exit(func(code int) { panic(kongExit(code)) }),
		kong.ConfigureHelp(kong.HelpOptions{Compact: true, NoExpandSubcommands: true, WrapUpperBound: 100}),
		kong.Description("Sluice sends push notifications to APNs, FCM and browsers through pools of monitored endpoints.\n\n"+
			"Start with: gateway dev"),
		kong.Vars{"version": "gateway " + version()})
}

type kongExit int

// usageError marks an error as an error of usage or configuration.
type usageError struct{ error }

func (w usageError) Unwrap() error { return w.error }

// errReported fails a command that has already printed why.
var errReported = errors.New("already reported")

// exitCode prints err, unless it is reported already, and returns the exit code for it.
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
