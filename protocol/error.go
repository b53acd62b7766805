package protocol

import (
	"encoding/json"
	"errors"
	"fmt"
	"strconv"
	"strings"
)

// Error is a failure as clients and operators see it. Test for its kind with
// errors.Is and a Code.
type Error struct {
	Code Code
	// Status is the HTTP status to answer with.
	Status int
	// Description says what is wrong and what to do about it.
	Description string
	// Details adds particulars; validation errors have a JSON array of messages here.
	Details string
	// Severity and Name are parts of the answer that clients show in their logs.
	Severity string
	Name     string
	// Err is the cause, for the operator's log. It never leaves the process.
	Err error
}

// Errorf returns an error of a code with a description for the client, formatted
// as by fmt.Errorf; what %w names becomes the cause and is part of the description.
func Errorf(code Code, format string, args ...any) *Error {
	err := fmt.Errorf(format, args...)
	e := &Error{Code: code, Description: err.Error(), Err: errors.Unwrap(err)}
	e.Status, e.Name, e.Severity = code.class()
	return e
}

// Internal returns the error that clients get for a failure that is no business
// of theirs: it says nothing of err, which stays the cause.
func Internal(err error) *Error {
	return &Error{Code: BadRequest, Status: 500, Name: "InternalServerError", Description: "Internal server error", Err: err}
}

// AsError returns the Error in err's chain, or Internal(err). It returns nil for nil.
func AsError(err error) *Error {
	if err == nil {
		return nil
	}
	var e *Error
	if errors.As(err, &e) {
		return e
	}
	return Internal(err)
}

// Error returns the code in brackets, the description and the details: the form
// that error frames carry, in which clients look for the code.
func (e *Error) Error() string {
	var b strings.Builder
	if e.Code != "" {
		b.WriteString("[" + string(e.Code) + "] ")
	}
	b.WriteString(e.Description)
	if e.Details != "" {
		b.WriteString(": " + e.Details)
	}
	return b.String()
}

// Unwrap returns the cause.
func (e *Error) Unwrap() error { return e.Err }

// Is reports whether target is the error's Code or an Error with it.
func (e *Error) Is(target error) bool {
	switch t := target.(type) {
	case Code:
		return t == e.Code
	case *Error:
		return t.Code == e.Code
	}
	return false
}

// AppendJSON appends the body of an answer that reports the error. Texts that are
// not UTF-8, as when they quote a request, are repaired.
func (e *Error) AppendJSON(dst []byte) []byte {
	dst = append(dst, `{"error":{"code":`...)
	dst = appendJSONString(dst, string(e.Code))
	dst = append(dst, `,"status":`...)
	dst = strconv.AppendInt(dst, int64(e.Status), 10)
	dst = append(dst, `,"description":`...)
	dst = appendJSONString(dst, strings.ToValidUTF8(e.Description, "\uFFFD"))
	if e.Details != "" {
		dst = append(dst, `,"details":`...)
		dst = appendJSONString(dst, strings.ToValidUTF8(e.Details, "\uFFFD"))
	}
	if e.Severity != "" {
		dst = append(dst, `,"severity":`...)
		dst = appendJSONString(dst, e.Severity)
	}
	dst = append(dst, `,"name":`...)
	dst = appendJSONString(dst, e.Name)
	return append(dst, `}}`...)
}

// DecodeError returns the error that an answer with this status and body reports.
// A body of another form, as a proxy may send, becomes the description, shortened.
func DecodeError(status int, body []byte) *Error {
	var answer struct {
		Error struct {
			Code        Code   `json:"code"`
			Description string `json:"description"`
			Details     string `json:"details"`
			Severity    string `json:"severity"`
			Name        string `json:"name"`
		} `json:"error"`
	}
	if err := json.Unmarshal(body, &answer); err == nil && answer.Error.Code != "" {
		a := answer.Error
		return &Error{Code: a.Code, Status: status, Description: a.Description, Details: a.Details, Severity: a.Severity, Name: a.Name}
	}
	const most = 200
	text := strings.TrimSpace(strings.ToValidUTF8(string(body[:min(len(body), most)]), ""))
	if len(body) > most {
		text += "…"
	}
	if text == "" {
		text = "HTTP status " + strconv.Itoa(status)
	}
	return &Error{Status: status, Description: text}
}
