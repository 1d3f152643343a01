package engine

import (
	"html"
	"net/http"
	"strconv"
	"strings"
)

// Page is the gateway's answer for a status without a body of its own: HTML,
// or JSON when the client's Accept asks for JSON and not for HTML.
func Page(status int, accept string) (contentType string, body []byte) {
	text := StatusText(status)
	if strings.Contains(accept, "json") && !strings.Contains(accept, "html") {
		return "application/json", []byte(`{"error_msg":"` + strconv.Itoa(status) + " " + text + "\"}\n")
	}
	t := strconv.Itoa(status) + " " + html.EscapeString(text)
	return "text/html; charset=utf-8", []byte("<!doctype html>\n<html lang=\"en\">\n<head><meta charset=\"utf-8\"><title>" + t +
		"</title></head>\n<body>\n<h1>" + t + "</h1>\n<hr>\n<p>gatehouse</p>\n</body>\n</html>\n")
}

// StatusText is the reason phrase of a status.
func StatusText(status int) string {
	if t := http.StatusText(status); t != "" {
		return t
	}
	return "Error"
}
