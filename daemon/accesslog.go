package daemon

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"path/filepath"
	"sync"
	"syscall"

	"gatehouse/gateway/accesslog"
)

// accessFormat is the form of a line. json says that the process logs JSON.
func (g *GatewayConfig) accessFormat(json bool) (*accesslog.Format, error) {
	h := &g.NginxConfig.HTTP
	escape, format := h.AccessLogEscape, h.AccessLogFormat
	if escape == "" {
		escape = accesslog.EscapeText
		if format == "" && json {
			escape = accesslog.EscapeJSON
		}
	}
	if format == "" && escape == accesslog.EscapeJSON {
		return accesslog.JSON(h.AccessLogRedact), nil
	}
	if format == "" {
		format = accesslog.Default
	}
	return accesslog.Compile(format, escape, h.AccessLogRedact)
}

// checkAccessLog says what is wrong with the settings, and with which.
func (g *GatewayConfig) checkAccessLog() (key string, err error) {
	if _, err := g.accessFormat(false); err != nil {
		return "access_log_format", err
	}
	switch g.NginxConfig.HTTP.AccessLog {
	case "":
		return "access_log", errors.New("expected stderr, stdout or a file")
	case "off":
		return "access_log", errors.New("use enable_access_log: false")
	}
	return "", nil
}

// openAccessLog opens the access log, or returns nil when there is none. On
// SIGUSR1 its file is opened again: whoever moved it away for archiving says so.
func (d *Daemon) openAccessLog(ctx context.Context, talk io.Writer) (*accesslog.Log, error) {
	usr1 := make(chan os.Signal, 1)
	signal.Notify(usr1, syscall.SIGUSR1) // without a log too: the signal would end the process
	d.closers = append(d.closers, func() error { signal.Stop(usr1); return nil })
	h := &d.Config.Gateway.NginxConfig.HTTP
	if !h.EnableAccessLog {
		return nil, nil
	}
	format, err := d.Config.Gateway.accessFormat(d.Config.Log.Format == "json")
	if err != nil {
		return nil, err
	}
	log, err := accesslog.New(accesslog.Config{Format: format, Log: d.log, Open: func() (io.WriteCloser, error) { return openLines(h.AccessLog, d.Config.Data, talk) }})
	if err != nil {
		return nil, fmt.Errorf("opening the access log (gateway.nginx_config.http.access_log): %w", err)
	}
	d.closers = append(d.closers, log.Close)
	d.task(func() {
		for {
			select {
			case <-ctx.Done():
				return
			case <-usr1:
			}
			if err := log.Reopen(); err != nil {
				d.log.Error("access log cannot be opened again, the old file is kept", "err", err)
				continue
			}
			d.log.Info("access log opened again", "access_log", h.AccessLog)
		}
	})
	return log, nil
}

// openLines opens what access log lines are written to.
func openLines(where, data string, stderr io.Writer) (io.WriteCloser, error) {
	switch where {
	case "stderr", "/dev/stderr":
		return borrowed{stderr}, nil
	case "stdout", "/dev/stdout":
		return borrowed{os.Stdout}, nil
	}
	if !filepath.IsAbs(where) {
		where = filepath.Join(data, where)
	}
	if err := os.MkdirAll(filepath.Dir(where), 0o750); err != nil {
		return nil, err
	}
	return os.OpenFile(where, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o640)
}

// borrowed is a writer that is others' too.
type borrowed struct{ io.Writer }

// Close does nothing.
func (borrowed) Close() error { return nil }

// together lets several write to one place, one after the other: what one
// writes in a call stays in one piece.
type together struct {
	mu sync.Mutex
	w  io.Writer // guarded by mu
}

func (t *together) Write(p []byte) (int, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.w.Write(p)
}
