package limitcount

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"strconv"
	"strings"

	"gatehouse/gateway"
	"gatehouse/lib/schema"
)

// Config is the configuration; schema.json says more than its tags can.
type Config struct {
	Count                Number  `json:"count" doc:"Requests a window has room for; a number, or a text with variables that becomes one."`
	TimeWindow           Number  `json:"time_window" doc:"Length of a window in seconds; a number, or a text with variables that becomes one."`
	WindowType           string  `json:"window_type" default:"fixed" enum:"fixed|sliding" doc:"fixed: a window begins with the first request and is empty when it is over. sliding: the window before counts by the part of it that the last time_window seconds cover."`
	Key                  string  `json:"key" default:"remote_addr" max:"4096" doc:"What requests are counted by. When it is empty for a request, the address of the client is used."`
	KeyType              string  `json:"key_type" default:"var" enum:"var|var_combination|constant" doc:"var: key is the name of a variable. var_combination: key is a text with variables. constant: key is itself."`
	Rules                []Rule  `json:"rules" min:"1" max:"64" doc:"Limits with keys of their own, instead of count, time_window and key. Every rule whose key has a value applies."`
	Group                string  `json:"group" min:"1" max:"256" doc:"Places with the same group and the same configuration share their counters."`
	RejectedCode         int     `json:"rejected_code" default:"503" min:"200" max:"599" doc:"Status of a refusal."`
	RejectedMsg          string  `json:"rejected_msg" min:"1" max:"4096" doc:"error_msg in the body of a refusal; without it the page of the status."`
	Policy               string  `json:"policy" default:"local" enum:"local|redis|redis-cluster|redis-sentinel" doc:"Where is counted. Only local is supported: in the memory of this process."`
	AllowDegradation     bool    `json:"allow_degradation" default:"false" doc:"Let requests pass when the limit cannot be worked out, instead of answering 500."`
	ShowLimitQuotaHeader bool    `json:"show_limit_quota_header" default:"true" doc:"Tell the client the limit, what remains and when it is reset."`
	SyncInterval         float64 `json:"sync_interval" default:"-1" doc:"Has no effect with policy local."`
}

// Rule is one of several limits.
type Rule struct {
	Count        Number `json:"count" required:"true" doc:"Requests a window has room for."`
	TimeWindow   Number `json:"time_window" required:"true" doc:"Length of a window in seconds."`
	Key          string `json:"key" required:"true" min:"1" max:"4096" doc:"Text with variables. The rule applies when at least one has a value."`
	HeaderPrefix string `json:"header_prefix" min:"1" max:"64" pattern:"^[0-9A-Za-z-]+$" doc:"X-PREFIX-RateLimit-Limit and so on are the fields for this rule; without it the number of the rule, from 1."`
}

// Metadata is the plugin_metadata.
type Metadata struct {
	LimitHeader     string `json:"limit_header" default:"X-RateLimit-Limit" min:"1" max:"128" pattern:"^[0-9A-Za-z_-]+$" doc:"Field that tells the limit."`
	RemainingHeader string `json:"remaining_header" default:"X-RateLimit-Remaining" min:"1" max:"128" pattern:"^[0-9A-Za-z_-]+$" doc:"Field that tells what remains."`
	ResetHeader     string `json:"reset_header" default:"X-RateLimit-Reset" min:"1" max:"128" pattern:"^[0-9A-Za-z_-]+$" doc:"Field that tells the seconds until the window ends."`
}

// Number is a whole number above zero, or a text with variables.
type Number struct {
	n    int64
	text string
}

// Limits of numbers, from wherever they come.
const (
	maxCount  = 1 << 53
	maxWindow = 10 * 366 * 24 * 3600 // seconds
)

// JSONSchema allows both forms.
func (*Number) JSONSchema() json.RawMessage {
	return json.RawMessage(`{"oneOf":[{"type":"integer","exclusiveMinimum":0},{"type":"string","minLength":1,"maxLength":1024}]}`)
}

