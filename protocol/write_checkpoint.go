package protocol

import (
	"encoding/json"
	"fmt"
	"math"
	"strconv"
)

// CheckpointRequest asks for a write checkpoint with a number that the client
// chooses.
type CheckpointRequest struct {
	ClientID string
	ID       uint64 // 1 to 2⁶³−1
}

// DecodeCheckpointRequest reads and checks the JSON body of a checkpoint request.
// Errors are as for DecodeRequest.
func DecodeCheckpointRequest(body []byte) (*CheckpointRequest, error) {
	const (
		at   = "/checkpoint_request_id"
		form = "must be a safe integer or a numeric string from 1 to 9223372036854775807"
	)
	r := new(CheckpointRequest)
	var client, id bool
	err := decodeBody(body, func(v *validator, key string) {
		switch key {
		case "client_id":
			client = true
			r.ClientID = v.text("/client_id")
		case "checkpoint_request_id":
			id = true
			var ok bool
			switch c := v.peek(); {
			case c == '"':
				r.ID, ok = parseID([]byte(v.str()))
			case c == '-' || c >= '0' && c <= '9':
				var n int64
				n, ok = v.integer()
				ok = ok && n >= 0 && n < 1<<53
				r.ID = uint64(n)
			default:
				v.skip()
			}
			if !ok || r.ID == 0 {
				v.fail(at, form)
			}
		default:
			v.skip()
		}
	})
	if err != nil {
		return nil, err
	}
	var missing []string
	if !client {
		missing = append(missing, " must have required property 'client_id'")
	}
	if !id {
		missing = append(missing, " must have required property 'checkpoint_request_id'")
	}
	if missing != nil {
		return nil, badRequest(missing)
	}
	return r, nil
}

// AppendJSON appends the request as a client sends it.
func (r *CheckpointRequest) AppendJSON(dst []byte) []byte {
	dst = append(dst, `{"client_id":`...)
	dst = appendJSONString(dst, r.ClientID)
	dst = append(dst, `,"checkpoint_request_id":"`...)
	dst = strconv.AppendUint(dst, r.ID, 10)
	return append(dst, `"}`...)
}

// AppendWriteCheckpoint appends the answer to a request for a write checkpoint.
func AppendWriteCheckpoint(dst []byte, id uint64) []byte {
	dst = append(dst, `{"data":{"write_checkpoint":"`...)
	dst = strconv.AppendUint(dst, id, 10)
	return append(dst, `"}}`...)
}

// AppendCheckpointRequested appends the answer to a CheckpointRequest: the largest
// number that the client ever asked for.
func AppendCheckpointRequested(dst []byte, id uint64) []byte {
	dst = append(dst, `{"data":{"checkpoint_request_id":"`...)
	dst = strconv.AppendUint(dst, id, 10)
	return append(dst, `"}}`...)
}

// DecodeWriteCheckpoint reads the answer to either kind of request.
func DecodeWriteCheckpoint(body []byte) (uint64, error) {
	var answer struct {
		Data struct {
			WriteCheckpoint     string `json:"write_checkpoint"`
			CheckpointRequestID string `json:"checkpoint_request_id"`
		} `json:"data"`
	}
	if err := json.Unmarshal(body, &answer); err != nil {
		return 0, fmt.Errorf("read a write checkpoint: %w", err)
	}
	text := answer.Data.WriteCheckpoint
	if text == "" {
		text = answer.Data.CheckpointRequestID
	}
	id, ok := parseID([]byte(text))
	if !ok || id == 0 {
		return 0, fmt.Errorf("read a write checkpoint: %.40q is not a number from 1 to %d", text, int64(math.MaxInt64))
	}
	return id, nil
}
