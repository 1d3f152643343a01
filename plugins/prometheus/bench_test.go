package prometheus

import "testing"

// BenchmarkLog is what the plugin adds to a request.
func BenchmarkLog(b *testing.B) {
	env, _ := newEnv()
	l := instance(b, env, `{}`)
	x := proxied()
	b.ReportAllocs()
	for b.Loop() {
		l.Log(x)
	}
}

// BenchmarkLogParallel is the same with every core counting one kind.
func BenchmarkLogParallel(b *testing.B) {
	env, _ := newEnv()
	l := instance(b, env, `{}`)
	one := proxied()
	b.RunParallel(func(pb *testing.PB) {
		x := proxied()
		x.Route, x.Node, x.Consumer = one.Route, one.Node, one.Consumer
		for pb.Next() {
			l.Log(x)
		}
	})
}
