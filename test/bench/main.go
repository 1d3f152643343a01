// Command bench measures what a request costs Gatehouse and its peers, side by
// side: the same upstream, the same load, rounds in turn, CPU time of the
// proxy's processes divided by the requests they answered. Single times mean
// nothing on a machine that does other things too; the ratio to nginx within
// one round does.
//
//	go run ./test/bench                     all cases, rewrites docs/benchmarks.md
//	go run ./test/bench -quick              gatehouse and nginx, one short round
//	go run ./test/bench -case small,tls     some cases, prints only
//
// The proxies run on the first core, upstream and load on the second. It fails
// when a peer answers with an error.
package main

import (
	"context"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"
)

// options of a run.
type options struct {
	rounds  int
	seconds int
	cases   []string
	peers   []string
	binary  string
	report  string
}

func main() {
	var o options
	var cases, peers string
	quick := flag.Bool("quick", false, "gatehouse and nginx only, one round of 3 s")
	flag.IntVar(&o.rounds, "rounds", 3, "rounds of each case")
	flag.IntVar(&o.seconds, "seconds", 4, "length of a round")
	flag.StringVar(&cases, "case", "", "cases to run, separated by commas; default all")
	flag.StringVar(&peers, "peers", "", "peers to run, separated by commas; default all that a case has")
	flag.StringVar(&o.binary, "binary", "", "gatehouse to measure; default: built from this checkout")
	flag.StringVar(&o.report, "report", "", "file to write the report to; default docs/benchmarks.md when everything ran")
	flag.Parse()
	if cases != "" {
		o.cases = strings.Split(cases, ",")
	}
	if peers != "" {
		o.peers = strings.Split(peers, ",")
	}
	if *quick {
		o.rounds, o.seconds, o.peers = 1, 3, []string{"gatehouse", "nginx"}
	}
	if o.report == "" && !*quick && cases == "" && peers == "" {
		o.report = "docs/benchmarks.md"
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := run(ctx, o); err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, o options) error {
	for _, tool := range []string{"nginx", "haproxy", "wrk", "h2load", "taskset"} {
		if _, err := look(tool); err != nil {
			return fmt.Errorf("%s is not installed: make bench installs it", tool)
		}
	}
	raiseLimit()
	dir, err := os.MkdirTemp("", "gatehouse-bench-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	b := &bench{dir: dir, o: o}
	defer b.stopAll()
	if err := b.prepare(ctx); err != nil {
		return err
	}
	var all []result
	for _, c := range theCases {
		if len(o.cases) > 0 && !slices.Contains(o.cases, c.name) {
			continue
		}
		fmt.Printf("%s: %s\n", c.name, c.title)
		r, err := b.run(ctx, c)
		if err != nil {
			return fmt.Errorf("case %s: %w", c.name, err)
		}
		r.print(os.Stdout)
		all = append(all, r)
	}
	if o.report == "" {
		return nil
	}
	return os.WriteFile(o.report, report(all, b.versions(), o, time.Now()), 0o644)
}

// look finds a program of Debian's, those for administrators too.
func look(name string) (string, error) {
	if p, err := exec.LookPath(name); err == nil {
		return p, nil
	}
	p := filepath.Join("/usr/sbin", name)
	_, err := os.Stat(p)
	return p, err
}

func raiseLimit() {
	l := syscall.Rlimit{Cur: 65536, Max: 65536}
	if syscall.Setrlimit(syscall.RLIMIT_NOFILE, &l) == nil {
		return
	}
	if syscall.Getrlimit(syscall.RLIMIT_NOFILE, &l) == nil {
		l.Cur = l.Max
		_ = syscall.Setrlimit(syscall.RLIMIT_NOFILE, &l)
	}
}
