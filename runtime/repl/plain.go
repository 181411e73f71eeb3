package repl

import (
	"bufio"
	"context"
	"io"
	"strings"
	"sync"
)

// Plain is a [LineReader] without line editing, for dumb terminals and for
// programs that talk to the prompt. Its ReadLine cannot be ended by a context
// while it waits for input.
type Plain struct {
	in *bufio.Reader

	mu      sync.Mutex
	out     io.Writer
	mid     bool // the last byte printed was no line's end
	reading bool
}

// NewPlain makes a reader of lines from in that prints to out.
func NewPlain(in io.Reader, out io.Writer) *Plain {
	return &Plain{in: bufio.NewReader(in), out: out}
}

// Write prints.
func (p *Plain) Write(b []byte) (int, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.write(b)
}

func (p *Plain) write(b []byte) (int, error) {
	if len(b) > 0 {
		p.mid = b[len(b)-1] != '\n'
	}
	return p.out.Write(b)
}

// ReadLine prints the prompt and reads a line. The last line may lack its end.
func (p *Plain) ReadLine(ctx context.Context, prompt string) (string, error) {
	if ctx.Err() != nil {
		return "", context.Cause(ctx)
	}
	if _, err := io.WriteString(p, prompt); err != nil {
		return "", err
	}
	p.setReading(true)
	line, err := p.in.ReadString('\n')
	p.setReading(false)
	if err == nil {
		p.lineEnded()
	}
	if err != nil && (err != io.EOF || line == "") {
		return "", err
	}
	return strings.TrimRight(line, "\r\n"), nil
}

func (p *Plain) setReading(on bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.reading = on
}

// lineEnded notes that the user's Enter ended the line that the prompt began.
func (p *Plain) lineEnded() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.mid = false
}

// Reading reports whether a ReadLine waits.
func (p *Plain) Reading() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.reading
}

// Remember does nothing: there is no history.
func (p *Plain) Remember(string) {}

// Notice prints a line, on a line of its own.
func (p *Plain) Notice(line string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.mid {
		line = "\n" + line
	}
	_, _ = p.write([]byte(line + "\n")) // a notice that cannot be printed has no other reader
}

// Close does nothing.
func (p *Plain) Close() error { return nil }
