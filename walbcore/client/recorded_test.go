package client

import (
	"bytes"
	"compress/gzip"
	"context"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"walbsh/walbcore/block"
	"walbsh/walbcore/compress"
	"walbsh/walbcore/meta"
	"walbsh/walbcore/walberr"
	"walbsh/walbcore/wire"
)

// recording is one command of the original's controller and all bytes of it.
type recording struct {
	Name, Server, Protocol string
	C2S, S2C               string // whole streams, hex
	Argv                   []string
	Exit                   *int
	Stdout                 string
}

func recordings(t *testing.T) []recording {
	t.Helper()
	f, err := os.Open("../wire/testdata/recorded.json.gz")
	require.NoError(t, err)
	defer f.Close()
	z, err := gzip.NewReader(f)
	require.NoError(t, err)
	var all []recording
	require.NoError(t, json.NewDecoder(z).Decode(&all))
	return all
}

// script is a server that answers connections with fixed bytes: opening after
// the hello, answer after the request.
type script struct {
	hello, body     []byte // what the client must send
	opening, answer []byte
}

// scriptOf cuts a recording into the parts of a script.
func scriptOf(t *testing.T, rec recording) script {
	t.Helper()
	c2s, err := hex.DecodeString(rec.C2S)
	require.NoError(t, err)
	s2c, err := hex.DecodeString(rec.S2C)
	require.NoError(t, err)
	r := wire.NewReader(bytes.NewReader(c2s))
	new(wire.Hello).Decode(r)
	require.NoError(t, r.Err())
	s := wire.NewReader(bytes.NewReader(s2c))
	s.Str()
	s.Str()
	require.NoError(t, s.Err())
	return script{c2s[:r.Pos()], c2s[r.Pos():], s2c[:s.Pos()], s2c[s.Pos():]}
}

// serve plays the scripts, one connection each, and checks what the client
// sends to the last byte, and that it closes. It answers the address.
func serve(t *testing.T, scripts ...script) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	var wg sync.WaitGroup
	wg.Go(func() {
		for _, s := range scripts {
			c, err := l.Accept()
			if err != nil {
				t.Errorf("a connection is missing: %v", err)
				return
			}
			s.play(t, c)
			c.Close()
		}
	})
	t.Cleanup(func() {
		wg.Wait()
		l.Close()
	})
	return l.Addr().String()
}

func (s script) play(t *testing.T, c net.Conn) {
	t.Helper()
	hello := make([]byte, len(s.hello))
	if _, err := io.ReadFull(c, hello); err != nil {
		t.Errorf("hello: %v", err)
		return
	}
	assert.Equal(t, hex.EncodeToString(s.hello), hex.EncodeToString(hello), "hello")
	c.Write(s.opening)
	body := make([]byte, len(s.body))
	n, err := io.ReadFull(c, body)
	if len(body) > 0 && err != nil {
		t.Errorf("request: %v", err)
	}
	assert.Equal(t, hex.EncodeToString(s.body), hex.EncodeToString(body[:n]), "request")
	c.Write(s.answer)
	c.(*net.TCPConn).CloseWrite()
	rest, err := io.ReadAll(c) // ends when the client closes
	assert.NoError(t, err)
	assert.Empty(t, rest, "bytes behind the request")
}

// errInexpressible marks words that the methods cannot be made to send.
var errInexpressible = errors.New("cannot be asked by a method")

