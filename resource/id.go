package resource

import (
	"bytes"
	"encoding/json"
	"fmt"
	"strconv"
	"time"
)

// ID is the name of a resource where another one refers to it. Operators may
// write it as a string or as a whole number: "1" and 1 are the same.
type ID string

// UnmarshalJSON accepts a string or a whole number.
func (id *ID) UnmarshalJSON(b []byte) error {
	if len(b) > 0 && b[0] != '"' {
		if string(b) == "null" {
			return nil
		}
		if _, err := strconv.ParseInt(string(b), 10, 64); err != nil {
			return fmt.Errorf("an id is a string or a whole number, not %s", b)
		}
		*id = ID(b)
		return nil
	}
	var s string
	if err := json.Unmarshal(b, &s); err != nil {
		return err
	}
	*id = ID(s)
	return nil
}

// Meta is what every resource may say of itself. Times are seconds since 1970,
// written by the Admin API.
type Meta struct {
	ID         ID                `json:"id,omitempty"`
	Name       string            `json:"name,omitempty"`
	Desc       string            `json:"desc,omitempty"`
	Labels     map[string]string `json:"labels,omitempty"`
	CreateTime int64             `json:"create_time,omitempty"`
	UpdateTime int64             `json:"update_time,omitempty"`
}

// Timeout bounds the parts of a call to an upstream, in seconds; fractions are
// allowed, 0 is not set.
type Timeout struct {
	Connect float64 `json:"connect"`
	Send    float64 `json:"send"`
	Read    float64 `json:"read"`
}

// Seconds is a number of seconds as a duration.
func Seconds(s float64) time.Duration { return time.Duration(s * float64(time.Second)) }

// Enabled reads a status field: 1 or absent is on, 0 is off.
func Enabled(status *int) bool { return status == nil || *status != 0 }

func isNull(b []byte) bool { return bytes.Equal(bytes.TrimSpace(b), []byte("null")) }
