package transfer

import (
	"context"
	"io"
	"math/rand/v2"
	"net"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"walbsh/walbcore/block"
	"walbsh/walbcore/compress"
	"walbsh/walbcore/image"
	"walbsh/walbcore/meta"
	"walbsh/walbcore/wdiff"
	"walbsh/walbcore/wire"
)

const benchSize = 256 << 20

// fillImage writes random data that compress to about the given share.
func fillImage(tb testing.TB, dst io.WriterAt, size int64, percent int) {
	tb.Helper()
	rng := rand.NewChaCha8([32]byte{1})
	p := make([]byte, 1<<20)
	for off := int64(0); off < size; off += int64(len(p)) {
		_, _ = rng.Read(p)
		for i := 0; i < len(p); i += 4096 {
			clear(p[i+4096*percent/100 : i+4096])
		}
		_, err := dst.WriteAt(p, off)
		require.NoError(tb, err)
	}
}

func tcpPair(tb testing.TB) (net.Conn, net.Conn) {
	tb.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(tb, err)
	defer l.Close()
	a, err := net.Dial("tcp", l.Addr().String())
	require.NoError(tb, err)
	b, err := l.Accept()
	require.NoError(tb, err)
	return a, b
}

// BenchmarkFullReplication sends a dense image over loopback to a file on
// disk; BenchmarkPlainCopy is the yardstick: the same bytes through a socket
// to a file and fsync.
func BenchmarkFullReplication(b *testing.B) {
	for name, percent := range map[string]int{"random": 100, "half": 50} {
		b.Run(name, func(b *testing.B) {
			base := b.TempDir()
			store := image.NewFiles(base)
			for _, v := range []string{"src", "dst"} {
				require.NoError(b, os.Mkdir(filepath.Join(base, v), 0o755))
			}
			src, err := store.Create("src", block.FromBytes(benchSize))
			require.NoError(b, err)
			defer src.Close()
			fillImage(b, src, benchSize, percent)
			require.NoError(b, src.Sync())
			s := BlockStream{Size: block.FromBytes(benchSize), Bulk: DefaultBulk, Compress: compress.Opt{Type: compress.Snappy, CPUs: 1}}
			b.SetBytes(benchSize)
			for b.Loop() {
				require.NoError(b, store.Delete("dst"))
				dst, err := store.Create("dst", s.Size)
				require.NoError(b, err)
				x, y := tcpPair(b)
				ctx := context.Background()
				c := wire.NewConn(ctx, x, wire.Options{Timeout: 10 * time.Second})
				d := wire.NewConn(ctx, y, wire.Options{Timeout: 10 * time.Second})
				done := make(chan error, 1)
				go func() { done <- SendBlocks(ctx, c, src, s, Options{}) }()
				require.NoError(b, ReceiveBlocks(ctx, d, dst, s, nil, Options{}))
				require.NoError(b, <-done)
				c.Close()
				d.Close()
				require.NoError(b, dst.Close())
			}
		})
	}
}

func BenchmarkPlainCopy(b *testing.B) {
	dir := b.TempDir()
	src, err := os.Create(filepath.Join(dir, "src"))
	require.NoError(b, err)
	defer src.Close()
	fillImage(b, src, benchSize, 100)
	require.NoError(b, src.Sync())
	b.SetBytes(benchSize)
	for b.Loop() {
		dst, err := os.Create(filepath.Join(dir, "dst"))
		require.NoError(b, err)
		x, y := tcpPair(b)
		_, err = src.Seek(0, io.SeekStart)
		require.NoError(b, err)
		done := make(chan error, 1)
		go func() {
			_, err := io.Copy(struct{ io.Writer }{x}, struct{ io.Reader }{src})
			x.Close()
			done <- err
		}()
		_, err = io.CopyBuffer(struct{ io.Writer }{dst}, struct{ io.Reader }{y}, make([]byte, 256<<10))
		require.NoError(b, err)
		require.NoError(b, <-done)
		require.NoError(b, dst.Sync())
		require.NoError(b, dst.Close())
		y.Close()
	}
}

// BenchmarkDiffRound sends a diff of 64 KiB records, as files hold them.
func BenchmarkDiffRound(b *testing.B) {
	for name, percent := range map[string]int{"random": 100, "half": 50} {
		b.Run(name, func(b *testing.B) {
			dir := b.TempDir()
			f, err := os.Create(filepath.Join(dir, "src"))
			require.NoError(b, err)
			defer f.Close()
			const blocks = 128
			data := make(memBytes, benchSize)
			fillImage(b, data, benchSize, percent)
			w, err := wdiff.NewSortedWriter(f, "src", meta.UUID{}, 0)
			require.NoError(b, err)
			for at := block.LB(0); at.Bytes() < benchSize; at += blocks {
				o, err := wdiff.NewIO(at, data[at.Bytes():(at+blocks).Bytes()], nil, snappy1)
				require.NoError(b, err)
				require.NoError(b, w.Add(&o))
			}
			require.NoError(b, w.Close())
			src, err := wdiff.Open("src", f, w.Size())
			require.NoError(b, err)
			b.SetBytes(benchSize)
			for b.Loop() {
				dst, err := os.Create(filepath.Join(dir, "dst"))
				require.NoError(b, err)
				c, s := pipe(b)
				done := make(chan error, 1)
				go func() {
					req := wire.WdiffRequest{Volume: "vol", HostType: wire.HostProxy, Size: block.FromBytes(benchSize), Diff: clean(0, 1, true)}
					done <- SendWdiff(b.Context(), c, req, []*wdiff.File{src}, snappy1, Options{})
					c.Close()
				}()
				require.NoError(b, serveOn(b.Context(), s, func(ctx context.Context, c *wire.Conn, reply Reply) error {
					return ServeWdiff(ctx, c, reply, fileArchive{dst}, Options{})
				}))
				require.NoError(b, <-done)
				require.NoError(b, dst.Close())
			}
		})
	}
}

type memBytes []byte

func (m memBytes) WriteAt(p []byte, off int64) (int, error) { return copy(m[off:], p), nil }

// fileArchive takes diffs into one file.
type fileArchive struct{ f *os.File }

func (a fileArchive) Judge(context.Context, *wire.WdiffRequest) (string, error) {
	return wire.Accept, nil
}
func (a fileArchive) Create(context.Context) (DiffSink, error) { return a, nil }
func (a fileArchive) Write(p []byte) (int, error)              { return a.f.Write(p) }
func (a fileArchive) Sync() error                              { return a.f.Sync() }
func (a fileArchive) Commit(context.Context) error             { return a.f.Sync() }
func (a fileArchive) Close() error                             { return nil }
