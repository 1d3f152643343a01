package oauth

import "time"

// Epoch is the record that ends, at one stroke, all that was issued before
// the given time: to a subject, to a client, or to a subject at a client; see
// EpochKey. It must outlive whatever it ends; zero expires: for good. Put it
// as it is, it overwrites.
func Epoch(subject, client string, at, expires time.Time) Record {
	data, err := at.UTC().MarshalText()
	if err != nil { // a year beyond 9999
		data = nil
	}
	return Record{
		Kind: Epochs, Key: EpochKey(subject, client), Client: client, Subject: subject,
		Generation: Overwrite, Expires: expires, Data: data,
	}
}

// EpochTime is the time an epoch record ends things up to. A record that
// cannot be read ends everything.
func EpochTime(r Record) time.Time {
	var t time.Time
	if err := t.UnmarshalText(r.Data); err != nil {
		return time.Unix(1<<40, 0)
	}
	return t
}
