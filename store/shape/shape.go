// Package shape says what fits into a store, so that every backend refuses
// the same things, with the same words, before it touches its disk.
//
// It knows sizes and characters only. What a record means is not looked at.
package shape

import (
	"encoding/json"
	"fmt"
	"strings"
	"unicode/utf8"

	"gatehouse/lib/fault"
	"gatehouse/login"
	"gatehouse/oauth"
	"gatehouse/resource"
)

// Limits of what is kept.
const (
	MaxText    = 1024     // bytes of a key or of any other text that is searched for
	MaxData    = 1 << 20  // bytes of a record's data
	MaxObject  = 16 << 20 // bytes of a resource's JSON
	MaxRecords = 1000     // of one Put, Get or Remove
	MaxChanges = 10000    // of one Apply
)

// Page is what a list returns when it was not told how much.
const Page = 500

// Text says whether s may be stored and looked for: valid UTF-8 without NUL
// (PostgreSQL keeps nothing else), at most MaxText bytes.
func Text(s string) bool {
	return len(s) <= MaxText && utf8.ValidString(s) && strings.IndexByte(s, 0) < 0
}

// Ref says whether a record can exist under the name.
func Ref(r oauth.Ref) bool {
	return r.Kind != "" && r.Key != "" && Text(string(r.Kind)) && Text(r.Key)
}

// Query fails with fault.Invalid for a query without a kind. When ok is
// false, no record can match.
func Query(q oauth.Query) (ok bool, err error) {
	if q.Kind == "" {
		return false, fault.New(fault.Invalid, "a query must name a kind")
	}
	for _, s := range []string{string(q.Kind), q.Client, q.Subject, q.Session, q.Family} {
		if !Text(s) {
			return false, nil
		}
	}
	// After is a bound and need not be a key.
	return utf8.ValidString(q.After) && strings.IndexByte(q.After, 0) < 0, nil
}

// DeleteQuery is Query for Delete, which also demands that something besides
// the kind is named.
func DeleteQuery(q oauth.Query) (ok bool, err error) {
	q.After = ""
	if ok, err = Query(q); err != nil {
		return false, err
	}
	if q.Client == "" && q.Subject == "" && q.Session == "" && q.Family == "" {
		return false, fault.New(fault.Invalid, "a delete must name a client, subject, session or family")
	}
	return ok, nil
}

// Records fails with fault.Invalid when one of the records cannot be kept.
func Records(rs []oauth.Record) error {
	if len(rs) > MaxRecords {
		return invalid("more than %d records in one write", MaxRecords)
	}
	for _, r := range rs {
		switch {
		case r.Kind == "" || r.Key == "":
			return invalid("a record needs a kind and a key")
		case !Text(string(r.Kind)) || !Text(r.Key) || !Text(r.Client) || !Text(r.Subject) || !Text(r.Session) || !Text(r.Family):
			return invalid("the names of a %s record must be UTF-8 of at most %d bytes", r.Kind, MaxText)
		case len(r.Data) > MaxData:
			return invalid("the data of a %s record is larger than %d bytes", r.Kind, MaxData)
		case r.Generation < oauth.Overwrite:
			return invalid("generation %d of a %s record has no meaning", r.Generation, r.Kind)
		}
	}
	return nil
}

// Refs fails with fault.Invalid when there are too many.
func Refs(refs []oauth.Ref) error {
	if len(refs) > MaxRecords {
		return invalid("more than %d records named at once", MaxRecords)
	}
	return nil
}

// Family fails with fault.Invalid when no record can have the family.
func Family(f string) error {
	if f == "" || !Text(f) {
		return invalid("a family to revoke must be named")
	}
	return nil
}

// Changes fails with fault.Invalid when one of the changes cannot be made.
func Changes(cs []resource.Change) error {
	if len(cs) > MaxChanges {
		return invalid("more than %d changes at once", MaxChanges)
	}
	for _, c := range cs {
		switch {
		case c.Kind == "" || c.ID == "":
			return invalid("a change needs a kind and an id")
		case !Text(string(c.Kind)) || !Text(c.ID):
			return invalid("a kind and an id must be UTF-8 of at most %d bytes", MaxText)
		case len(c.JSON) > MaxObject:
			return invalid("%s %s is larger than %d bytes", c.Kind, c.ID, MaxObject)
		case c.JSON != nil && !json.Valid(c.JSON):
			return invalid("%s %s is not valid JSON", c.Kind, c.ID)
		case c.If < resource.Absent:
			return invalid("revision %d of %s %s has no meaning", c.If, c.Kind, c.ID)
		}
	}
	return nil
}

// User fails with fault.Invalid when the account cannot be kept.
func User(u login.User) error {
	switch {
	case u.ID == "" || u.Email == "":
		return invalid("a user needs an id and an email address")
	case !Text(u.ID) || !Text(u.Email) || !Text(u.Name) || !Text(u.PasswordHash):
		return invalid("the texts of a user must be UTF-8 of at most %d bytes", MaxText)
	case u.Email != strings.ToLower(u.Email):
		return invalid("the email address of a user is kept in lower case")
	}
	return nil
}

func invalid(format string, args ...any) error {
	return fault.New(fault.Invalid, fmt.Sprintf(format, args...))
}
