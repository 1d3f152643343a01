package expr

import (
	"encoding/json"
	"strings"
	"testing"
)

var vars = map[string]string{
	"arg_user": "jack", "arg_n": "10", "arg_empty": "", "http_x": "Value-1", "arg_f": "1.50",
	"remote_addr": "10.1.2.3", "server_addr": "2001:db8::1", "arg_v4in6": "::ffff:10.9.9.9",
}

func lookup(name string) (string, bool) { v, ok := vars[name]; return v, ok }

func TestEval(t *testing.T) {
	for _, c := range []struct {
		in   string
		want bool
	}{
		{`[]`, true},
		{`null`, true},
		{`[["arg_user","jack"]]`, true},
		{`[["arg_user","==","jack"]]`, true},
		{`["arg_user","==","jack"]`, true},
		{`[["arg_user","==","jill"]]`, false},
		{`[["arg_user","!","==","jill"]]`, true},
		{`[["arg_user","==","jack"],["arg_n","==","11"]]`, false},
		{`[["arg_n","==",10]]`, true},
		{`[["arg_f","==",1.5]]`, true},
		{`[["arg_f","==","1.5"]]`, false},
		{`[["arg_user","==",1]]`, false},
		{`[["arg_user","==",true]]`, false},
		{`[["arg_none","==",null]]`, true},
		{`[["arg_empty","==",null]]`, false},
		{`[["arg_empty","==",""]]`, true},
		{`[["arg_none","==",""]]`, false},
		{`[["arg_none","~=",null]]`, false},
		{`[["arg_none","~=","x"]]`, true},
		{`[["arg_user","~=",1]]`, true},
		{`[["arg_n","~=",10]]`, false},
		{`[["arg_n",">",9]]`, true},
		{`[["arg_n",">","9"]]`, true},
		{`[["arg_n",">",10]]`, false},
		{`[["arg_n",">=",10]]`, true},
		{`[["arg_n","<",10.5]]`, true},
		{`[["arg_n","<=",9]]`, false},
		{`[["arg_user","<",9]]`, false},
		{`[["arg_none","<",9]]`, false},
		{`[["arg_none","!","<",9]]`, true},
		{`[["http_x","~~","^Value-\\d$"]]`, true},
		{`[["http_x","~~","value"]]`, false},
		{`[["http_x","~*","value"]]`, true},
		{`[["http_x","!","~*","value"]]`, false},
		{`[["arg_none","~~",".*"]]`, false},
		{`[["arg_user","in",["a","jack"]]]`, true},
		{`[["arg_n","in",[9,10]]]`, true},
		{`[["arg_n","in",["9"]]]`, false},
		{`[["arg_none","in",[""]]]`, false},
		{`[["arg_user","has","jack"]]`, false},
		{`[["arg_user","!","has","jack"]]`, true},
		{`[["remote_addr","ipmatch",["192.168.0.0/16","10.0.0.0/8"]]]`, true},
		{`[["remote_addr","ipmatch","10.1.2.3"]]`, true},
		{`[["remote_addr","ipmatch",["10.1.2.4"]]]`, false},
		{`[["arg_v4in6","ipmatch",["10.0.0.0/8"]]]`, true},
		{`[["server_addr","ipmatch",["2001:db8::/32"]]]`, true},
		{`[["arg_user","ipmatch",["0.0.0.0/0"]]]`, false},
		{`["OR",["arg_user","x"],["arg_n","10"]]`, true},
		{`["AND",["arg_user","x"],["arg_n","10"]]`, false},
		{`["!OR",["arg_user","x"],["arg_n","10"]]`, false},
		{`["!AND",["arg_user","x"],["arg_n","10"]]`, true},
		{`[["arg_user","jack"],["OR",["arg_n","9"],["!AND",["arg_n","9"],["arg_n","8"]]]]`, true},
	} {
		e, err := Parse(json.RawMessage(c.in))
		if err != nil {
			t.Errorf("%s: %v", c.in, err)
			continue
		}
		if got := e.Eval(lookup); got != c.want {
			t.Errorf("%s: got %v, want %v", c.in, got, c.want)
		}
	}
}

func TestParseRefuses(t *testing.T) {
	deep := strings.Repeat("[", maxDepth+2) + `["a","b"]` + strings.Repeat("]", maxDepth+2)
	for _, c := range []struct{ in, want string }{
		{``, "reading an expression"},
		{`[`, "reading an expression"},
		{`[] []`, "text after its end"},
		{`{}`, "must be an array"},
		{`"x"`, "must be an array"},
		{`[[]]`, "empty condition"},
		{`[1]`, "got a number"},
		{`["a"]`, "two to four"},
		{`[["a","=","b"]]`, "invalid operator '='"},
		{`[["a",1,"b"]]`, "must be a string"},
		{`[["a","?","==","b"]]`, `not "!"`},
		{`[["","==","b"]]`, "empty"},
		{`[["a",">","b"]]`, "compares numbers"},
		{`[["a","~~",1]]`, "regular expression"},
		{`[["a","~~","("]]`, "missing closing"},
		{`[["a","~~","(?=x)"]]`, "lookaheads are not supported"},
		{`[["a","~~","(?<!x)"]]`, "lookbehinds are not supported"},
		{`[["a","~~","(a)\\1"]]`, "back references are not supported"},
		{`[["a","~~","a++"]]`, "possessive"},
		{`[["a","in","b"]]`, "takes an array"},
		{`[["a","in",[null]]]`, "strings and numbers"},
		{`[["a","ipmatch",["x"]]]`, "neither an address"},
		{`[["a","ipmatch",[]]]`, "takes addresses"},
		{`[["a","==",{}]]`, "an object"},
		{`["OR",["a","b"]]`, "at least two"},
		{`["OR","a","b"]`, "must be an array"},
		{deep, "nested deeper"},
		{`[["a","~~","` + strings.Repeat("a", maxRegex+1) + `"]]`, "longer than"},
		{`[` + strings.Repeat(`["a","b"],`, maxNodes) + `["a","b"]]`, "more than"},
		{`["` + strings.Repeat("a", maxBytes) + `","b"]`, "longer than"},
	} {
		_, err := Parse(json.RawMessage(c.in))
		if err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%.60s: got %v, want %q", c.in, err, c.want)
		}
	}
}

func TestNilHolds(t *testing.T) {
	var e *Expr
	if !e.Eval(lookup) {
		t.Error("nil does not hold")
	}
}

func TestEvalDoesNotAllocate(t *testing.T) {
	e, err := Parse(json.RawMessage(`[["arg_user","in",["jack"]],["arg_n",">",9],["remote_addr","ipmatch",["10.0.0.0/8"]],["http_x","~~","^V"]]`))
	if err != nil {
		t.Fatal(err)
	}
	if n := testing.AllocsPerRun(100, func() { e.Eval(lookup) }); n != 0 {
		t.Errorf("got %v allocations, want 0", n)
	}
}

func FuzzParse(f *testing.F) {
	for _, s := range []string{`[["a","==","b"]]`, `["OR",["a","b"],["a","!","in",[1,"x"]]]`, `[["a","~~","^x+$"]]`, `[["a","ipmatch","::/0"]]`, `null`} {
		f.Add([]byte(s), "x")
	}
	f.Fuzz(func(t *testing.T, raw []byte, v string) {
		e, err := Parse(raw)
		if err != nil {
			return
		}
		found := func(string) (string, bool) { return v, true }
		first := e.Eval(found)
		if e.Eval(found) != first {
			t.Error("two answers to one question")
		}
		e.Eval(func(string) (string, bool) { return "", false })
	})
}