// call performs the command that argv stands for and prints the result as the
// original's controller does.
func call(ctx context.Context, c *Client, argv []string) (string, error) {
	name, a := argv[0], append(slices.Clone(argv[1:]), "", "", "", "")
	lines := func(v []string, err error) (string, error) {
		return strings.Join(append(v, ""), "\n"), err
	}
	switch name {
	case wire.ProtoVersion:
		s, err := c.Version(ctx)
		return s + "\n", err
	case wire.ProtoStatus:
		return lines(c.Status(ctx, a[0]))
	case wire.ProtoGet:
		return callGet(ctx, c, a)
	case wire.ProtoSleep:
		n, _ := strconv.ParseUint(a[0], 10, 64)
		return "", c.Sleep(ctx, n)
	case wire.ProtoShutdown:
		return "", c.Shutdown(ctx, a[0] == "force")
	case wire.ProtoInitVol:
		return "", c.InitVol(ctx, a[0], a[1])
	case wire.ProtoClearVol:
		return "", c.ClearVol(ctx, a[0])
	case wire.ProtoResetVol:
		if a[1] != "" {
			return "", c.ResetVolTo(ctx, a[0], gidOf(a[1]))
		}
		return "", c.ResetVol(ctx, a[0])
	case wire.ProtoStart:
		return "", c.Start(ctx, a[0], Role(a[1]))
	case wire.ProtoStop:
		return "", c.Stop(ctx, a[0], StopMode(a[1]))
	case wire.ProtoKick:
		return "", c.Kick(ctx, a[0], a[1])
	case wire.ProtoFullBkp:
		n, _ := strconv.ParseInt(a[1], 10, 64)
		return "", c.FullBackup(ctx, a[0], n)
	case wire.ProtoHashBkp:
		n, _ := strconv.ParseInt(a[1], 10, 64)
		return "", c.HashBackup(ctx, a[0], n)
	case wire.ProtoSetFullScan:
		n, _ := block.ParseSize(a[0])
		return "", c.SetFullScanBps(ctx, n)
	case wire.ProtoSnapshot:
		gid, err := c.Snapshot(ctx, a[0])
		return gid.String() + "\n", err
	case wire.ProtoRestore:
		return "", c.Restore(ctx, a[0], gidOf(a[1]))
	case wire.ProtoDelRestored:
		return "", c.DelRestored(ctx, a[0], gidOf(a[1]))
	case wire.ProtoReplicate:
		p, err := replicationOf(argv[2:])
		if err != nil {
			return "", err
		}
		return "", c.Replicate(ctx, a[0], p)
	case wire.ProtoArchiveInfo:
		return callArchiveInfo(ctx, c, a)
	}
	return "", errInexpressible
}

func callArchiveInfo(ctx context.Context, c *Client, a []string) (string, error) {
	switch a[0] {
	case wire.InfoList:
		names, err := c.ArchiveInfoList(ctx, a[1])
		return strings.Join(append(names, ""), "\n"), err
	case wire.InfoGet:
		info, err := c.ArchiveInfoGet(ctx, a[1], a[2])
		return info.String() + "\n", err
	case wire.InfoDelete:
		return "", c.ArchiveInfoDelete(ctx, a[1], a[2])
	}
	info := wire.ArchiveInfo{Compress: compress.Opt{Type: compress.Snappy, CPUs: 1}}
	info.Addr, _ = wire.ParseAddr(a[3])
	if a[4] != "" {
		info.Compress, _ = compress.ParseOpt(a[4])
	}
	delay, _ := strconv.ParseUint(a[5], 10, 32)
	info.SendDelay = uint32(delay)
	switch a[0] {
	case wire.InfoAdd:
		return "", c.ArchiveInfoAdd(ctx, a[1], a[2], info)
	case wire.InfoUpdate:
		return "", c.ArchiveInfoUpdate(ctx, a[1], a[2], info)
	}
	return "", errInexpressible
}

// replicationOf reads the words behind the volume. A tail of "0 0" says what
// is meant without it, and our method leaves it out.
func replicationOf(w []string) (p Replication, err error) {
	p.ByGid = w[0] == "gid"
	p.Value, _ = strconv.ParseUint(w[1], 10, 64)
	p.Dest, err = wire.ParseAddr(w[2])
	if err != nil || len(w) == 3 {
		return p, err
	}
	p.Resync, p.DontMerge = w[3] == "1", w[4] == "1"
	if len(w) == 5 && !p.DontMerge {
		return p, errInexpressible
	}
	if len(w) > 5 {
		p.Compress, _ = compress.ParseOpt(w[5])
		p.MaxMergeSize, _ = block.ParseSize(w[6])
		p.Bulk, _ = block.ParseSize(w[7])
	}
	return p, nil
}

func gidOf(s string) meta.Gid {
	g, _ := meta.ParseGid(s)
	return g
}

func printed[T any](v []T, err error) (string, error) {
	var b strings.Builder
	for _, x := range v {
		fmt.Fprintln(&b, x)
	}
	return b.String(), err
}

func number[T bool | uint64 | block.LB](v T, err error) (string, error) {
	if b, ok := any(v).(bool); ok {
		return flag(b) + "\n", err
	}
	return fmt.Sprintln(v), err
}

func diffLines(v []meta.Diff, err error) (string, error) {
	var b strings.Builder
	for _, d := range v {
		fmt.Fprintln(&b, d.Line())
	}
	return b.String(), err
}

func each[T any](line func(T) string) func(v []T, err error) (string, error) {
	return func(v []T, err error) (string, error) {
		var b strings.Builder
		for _, x := range v {
			fmt.Fprintln(&b, line(x))
		}
		return b.String(), err
	}
}

