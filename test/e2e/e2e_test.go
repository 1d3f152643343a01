// Package e2e runs the real program, whole, the way its users do: by its
// command line, over the network, and in a browser.
package e2e

import (
	"bufio"
	"bytes"
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"gatehouse/test/fixtures"
)

// bin is the directory with the built programs: gatehouse and hydra.
var bin string

func TestMain(m *testing.M) {
	dir, err := os.MkdirTemp("", "gatehouse-e2e-")
	if err != nil {
		panic(err)
	}
	bin = dir
	args := []string{"build", "-o", filepath.Join(dir, "gatehouse")}
	if raceEnabled {
		args = append(args, "-race")
	}
	if out, err := exec.Command("go", append(args, "gatehouse/cmd/gatehouse")...).CombinedOutput(); err != nil {
		fmt.Fprintf(os.Stderr, "building: %v\n%s", err, out)
		os.Exit(1)
	}
	if err := os.Symlink("gatehouse", filepath.Join(dir, "hydra")); err != nil {
		panic(err)
	}
	code := fixtures.Main(m)
	os.RemoveAll(dir)
	os.Exit(code)
}

// process is a program under test.
type process struct {
	t    *testing.T
	cmd  *exec.Cmd
	done chan struct{}
	mu   sync.Mutex // guards out
	out  bytes.Buffer
	line chan string // lines of stdout
}

// shell runs a command line in bash with our programs on the path and waits.
func shell(t *testing.T, env []string, line string) string {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	cmd := exec.CommandContext(ctx, "bash", "-c", line)
	cmd.Env = append(environ(), env...)
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("$ %s\n%v\n%s", line, err, out)
	}
	return string(out)
}

// environ is the environment without variables that configure us.
func environ() []string {
	var out []string
	for _, kv := range os.Environ() {
		name, _, _ := strings.Cut(kv, "=")
		switch name {
		case "DSN", "HYDRA_ADMIN_URL", "HYDRA_URL", "ORY_SDK_URL", "GATEHOUSE_DATA", "PATH":
			continue
		}
		out = append(out, kv)
	}
	return append(out, "PATH="+bin+":"+os.Getenv("PATH"))
}

// start runs a program in the background; it is stopped when the test ends.
func start(t *testing.T, env []string, name string, args ...string) *process {
	t.Helper()
	p := &process{t: t, cmd: exec.Command(filepath.Join(bin, name), args...), done: make(chan struct{}), line: make(chan string, 256)}
	p.cmd.Env = append(environ(), env...)
	p.cmd.WaitDelay = 10 * time.Second // a successor may have its output still
	p.cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	stdout, err := p.cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	p.cmd.Stderr = writerFunc(p.keep)
	if err := p.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	go func() {
		sc := bufio.NewScanner(stdout)
		sc.Buffer(nil, 1<<20)
		for sc.Scan() {
			p.keep([]byte(sc.Text() + "\n"))
			select {
			case p.line <- sc.Text():
			default:
			}
		}
		close(p.line)
		p.cmd.Wait()
		close(p.done)
	}()
	t.Cleanup(func() {
		p.stop()
		if t.Failed() {
			t.Logf("output of %s %s:\n%s", name, strings.Join(args, " "), p.output())
		}
	})
	return p
}

type writerFunc func([]byte) (int, error)

func (f writerFunc) Write(b []byte) (int, error) { return f(b) }

func (p *process) keep(b []byte) (int, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.out.Write(b)
}

func (p *process) output() string {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.out.String()
}

// stop asks the program to end and fails the test when it does not within 20 s.
func (p *process) stop() {
	p.cmd.Process.Signal(syscall.SIGTERM)
	select {
	case <-p.done:
	case <-time.After(20 * time.Second):
		p.cmd.Process.Kill()
		<-p.done
		p.t.Errorf("%v did not stop", p.cmd.Args)
	}
}

// kill ends the program as a power cut would.
func (p *process) kill() {
	p.cmd.Process.Kill()
	<-p.done
}

// wait polls until ok, at most 60 s, and fails when the program has ended.
func (p *process) wait(what string, ok func() bool) {
	p.t.Helper()
	deadline := time.After(60 * time.Second)
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for !ok() {
		select {
		case <-p.done:
			p.t.Fatalf("%v ended while waiting for %s:\n%s", p.cmd.Args, what, p.output())
		case <-deadline:
			p.t.Fatalf("%v: no %s:\n%s", p.cmd.Args, what, p.output())
		case <-tick.C:
		}
	}
}

// answers says whether an URL answers with a status below 500.
func answers(c *http.Client, url string) func() bool {
	return func() bool {
		res, err := c.Get(url)
		if err != nil {
			return false
		}
		io.Copy(io.Discard, res.Body)
		res.Body.Close()
		return res.StatusCode < 500
	}
}

// freePorts returns ports nobody listens on.
func freePorts(t *testing.T, n int) []int {
	t.Helper()
	var ports []int
	for range n {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		defer l.Close()
		ports = append(ports, l.Addr().(*net.TCPAddr).Port)
	}
	return ports
}

func readFile(t *testing.T, path string) string {
	t.Helper()
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return strings.TrimSpace(string(b))
}
