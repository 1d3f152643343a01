// Command profiled is the gateway with a CPU profile of its life; go run
// ./test/bench -profile makes the one that `make build` compiles by.
//
//	profiled PROFILE CONFIG
package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"runtime/pprof"
	"syscall"

	"gatehouse/daemon"
)

func main() {
	if len(os.Args) != 3 {
		fmt.Fprintln(os.Stderr, "usage: profiled PROFILE CONFIG")
		os.Exit(2)
	}
	if err := run(os.Args[1], os.Args[2]); err != nil {
		fmt.Fprintln(os.Stderr, "profiled:", err)
		os.Exit(1)
	}
}

func run(profile, config string) error {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	c, err := daemon.LoadConfig(config, os.LookupEnv)
	if err != nil {
		return err
	}
	f, err := os.Create(profile)
	if err != nil {
		return err
	}
	if err := pprof.StartCPUProfile(f); err != nil {
		return errors.Join(err, f.Close())
	}
	err = daemon.Run(ctx, c, daemon.Parts{Gateway: true}, daemon.Options{}, os.Stderr)
	pprof.StopCPUProfile()
	return errors.Join(err, f.Close())
}
