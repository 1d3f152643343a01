package engine

import (
	"bufio"
	"errors"
	"io"
	"net/http/httputil"
	"strings"

	"gatehouse/gateway"
)

var errAnswer = errors.New("invalid answer of the upstream")

// readAnswerHead reads a status line and fields. A lone LF ends a line too,
// answers are written anew anyway; anything else is as strict as for requests.
func readAnswerHead(br *bufio.Reader, h *gateway.Header) (status, minor int, err error) {
	head, err := readHead(br)
	if err != nil {
		return 0, 0, err
	}
	line, fields, _ := strings.Cut(head, "\n")
	line = strings.TrimSuffix(line, "\r")
	proto, rest, _ := strings.Cut(line, " ")
	switch proto {
	case "HTTP/1.1":
		minor = 1
	case "HTTP/1.0":
	default:
		return 0, 0, errAnswer
	}
	code, _, _ := strings.Cut(rest, " ")
	if len(code) != 3 {
		return 0, 0, errAnswer
	}
	for _, c := range []byte(code) {
		if c < '0' || c > '9' {
			return 0, 0, errAnswer
		}
		status = status*10 + int(c-'0')
	}
	if status < 100 || status > 599 {
		return 0, 0, errAnswer
	}
	return status, minor, parseFields(fields, h, maxAnswerFields, true)
}

// readHead reads up to the empty line, which it drops.
func readHead(br *bufio.Reader) (string, error) {
	var head []byte
	for start := 0; ; {
		part, err := br.ReadSlice('\n')
		if head = append(head, part...); len(head) > maxAnswerHead {
			return "", errors.New("the upstream's answer has too large a head")
		}
		if err == bufio.ErrBufferFull {
			continue
		}
		if err != nil {
			if err == io.EOF {
				err = io.ErrUnexpectedEOF
			}
			return "", err
		}
		if line := string(head[start:]); line == "\r\n" || line == "\n" {
			if start == 0 {
				return "", errAnswer
			}
			return string(head[:start]), nil
		}
		start = len(head)
	}
}

// chunked decodes a chunked body and reads the trailers after it, which are
// dropped.
type chunked struct {
	r  io.Reader
	br *bufio.Reader
}

func newChunked(br *bufio.Reader) io.Reader { return &chunked{httputil.NewChunkedReader(br), br} }

func (c *chunked) Read(p []byte) (int, error) {
	n, err := c.r.Read(p)
	if err == io.EOF {
		for size := 0; ; {
			line, err := c.br.ReadSlice('\n')
			if size += len(line); err != nil || size > maxTrailer {
				return n, io.ErrUnexpectedEOF
			}
			if s := string(line); s == "\r\n" || s == "\n" {
				return n, io.EOF
			}
		}
	}
	return n, err
}