// UnmarshalJSON reads either form.
func (n *Number) UnmarshalJSON(raw []byte) error {
	if len(raw) > 0 && raw[0] == '"' {
		return json.Unmarshal(raw, &n.text)
	}
	var f float64
	if err := json.Unmarshal(raw, &f); err != nil || f <= 0 || f != float64(int64(f)) || f > maxCount {
		return fmt.Errorf("%.32s is not a whole number above 0", raw)
	}
	n.n = int64(f)
	return nil
}

// MarshalJSON writes what was read.
func (n Number) MarshalJSON() ([]byte, error) {
	if n.text != "" {
		return json.Marshal(n.text)
	}
	return json.Marshal(n.n)
}

func (n Number) isZero() bool { return n == Number{} }

// UnmarshalJSON drops what Redis would need when nothing is counted there:
// such fields are allowed, for they are left behind when a policy is changed.
func (c *Config) UnmarshalJSON(raw []byte) error {
	var m map[string]json.RawMessage
	if err := json.Unmarshal(raw, &m); err != nil {
		return errors.New("wrong type: expected object")
	}
	for k := range m {
		if strings.HasPrefix(k, "redis_") || strings.HasPrefix(k, "sentinel_") {
			delete(m, k)
		}
	}
	kept, err := json.Marshal(m)
	if err != nil {
		return err
	}
	type plain Config // without this method
	return schema.Decode(kept, (*plain)(c))
}

// Validate says what the schema cannot.
func (c *Config) Validate() error {
	if c.Policy != "local" {
		return fmt.Errorf("policy %q is not supported yet: counting is local to this process; use \"local\"", c.Policy)
	}
	single := !c.Count.isZero() && !c.TimeWindow.isZero()
	switch {
	case len(c.Rules) > 0 && (!c.Count.isZero() || !c.TimeWindow.isZero()):
		return errors.New("rules cannot be combined with count and time_window")
	case len(c.Rules) == 0 && c.Count.isZero():
		return errors.New(`property "count" is required`)
	case len(c.Rules) == 0 && !single:
		return errors.New(`property "time_window" is required`)
	}
	_, err := compile(*c)
	return err
}

// hash identifies a configuration: counters belong to one, so a change of it
// begins anew.
func (c Config) hash() (string, error) {
	raw, err := json.Marshal(c)
	if err != nil {
		return "", err
	}
	sum := sha256.Sum256(raw)
	return hex.EncodeToString(sum[:16]), nil
}

// compile makes the limits of a configuration.
func compile(c Config) ([]limit, error) {
	rules := c.Rules
	if len(rules) == 0 {
		rules = []Rule{{Count: c.Count, TimeWindow: c.TimeWindow, Key: c.Key}}
	}
	var out []limit
	for i, r := range rules {
		l := limit{prefix: r.HeaderPrefix, id: fmt.Sprintf("%d ", i)}
		if l.prefix == "" {
			l.prefix = fmt.Sprint(i + 1)
		}
		var err error
		if l.count, err = newAmount(r.Count, maxCount); err != nil {
			return nil, fmt.Errorf("property \"count\": %w", err)
		}
		if l.count.text == nil {
			l.total = strconv.FormatInt(l.count.n, 10)
		}
		if l.seconds, err = newAmount(r.TimeWindow, maxWindow); err != nil {
			return nil, fmt.Errorf("property \"time_window\": %w", err)
		}
		switch {
		case len(c.Rules) > 0 || c.KeyType == "var_combination":
			if l.combination, err = gateway.ParseTemplate(r.Key); err != nil {
				return nil, fmt.Errorf("property \"key\": %w", err)
			}
		case c.KeyType == "var":
			l.variable = r.Key
		default:
			l.constant = r.Key
		}
		out = append(out, l)
	}
	return out, nil
}
