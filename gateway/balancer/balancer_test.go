package balancer

import (
	"strings"
	"sync"
	"testing"

	"gatehouse/gateway"
	"gatehouse/lib/fault"
)

func node(addr string, weight, priority int) *gateway.Node {
	return &gateway.Node{Addr: addr, Weight: weight, Priority: priority}
}

func TestSmoothOrder(t *testing.T) {
	p, err := New("", []*gateway.Node{node("a", 5, 0), node("b", 1, 0), node("c", 1, 0), node("z", 0, 0)})
	if err != nil {
		t.Fatal(err)
	}
	var got strings.Builder
	for range 14 {
		n, err := p.Pick(nil, nil)
		if err != nil {
			t.Fatal(err)
		}
		got.WriteString(n.Addr)
	}
	if want := "aabacaaaabacaa"; got.String() != want {
		t.Errorf("order = %s, want %s", got.String(), want)
	}
}

func TestTriedNodesAreSkippedAndPriorityHolds(t *testing.T) {
	a, b, c := node("a", 1, 1), node("b", 1, 1), node("c", 1, 0)
	p, _ := New("roundrobin", []*gateway.Node{c, a, b})
	var tried []*gateway.Node
	for i := range 3 {
		n, err := p.Pick(nil, tried)
		if err != nil {
			t.Fatal(err)
		}
		if (n == c) != (i == 2) {
			t.Errorf("pick %d = %s, the low priority comes last", i, n.Addr)
		}
		tried = append(tried, n)
	}
	if _, err := p.Pick(nil, tried); fault.KindOf(err) != fault.Unavailable {
		t.Errorf("all tried: %v, want unavailable", err)
	}
}

func TestWeightZero(t *testing.T) {
	p, _ := New("", []*gateway.Node{node("a", 0, 0), node("b", 0, 0)})
	if _, err := p.Pick(nil, nil); fault.KindOf(err) != fault.Unavailable {
		t.Errorf("two nodes of weight 0: %v, want unavailable", err)
	}
	p, _ = New("", []*gateway.Node{node("a", 0, 0)})
	if n, err := p.Pick(nil, nil); err != nil || n.Addr != "a" {
		t.Errorf("the only node is used whatever its weight: %v", err)
	}
	p, _ = New("", nil)
	if _, err := p.Pick(nil, nil); fault.KindOf(err) != fault.Unavailable {
		t.Errorf("no nodes: %v, want unavailable", err)
	}
}

func TestUnsupportedTypeIsRefused(t *testing.T) {
	for _, kind := range []string{"chash", "ewma", "least_conn", "nonsense"} {
		if _, err := New(kind, nil); fault.KindOf(err) != fault.Invalid {
			t.Errorf("%s: %v, want invalid", kind, err)
		}
	}
}

func TestPickIsFairUnderConcurrency(t *testing.T) {
	a, b := node("a", 3, 0), node("b", 1, 0)
	p, _ := New("", []*gateway.Node{a, b})
	var mu sync.Mutex
	count := map[*gateway.Node]int{}
	var wg sync.WaitGroup
	for range 8 {
		wg.Go(func() {
			for range 500 {
				n, _ := p.Pick(nil, nil)
				mu.Lock()
				count[n]++
				mu.Unlock()
			}
		})
	}
	wg.Wait()
	if count[a] != 3000 || count[b] != 1000 {
		t.Errorf("a=%d b=%d, want 3000 and 1000", count[a], count[b])
	}
}