// callGet asks for a[0] by its method. All methods are here.
func callGet(ctx context.Context, c *Client, a []string) (string, error) {
	target, vol := a[0], a[1]
	text := func(s fmt.Stringer, err error) (string, error) { return s.String() + "\n", err }
	last := meta.MaxGid
	if a[2] != "" && target != wire.TargetMetaState {
		last = gidOf(a[2])
	}
	var in GidRange
	if a[2] != "" {
		in.From = gidOf(a[2])
	}
	if a[3] != "" {
		in.To = gidOf(a[3])
	}
	switch target {
	case wire.TargetHostType:
		s, err := c.HostType(ctx)
		return s + "\n", err
	case wire.TargetPid:
		return number(c.Pid(ctx))
	case wire.TargetVol:
		return printed(c.Volumes(ctx))
	case wire.TargetState:
		if vol == "" {
			return "", errInexpressible
		}
		s, err := c.State(ctx, vol)
		return s + "\n", err
	case wire.TargetHandlerStat:
		return each(printHandlerStat)(c.HandlerStats(ctx))
	case wire.TargetLatestSnap:
		return each(printLatestSnap)(c.LatestSnaps(ctx, vol))
	case wire.TargetUUID:
		return text(c.UUID(ctx, vol))
	case wire.TargetTsDelta:
		return each(printTsDelta)(c.TsDeltas(ctx))
	case wire.TargetIsOverflow:
		return number(c.IsOverflow(ctx, vol))
	case wire.TargetLogUsage:
		return each(printLogUsage)(c.LogUsages(ctx, vol))
	case wire.TargetIsWdiffSendError:
		return number(c.IsWdiffSendError(ctx, vol, a[2]))
	case wire.TargetProxyDiff:
		return diffLines(c.ProxyDiffs(ctx, vol, a[2]))
	case wire.TargetDiff:
		return diffLines(c.Diffs(ctx, vol, in))
	case wire.TargetTotalDiffSize:
		return number(c.TotalDiffSize(ctx, vol, in))
	case wire.TargetNumDiff:
		return number(c.NumDiff(ctx, vol, in))
	case wire.TargetApplicableDiff:
		return diffLines(c.ApplicableDiffs(ctx, vol, last))
	case wire.TargetExistsDiff:
		d := meta.Diff{B: meta.Snap{B: gidOf(a[2]), E: gidOf(a[3])}, E: meta.Snap{B: gidOf(a[4]), E: gidOf(a[5])}}
		return number(c.ExistsDiff(ctx, vol, d))
	case wire.TargetExistsBaseImage:
		return number(c.ExistsBaseImage(ctx, vol))
	case wire.TargetNumAction:
		return number(c.NumAction(ctx, vol, a[2]))
	case wire.TargetAllActions:
		return each(printVolumeActions)(c.AllActions(ctx))
	case wire.TargetRestored:
		return printed(c.Restored(ctx, vol))
	case wire.TargetRestorable:
		if a[2] != "" && a[2] != "all" {
			return "", errInexpressible
		}
		return printed(c.Restorable(ctx, vol, a[2] == "all"))
	case wire.TargetArchiveUUID:
		return text(c.ArchiveUUID(ctx, vol))
	case wire.TargetBase:
		s, err := c.Base(ctx, vol)
		return s.Text() + "\n", err
	case wire.TargetBaseAll:
		return each(func(v VolumeBase) string { return "name:" + v.Volume + "\tmetastate:" + v.State.Text() })(c.BaseAll(ctx))
	case wire.TargetVolSize:
		return number(c.VolSize(ctx, vol))
	case wire.TargetProgress:
		return number(c.Progress(ctx, vol))
	case wire.TargetVolumeGroup:
		s, err := c.VolumeGroup(ctx)
		return s + "\n", err
	case wire.TargetMetaSnap:
		return text(c.MetaSnap(ctx, vol, last))
	case wire.TargetMetaState:
		if a[2] != "0" && a[2] != "1" {
			return "", errInexpressible
		}
		if a[3] != "" {
			last = gidOf(a[3])
		}
		s, err := c.MetaState(ctx, vol, a[2] == "1", last)
		return s.Text() + "\n", err
	case "cold": // no method of its own
		return printed(c.GetStrings(ctx, target, vol))
	case "thinpool":
		s, err := c.GetString(ctx, target)
		return s + "\n", err
	}
	return "", errInexpressible
}

func printHandlerStat(v HandlerStat) string {
	if v.Kind == ProtocolLatency {
		return fmt.Sprintf("%s\t%s\t%.6f", v.Kind, v.Name, v.Latency.Seconds())
	}
	return fmt.Sprintf("%s\t%s\t%s\t%d", v.Kind, v.Name, v.Client, v.Count)
}

