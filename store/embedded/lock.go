package embedded

import (
	"errors"
	"fmt"
	"io"
	"os"
	"strconv"
	"strings"
	"syscall"

	"gatehouse/lib/fault"
)

// lock takes the lock file for as long as it is open; the kernel releases it
// when the process ends, however it ends. The file stays: removing it would
// let two processes hold different files of the same name. A lock that was
// handed over by the process that had it is taken over, if it is of this path.
func lock(path, database string, handed *os.File) (*os.File, error) {
	if handed != nil {
		if err := adopt(handed, path); err != nil {
			handed.Close()
			return nil, err
		}
		return handed, nil
	}
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, fmt.Errorf("opening the lock file: %w", err)
	}
	for {
		err = syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB)
		if !errors.Is(err, syscall.EINTR) {
			break
		}
	}
	if errors.Is(err, syscall.EWOULDBLOCK) {
		defer f.Close()
		return nil, fault.New(fault.Conflict, fmt.Sprintf(
			"%s is in use by another gatehouse process%s; stop that one, or give this one a data directory of its own", database, holder(f)))
	}
	if err != nil {
		f.Close()
		return nil, fmt.Errorf("locking %s: %w", path, err)
	}
	if err = sign(f); err != nil {
		f.Close()
		return nil, err
	}
	return f, nil
}

func adopt(f *os.File, path string) error {
	have, err := f.Stat()
	if err != nil {
		return err
	}
	want, err := os.Stat(path)
	if err != nil {
		return err
	}
	if !os.SameFile(have, want) {
		return fmt.Errorf("the lock that was handed over is not %s", path)
	}
	return sign(f)
}

// sign writes who has the lock.
func sign(f *os.File) error {
	if err := f.Truncate(0); err != nil {
		return fmt.Errorf("writing the lock file: %w", err)
	}
	if _, err := f.WriteAt([]byte(strconv.Itoa(os.Getpid())+"\n"), 0); err != nil {
		return fmt.Errorf("writing the lock file: %w", err)
	}
	return nil
}

// holder says who has the lock, as far as the file tells.
func holder(f *os.File) string {
	b, err := io.ReadAll(io.LimitReader(f, 32))
	pid, err2 := strconv.Atoi(strings.TrimSpace(string(b)))
	if err != nil || err2 != nil || pid <= 0 {
		return ""
	}
	return fmt.Sprintf(" (pid %d)", pid)
}
