package prometheus

import (
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"gatehouse/gateway"
)

// Whatever is counted while somebody scrapes is there afterwards, once.
func TestNothingIsLostBetweenScrapes(t *testing.T) {
	env, reg := newEnv()
	l := instance(t, env, `{}`)
	l.(*logger).metrics.lanes = 8
	const each, workers = 2000, 4
	var wg sync.WaitGroup
	for g := range workers {
		wg.Go(func() {
			x := proxied()
			for i := range each {
				x.Route = &gateway.Route{ID: fmt.Sprint(i % 50)} // new pointers: as after a change
				x.Resp.Status = 200 + g%2
				l.Log(x)
			}
		})
	}
	for range 20 {
		if _, err := reg.Gather(); err != nil {
			t.Error(err)
		}
	}
	wg.Wait()
	if got, want := lines(t, reg, "apisix_http_requests_total"), fmt.Sprint("apisix_http_requests_total ", each*workers); got != want {
		t.Errorf("got %s, want %s", got, want)
	}
	total := 0
	for l := range strings.Lines(lines(t, reg, "apisix_http_status")) {
		var n int
		if _, err := fmt.Sscan(l[strings.LastIndex(l, "} ")+2:], &n); err != nil {
			t.Fatal(err)
		}
		total += n
	}
	if total != each*workers {
		t.Errorf("got %d in all series, want %d", total, each*workers)
	}
}

// Kinds that share a series are one series, also when nothing was sent.
func TestSharedSeries(t *testing.T) {
	env, reg := newEnv()
	l := instance(t, env, `{}`)
	for _, code := range []int{200, 404, 500} {
		x := proxied()
		x.Resp.Status, x.BytesIn, x.BytesOut, x.Start = code, 0, 0, x.End
		l.Log(x)
	}
	if _, err := reg.Gather(); err != nil {
		t.Fatal(err)
	}
	if got := strings.Count(lines(t, reg, "apisix_bandwidth"), "\n") + 1; got != 2 {
		t.Errorf("got %d series of bytes, want 2", got)
	}
}

func TestBuckets(t *testing.T) {
	env, reg := newEnv()
	l := instance(t, env, `{}`)
	for _, d := range []time.Duration{0, time.Millisecond, time.Millisecond + 1, time.Minute, time.Minute + 1} {
		x := &gateway.Exchange{Start: now, End: now.Add(d)}
		l.Log(x)
	}
	families, err := reg.Gather()
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range families {
		if f.GetName() != "apisix_http_latency" {
			continue
		}
		for _, m := range f.Metric {
			h := m.GetHistogram()
			var got []uint64
			for _, b := range h.Bucket {
				got = append(got, b.GetCumulativeCount())
			}
			if want := "[2 3 3 3 3 3 3 3 3 3 3 3 3 3 4]"; fmt.Sprint(got) != want || h.GetSampleCount() != 5 || h.Bucket[14].GetUpperBound() != 60000 {
				t.Errorf("got %v of %d up to %v, want %s of 5 up to 60000", got, h.GetSampleCount(), h.Bucket[14].GetUpperBound(), want)
			}
		}
	}
}

// A scrape lets go of routes that no longer run.
func TestScrapeForgetsPointers(t *testing.T) {
	env, reg := newEnv()
	l := instance(t, env, `{}`).(*logger)
	l.Log(proxied())
	held := func() (n int) {
		for i := range l.metrics.recent {
			if l.metrics.recent[i].Load() != nil {
				n++
			}
		}
		return n
	}
	if held() != 1 {
		t.Fatalf("got %d, want 1", held())
	}
	if _, err := reg.Gather(); err != nil {
		t.Fatal(err)
	}
	if held() != 0 {
		t.Errorf("got %d, want none", held())
	}
}