func printLatestSnap(v LatestSnap) string {
	f := []string{"name:" + v.Volume, "kind:" + v.Kind}
	if v.Kind == wire.HostProxy {
		f = append(f, "archive:"+v.Archive)
	}
	if v.Gid == meta.MaxGid && v.Kind == wire.HostProxy {
		return strings.Join(append(f, "gid:", "timestamp:"), "\t")
	}
	f = append(f, "gid:"+v.Gid.String())
	if v.Kind == wire.HostStorage {
		f = append(f, "lsid:"+v.Lsid.String())
	}
	return strings.Join(append(f, "timestamp:"+meta.FormatTime(v.Timestamp)), "\t")
}

func printTsDelta(v TsDelta) string {
	s := fmt.Sprintf("name:%s\tdest:%s\tkind:%s\tdest_kind:%s\tgid:%d\tts:%s", v.Volume, v.Dest, v.Kind, v.DestKind, v.Gid, meta.FormatTime(v.Timestamp))
	if v.DestGid == meta.MaxGid {
		return s + "\tdest_ts:\tdest_gid:\tts_delta:"
	}
	return s + fmt.Sprintf("\tdest_gid:%d\tdest_ts:%s\tts_delta:%d", v.DestGid, meta.FormatTime(v.DestTimestamp), v.Delta)
}

func printLogUsage(v LogUsage) string {
	return fmt.Sprintf("name:%s\tusage_pb:%d\tcapacity_pb:%d\tpbs:%d", v.Volume, v.UsagePB, v.CapacityPB, v.PBS)
}

func printVolumeActions(v VolumeActions) string {
	s := v.Volume
	for _, a := range v.Actions {
		s += fmt.Sprintf(" %s %d %s", a.Name, a.Running, meta.PrettyTime(a.Started))
	}
	return s
}

// TestRecordedCommands plays every recorded command of the original's
// controller: our bytes must be its bytes, our values those it printed, and
// our failure the server's words.
func TestRecordedCommands(t *testing.T) {
	methods, skipped := make(map[string]int), make(map[string]int)
	for _, rec := range recordings(t) {
		if len(rec.Argv) == 0 || rec.Exit == nil || rec.Protocol != rec.Argv[0] {
			continue
		}
		key := rec.Protocol
		if key == wire.ProtoGet || key == wire.ProtoArchiveInfo {
			key += " " + strings.Join(rec.Argv[1:min(2, len(rec.Argv))], "")
		}
		// is there a method for these words? a closed port says so without bytes
		if _, err := call(t.Context(), New("127.0.0.1:0", Options{}), rec.Argv); errors.Is(err, errInexpressible) {
			skipped[strings.Join(rec.Argv, " ")]++
			continue
		}
		t.Run(rec.Name, func(t *testing.T) {
			s := scriptOf(t, rec)
			if len(s.body) == 0 && rec.Protocol == wire.ProtoGet && bytes.HasSuffix(s.opening, []byte(wire.OK)) {
				t.Skip("the controller left before it asked")
			}
			hello := wire.Hello{}
			require.NoError(t, wire.Unmarshal(s.hello, hello.Decode))
			c := New(serve(t, s), Options{ID: hello.ClientID, Timeout: wire.DefaultTimeout})
			out, err := call(t.Context(), c, rec.Argv)
			methods[key]++
			if *rec.Exit == 0 {
				require.NoError(t, err)
				assert.Equal(t, rec.Stdout, out)
				return
			}
			var e *walberr.Error
			require.ErrorAs(t, err, &e)
			if len(s.answer) == 0 && bytes.HasSuffix(s.opening, []byte(wire.OK)) { // closed without a word, or too late
				assert.Equal(t, walberr.Unreachable, e.Code)
				assert.ErrorIs(t, err, io.EOF)
				return
			}
			words := lastString(t, s)
			assert.Equal(t, words, e.Found)
			if e.Code == walberr.Unavailable {
				assert.Regexp(t, "exceeds max foreground tasks|ioctl error", words)
			}
			assert.NotContains(t, err.Error(), "\n")
			assert.Contains(t, err.Error(), words)
			assert.True(t, strings.HasPrefix(e.Op, rec.Protocol), e.Op)
		})
	}
	t.Log(len(methods), "kinds of command:", methods)
	t.Log("not expressible:", skipped)
	assert.LessOrEqual(t, len(skipped), 7)
}

// lastString is the first line of the refusal in a script.
func lastString(t *testing.T, s script) string {
	t.Helper()
	r := wire.NewReader(bytes.NewReader(s.answer))
	if len(s.answer) == 0 {
		r = wire.NewReader(bytes.NewReader(s.opening))
		r.Str()
	}
	words, _, _ := strings.Cut(r.Str(), "\n")
	require.NoError(t, r.Err())
	return words
}
