package daemon

import (
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"slices"
	"strings"
	"time"
)

const (
	takeOverFlag = "--takeover"
	// tellFD says which file descriptor takes the reason when a successor
	// cannot start.
	tellFD = "GATEHOUSE_TELL_FD"
	// reloadTime is how long a successor may take.
	reloadTime = 2 * time.Minute
	maxReason  = 64 << 10
)

// TellError is where a process that was started as a successor writes why it
// cannot start; nil: nobody asks. Call it once, at the very start.
func TellError() io.Writer {
	if os.Getenv(tellFD) != "3" {
		return nil
	}
	os.Unsetenv(tellFD)
	return os.NewFile(3, "reason")
}

// respawn starts a fresh process with the command line of this one, which
// reads the configuration anew and takes over. It returns when that has
// happened, or why it did not: then this process goes on as before. The program
// is found again by its name, so one that was replaced on disk is upgraded.
func (d *Daemon) respawn() (pid int, err error) {
	switch {
	case len(d.opts.Argv) == 0 || d.control == nil:
		return 0, errors.New("this process cannot start its successor")
	case os.Getpid() == 1:
		return 0, errors.New("this is process 1 of its container, which would end with it; start the container anew")
	}
	path, err := exec.LookPath(d.opts.Argv[0])
	if err != nil {
		return 0, fmt.Errorf("finding the program: %w", err)
	}
	r, w, err := os.Pipe()
	if err != nil {
		return 0, err
	}
	defer r.Close()
	args := slices.Clone(d.opts.Argv)
	if !slices.Contains(args, takeOverFlag) {
		args = append(args, takeOverFlag)
	}
	cmd := &exec.Cmd{Path: path, Args: args, Env: append(os.Environ(), tellFD+"=3"), Stdout: os.Stdout, Stderr: os.Stderr, ExtraFiles: []*os.File{w}}
	tell("RELOADING=1")
	defer func() {
		if err != nil {
			tell("READY=1")
		}
	}()
	took := make(chan struct{})
	err = d.control.expect(took, func() (int, error) {
		defer w.Close()
		if err := cmd.Start(); err != nil {
			return 0, err
		}
		return cmd.Process.Pid, nil
	})
	if err != nil {
		return 0, fmt.Errorf("starting the successor: %w", err)
	}
	defer d.control.forget(cmd.Process.Pid)
	reason := make(chan string, 1)
	go func() {
		b, _ := io.ReadAll(io.LimitReader(r, maxReason))
		reason <- strings.TrimSpace(string(b))
	}()
	ended := make(chan error, 1)
	go func() { ended <- cmd.Wait() }()
	late := time.NewTimer(reloadTime)
	defer late.Stop()
	select {
	case <-took:
		return cmd.Process.Pid, nil
	case err = <-ended:
	case <-late.C:
		_ = cmd.Process.Kill()
		err = fmt.Errorf("it did not take over within %v", reloadTime)
		<-ended
	}
	if why := <-reason; why != "" {
		return 0, errors.New(why)
	}
	return 0, fmt.Errorf("the successor ended: %w", err)
}

// tell says to the service manager how this process is, if one wants to know
// (sd_notify).
func tell(state string) {
	path := os.Getenv("NOTIFY_SOCKET")
	if path == "" {
		return
	}
	if path[0] == '@' {
		path = "\x00" + path[1:]
	}
	c, err := net.DialUnix("unixgram", nil, &net.UnixAddr{Name: path, Net: "unixgram"})
	if err != nil {
		return
	}
	defer c.Close()
	_, _ = c.Write([]byte(state))
}
