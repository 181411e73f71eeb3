package walberr

import (
	"context"
	"errors"
	"fmt"
	"io"
	"testing"

	"github.com/stretchr/testify/assert"
)

func TestErrorIsOneLineWithEverything(t *testing.T) {
	err := &Error{
		Op: "replicate_once", Server: "a0", Volume: "vol", Code: BadState,
		Found: "state Stopped\nsecond line", Expected: "Archived", Hint: "start it", Err: io.EOF,
	}
	assert.Equal(t, "replicate_once at a0 volume vol: state Stopped second line; expected Archived; EOF (hint: start it)", err.Error())
	assert.ErrorIs(t, err, io.EOF)
	assert.Equal(t, "x: bad_state", (&Error{Op: "x", Code: BadState}).Error())
}

func TestCodeOf(t *testing.T) {
	inner := &Error{Op: "dial", Code: Unreachable}
	for _, c := range []struct {
		err  error
		want Code
	}{
		{nil, ""},
		{errors.New("x"), Internal},
		{fmt.Errorf("wrap: %w", inner), Unreachable},
		{&Error{Op: "outer", Err: inner}, Unreachable},
		{&Error{Op: "outer", Code: Timeout, Err: inner}, Timeout},
		{&Error{Op: "outer", Err: context.Canceled}, Canceled},
		{context.DeadlineExceeded, Timeout},
	} {
		assert.Equal(t, c.want, CodeOf(c.err), "%v", c.err)
	}
	assert.True(t, Is(inner, Unreachable))
	assert.False(t, Is(nil, ""))
}
