package daemon

import (
	"context"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
)

func TestSecretFileIsOneForAll(t *testing.T) {
	dir := t.TempDir()
	var mu sync.Mutex
	secrets, fresh := map[string]bool{}, 0
	var wg sync.WaitGroup
	for range 8 {
		wg.Go(func() {
			s, f, err := secretFile(dir, "s", hexSecret)
			if err != nil {
				t.Error(err)
			}
			mu.Lock()
			defer mu.Unlock()
			secrets[s] = true
			if f {
				fresh++
			}
		})
	}
	wg.Wait()
	if len(secrets) != 1 || fresh != 1 {
		t.Errorf("%d secrets, made %d times; want one each", len(secrets), fresh)
	}
	if fi, err := os.Stat(filepath.Join(dir, "s")); err != nil || fi.Mode().Perm() != 0o600 {
		t.Errorf("mode %v, %v", fi, err)
	}
}

func TestShortSecretFileRefused(t *testing.T) {
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "s"), []byte("short\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, _, err := secretFile(dir, "s", hexSecret); err == nil {
		t.Error("a short secret was accepted")
	}
}

func TestSocket(t *testing.T) {
	for name, dir := range map[string]string{"short": t.TempDir(), "long": filepath.Join(t.TempDir(), strings.Repeat("long-name", 15))} {
		if err := ensureDir(dir); err != nil {
			t.Fatal(err)
		}
		if socketAlive(dir, "x.sock") {
			t.Errorf("%s: alive before it is there", name)
		}
		l, err := listenSocket(dir, "x.sock")
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		srv := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { io.WriteString(w, "hello") })}
		done := make(chan error, 1)
		go func() { done <- srv.Serve(l) }()
		if fi, err := os.Stat(filepath.Join(dir, "x.sock")); err != nil || fi.Mode().Perm() != 0o600 {
			t.Errorf("%s: mode %v, %v", name, fi, err)
		}
		res, err := socketClient(dir, "x.sock").Get("http://x/")
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		if b, _ := io.ReadAll(res.Body); string(b) != "hello" {
			t.Errorf("%s: got %q", name, b)
		}
		res.Body.Close()
		srv.Shutdown(context.Background())
		<-done
	}
}
