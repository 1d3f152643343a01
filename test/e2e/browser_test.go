package e2e

import (
	"context"
	"crypto/sha256"
	"crypto/x509"
	"encoding/base64"
	"encoding/pem"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/chromedp/chromedp"
)

// browser starts a fresh Chromium that trusts the authority of a data
// directory, if one is given.
func browser(t *testing.T, dataDir string, more ...chromedp.ExecAllocatorOption) context.Context {
	t.Helper()
	opts := append(chromedp.DefaultExecAllocatorOptions[:],
		chromedp.NoSandbox, chromedp.DisableGPU, chromedp.UserDataDir(t.TempDir()),
		chromedp.Flag("disable-quic", true), chromedp.Flag("disable-background-networking", true),
		chromedp.Flag("disable-component-update", true), chromedp.Flag("disable-sync", true),
		chromedp.WindowSize(1100, 1050))
	if dataDir != "" {
		block, _ := pem.Decode([]byte(readFile(t, filepath.Join(dataDir, "ca.crt"))))
		cert, err := x509.ParseCertificate(block.Bytes)
		if err != nil {
			t.Fatal(err)
		}
		sum := sha256.Sum256(cert.RawSubjectPublicKeyInfo)
		opts = append(opts, chromedp.Flag("ignore-certificate-errors-spki-list", base64.StdEncoding.EncodeToString(sum[:])))
	}
	alloc, cancel := chromedp.NewExecAllocator(context.Background(), append(opts, more...)...)
	ctx, cancelTab := chromedp.NewContext(alloc)
	t.Cleanup(func() { cancelTab(); cancel() })
	if err := chromedp.Do(ctx); err != nil { // starts it
		t.Fatal(err)
	}
	ctx, cancelTime := context.WithTimeout(ctx, 3*time.Minute)
	t.Cleanup(cancelTime)
	return ctx
}

// do runs browser actions; each must be done within 30 s.
func do(t *testing.T, ctx context.Context, what string, actions ...chromedp.Action[chromedp.Void]) {
	t.Helper()
	step, cancel := context.WithTimeout(ctx, 30*time.Second)
	defer cancel()
	if err := chromedp.Do(step, actions...); err != nil {
		again, cancel := context.WithTimeout(ctx, 5*time.Second)
		defer cancel()
		url, _ := chromedp.Run(again, chromedp.Location())
		body, _ := chromedp.Run(again, chromedp.Text(chromedp.CSS("body")))
		t.Fatalf("%s: %v\nat %s:\n%s", what, err, url, body)
	}
}

// signIn fills the login app's form and allows access.
func signIn(t *testing.T, ctx context.Context, email, password string) {
	t.Helper()
	do(t, ctx, "sign-in page", chromedp.WaitVisible(chromedp.CSS("#email")), picture("sign-in"))
	do(t, ctx, "signing in", chromedp.SendKeys(chromedp.CSS("#email"), email), chromedp.SendKeys(chromedp.CSS("#password"), password), chromedp.Click(chromedp.CSS("#submit")))
	do(t, ctx, "consent page", chromedp.WaitVisible(chromedp.CSS("#accept")), picture("consent"))
	do(t, ctx, "allowing access", chromedp.Click(chromedp.CSS("#accept")))
}

// bodyHas waits until the page's text contains want.
func bodyHas(t *testing.T, ctx context.Context, what, want string) {
	t.Helper()
	step, cancel := context.WithTimeout(ctx, 30*time.Second)
	defer cancel()
	tick := time.NewTicker(50 * time.Millisecond)
	defer tick.Stop()
	for {
		// A page that is just being left gives an error: ask the next one.
		if ok, err := chromedp.Run(step, chromedp.Evaluate[bool](`!!document.body && document.body.innerText.includes(`+jsString(want)+`)`)); err == nil && ok {
			return
		}
		select {
		case <-tick.C:
		case <-step.Done():
			do(t, ctx, what+": no "+want, chromedp.Func(func(context.Context, *chromedp.Target) error { return step.Err() }))
		}
	}
}

func jsString(s string) string {
	return `"` + strings.NewReplacer(`\`, `\\`, `"`, `\"`).Replace(s) + `"`
}

// picture keeps a screenshot in the directory GATEHOUSE_PICTURES names, if any:
// that is how docs/images is made.
func picture(name string) chromedp.Action[chromedp.Void] {
	return chromedp.Func(func(ctx context.Context, t *chromedp.Target) error {
		dir := os.Getenv("GATEHOUSE_PICTURES")
		if dir == "" {
			return nil
		}
		png, err := chromedp.CaptureScreenshot()(ctx, t)
		if err != nil {
			return err
		}
		return os.WriteFile(filepath.Join(dir, name+".png"), png, 0o644)
	})
}
