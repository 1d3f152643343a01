package main

import (
	"bytes"
	"fmt"
	"io"
	"time"
)

// print writes a case as a Markdown table.
func (r *result) print(w io.Writer) {
	if r.idle > 0 {
		fmt.Fprintln(w, "| | resident memory |\n|---|---|")
		for _, n := range r.names {
			fmt.Fprintf(w, "| %s | %.1f MB |\n", n, r.median(n, func(s sample) float64 { return float64(s.memory) / 1e6 }))
		}
		fmt.Fprintln(w)
		return
	}
	fmt.Fprintln(w, "| | CPU per request | to nginx (range) | requests/s | p50 | p99 | memory |\n|---|---|---|---|---|---|---|")
	for _, n := range r.names {
		m, low, high := r.ratio(n, func(s sample) float64 { return s.cpu })
		d := func(of func(sample) time.Duration) string {
			v := time.Duration(r.median(n, func(s sample) float64 { return float64(of(s)) }))
			if v == 0 {
				return "–"
			}
			return v.Round(10 * time.Microsecond).String()
		}
		fmt.Fprintf(w, "| %s | %.1f µs | **%.2f** (%.2f–%.2f) | %.0f | %s | %s | %.0f MB |\n", n, r.median(n, func(s sample) float64 { return s.cpu }), m, low, high,
			r.median(n, func(s sample) float64 { return s.rps }), d(func(s sample) time.Duration { return s.p50 }), d(func(s sample) time.Duration { return s.p99 }),
			r.median(n, func(s sample) float64 { return float64(s.memory) / 1e6 }))
	}
	fmt.Fprintln(w)
}

// maxIdleMemory is the bar of the idle case, in bytes.
const maxIdleMemory = 70e6

// verdict is a bar of a case and whether it was kept.
type verdict struct {
	what, bar, got string
	kept           bool
}

// verdicts judges a case by its bars.
func (r *result) verdicts() (list []verdict) {
	if r.idle > 0 {
		m := r.median("gatehouse", func(s sample) float64 { return float64(s.memory) })
		list = append(list, verdict{r.title + ", resident memory", "≤ 70 MB", fmt.Sprintf("%.1f MB", m/1e6), m <= maxIdleMemory})
	}
	if r.bar > 0 {
		m, _, _ := r.ratio("gatehouse", func(s sample) float64 { return s.cpu })
		list = append(list, verdict{r.title, fmt.Sprintf("≤ %.2f", r.bar), fmt.Sprintf("%.2f", m), m <= r.bar})
	}
	if r.p99 {
		m, _, _ := r.ratio("gatehouse", func(s sample) float64 { return float64(s.p99) })
		list = append(list, verdict{r.title + ", p99", "≤ 1.00", fmt.Sprintf("%.2f", m), m <= 1})
	}
	return list
}

// report is docs/benchmarks.md.
func report(all []result, versions []string, o options, now time.Time) []byte {
	var b bytes.Buffer
	fmt.Fprintf(&b, `# Benchmarks

Written by `+"`make bench`"+` on %s; do not edit. The program is test/bench.

What is compared: CPU time of the proxy's processes (user and system) per
request, side by side in one run. Proxies run on one core, upstream (nginx) and
load (wrk, h2load) on the other; rounds are interleaved, %d of %d s each, and the
ratio to nginx is taken within a round. nginx does plain proxying of the same
request in every case. Metrics are on in Gatehouse, access logs are off
everywhere. h2load tells a mean instead of a median, and no p99.

The machine and the peers:

`, now.UTC().Format("2006-01-02"), o.rounds, o.seconds)
	for _, v := range versions {
		fmt.Fprintf(&b, "- %s\n", v)
	}
	b.WriteString("\n## The bars\n\n| case | bar | measured | kept |\n|---|---|---|---|\n")
	for i := range all {
		for _, v := range all[i].verdicts() {
			fmt.Fprintf(&b, "| %s | %s | %s | %s |\n", v.what, v.bar, v.got, map[bool]string{true: "yes", false: "no"}[v.kept])
		}
	}
	for i := range all {
		fmt.Fprintf(&b, "\n## %s\n\n", all[i].title)
		all[i].print(&b)
	}
	return append(bytes.TrimRight(b.Bytes(), "\n"), '\n')
}
