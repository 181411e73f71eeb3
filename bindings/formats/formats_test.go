package formats

import (
	"bytes"
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	"walbsh/bindings"
	"walbsh/bindings/kit"
	"walbsh/runtime/repl"
	"walbsh/runtime/vm"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// shell is the module in a Lua state whose current directory is a new one.
type shell struct {
	*bindings.Session
	vm *vm.VM
}

func newShell(t *testing.T) *shell {
	t.Helper()
	t.Chdir(t.TempDir())
	registry, err := bindings.New(Module())
	require.NoError(t, err)
	s := &shell{vm: vm.New(t.Context(), vm.Options{Stdout: &bytes.Buffer{}, Hint: kit.Hint})}
	futures := kit.NewFutures(t.Context(), nil)
	s.Session, err = registry.Install(bindings.Host{VM: s.vm, Futures: futures, Out: &bytes.Buffer{}})
	require.NoError(t, err)
	t.Cleanup(func() {
		futures.Close()
		s.vm.Close()
	})
	return s
}

// eval gives the first value of an expression as the prompt prints it, or the
// error.
func (s *shell) eval(t *testing.T, expr string) string {
	t.Helper()
	fn, err := s.vm.Load("test", "return "+expr)
	require.NoError(t, err, expr)
	vals, err := s.vm.Call(fn)
	switch {
	case err != nil:
		return err.Error()
	case len(vals) == 0:
		return ""
	}
	return repl.Format(s.vm, vals[0], s.Describe)
}

func (s *shell) run(t *testing.T, code string) {
	t.Helper()
	require.NoError(t, s.vm.Run("test", code))
}

func TestAlgebra(t *testing.T) {
	s := newShell(t)
	s.run(t, `
		d01, d15 = formats.diff("|0|-->|1|"), formats.diff("|1|-->|5|", {mergeable = true, timestamp = 1700000000, size = 7})
		named = formats.diff("/var/a0/vol/20231114221320-MC-1-5-6-6.wdiff")
	`)
	for expr, want := range map[string]string{
		`formats.snap("|5|")`:                         "|5|",
		`formats.snap(5)`:                             "|5|",
		`formats.snap("18446744073709551615").b`:      "18446744073709551615",
		`formats.snap("|5,9|").e`:                     "9",
		`formats.snap("|5,9|").clean`:                 "false",
		`formats.snap(5):same(formats.snap(5))`:       "true",
		`formats.snap(0):relation(d01)`:               `"applicable"`,
		`formats.snap(1):relation(d01)`:               `"too-old"`,
		`formats.snap(0):relation(d15)`:               `"too-new"`,
		`formats.snap(0):relation(named)`:             `"not-applicable"`,
		`formats.snap("|0,3|"):apply(d01)`:            "|1,3|",
		`formats.snap(0):apply{d01, d15}`:             "|5|",
		`formats.snap(0):apply({})`:                   "|0|",
		`formats.snap(0):can_apply{d15}`:              "false",
		`d01.b:same(formats.snap(0))`:                 "true",
		`d15`:                                         "|1|-->|5|",
		`d15.line`:                                    `"|1|-->|5| M- 2023-11-14T22:13:20 7"`,
		`d15.file_name`:                               `"20231114221320-M--1-5.wdiff"`,
		`d15.time .. d15.timestamp .. d15.size`:       `"2023-11-14T22:13:2017000000007"`,
		`d01.mergeable`:                               "false",
		`named.comp`:                                  "true",
		`named.clean`:                                 "false",
		`named.e`:                                     "|6|",
		`named.file_name`:                             `"20231114221320-MC-1-5-6-6.wdiff"`,
		`formats.diff(d15.line).size`:                 "7",
		`d01:can_merge(d15)`:                          "true",
		`d15:can_merge(d01)`:                          "false",
		`d01:merge(d15)`:                              "|0|-->|5|",
		`formats.merge{d01, d15}.time`:                `"2023-11-14T22:13:20"`,
		`d01:merge(d15):contains(d15)`:                "true",
		`d01:same(d15)`:                               "false",
		`formats.state("<|5|>-20231114221320")`:       "<|5|>-20231114221320",
		`formats.state("<|5|>").timestamp > 17e8`:     "true",
		`formats.state("<|0|-->|1|>").applying`:       "true",
		`formats.state("<|0|-->|5|>"):can_apply(d01)`: "false",
		`formats.state("<|0|>-20231114221320"):begin_applying{d01, d15}`: "<|0|-->|5|>-20231114221320",
		`formats.state("<|0|>-20200101000000"):apply{d01, d15}`:          "<|5|>-20231114221320",
		`formats.state("<|0|>-20200101000000"):apply({}).time`:           `"2020-01-01T00:00:00"`,

		`formats.snap("|5")`:                             "test:1: formats.snap: parseMetaSnap:bad input string:|5:1",
		`formats.snap("5|")`:                             `test:1: formats.snap: argument 1 (text) wants the text of a snapshot, such as |5| or |5,9|, or a gid, got the string "5|" (hint: usage: snap(text))`,
		`formats.diff("|1|-->|1|")`:                      "test:1: formats.diff: MetaDiff::broken progress constraint for B:|1|:|1|",
		`formats.diff("x.wdiff")`:                        "test:1: formats.diff: parseDiffFileName:too short name:x.wdiff",
		`formats.merge{d15, d01}`:                        "test:1: formats.merge: merge:can not merge:|1|-->|5|:|0|-->|1|",
		`formats.merge({})`:                              "test:1: formats.merge: merge:empty vector.",
		`formats.snap(7):apply(d01)`:                     "test:1: snapshot:apply: apply:can not apply:|7|:|0|-->|1|",
		`formats.snap(7):apply(5)`:                       "test:1: snapshot:apply: argument 1 (diffs) wants a list, got the number 5 (hint: usage: apply(diffs))",
		`d01:merge(5)`:                                   "test:1: diff:merge: argument 1 (diff) wants a diff, got the number 5 (hint: usage: merge(diff))",
		`d01.nosuch`:                                     `test:1: a diff: has no "nosuch"`,
		`select(2, try(formats.merge, {d15, d01})).code`: `"bad_state"`,
	} {
		assert.Equal(t, want, s.eval(t, expr), expr)
	}
}

func TestFiles(t *testing.T) {
	s := newShell(t)
	s.run(t, `
		formats.wdiff_gen("a.wdiff", {size = "1m", records = 30, max_io = "8k"})
		formats.wdiff_gen("b.wdiff", {size = "1m", records = 30, max_io = 8192, seed = 2, indexed = true, compress = "zstd:0:1"})
		made = formats.wlog_gen("a.wlog", {size = "1m", log_size = "128k", max_io = "16k", lsid = 7, uuid = ("0123456789abcdef"):rep(2)})
	`)
	require.NoError(t, os.WriteFile("image1", make([]byte, 1<<20), 0o600))
	for _, name := range []string{"image2", "image3", "image4", "base"} {
		require.NoError(t, os.WriteFile(name, make([]byte, 1<<20), 0o600))
	}
	for expr, want := range map[string]string{
		`formats.wdiff_check("a.wdiff").kind`:                               `"sorted"`,
		`formats.wdiff_check("b.wdiff").kind`:                               `"indexed"`,
		`#formats.wdiff_show("a.wdiff").records`:                            "30",
		`#formats.wdiff_show("a.wdiff", {limit = 10, data = true}).records`: "10",
		`formats.wdiff_show("a.wdiff", {limit = 10}).more`:                  "20",
		`#formats.wdiff_show("a.wdiff").records[1].checksum`:                "8",
		`formats.wdiff_stat("a.wdiff").stats.files`:                         "1",
		`formats.wdiff_stat("a.wdiff").stats.normal + formats.wdiff_stat("a.wdiff").stats.all_zero + formats.wdiff_stat("a.wdiff").stats.discard`: "30",
		`#formats.wdiff_stat("a.wdiff").uuid`: "32",
		`made.begin_lsid`:                     "7",
		`made.uuid`:                           `"0123456789abcdef0123456789abcdef"`,
		`formats.wlog_check("a.wlog")[1].end_lsid == made.end_lsid`:      "true",
		`formats.wlog_show("a.wlog").records[1].lsid`:                    "8",
		`formats.wlog_show("a.wlog", {data = true, limit = 1}).more > 1`: "true",
		`formats.wlog_show("a.wlog").logs[1].ended`:                      "nil",
	} {
		assert.Equal(t, want, s.eval(t, expr), expr)
	}
	s.run(t, `
		local m = formats.wdiff_merge("ab.wdiff", {"a.wdiff", "b.wdiff"}, {max_io = "4k"})
		assert(m.input.files == 2 and m.output.files == 1)
		local r = formats.wdiff_redo("image1", {"a.wdiff", "b.wdiff"}, {discard = "zero"})
		assert(r.input.normal == m.input.normal and r.outside.normal == 0)
		formats.wdiff_redo("image2", "ab.wdiff", {discard = "zero"})
		assert(formats.image_hash("image1").sha256 == formats.image_hash("image2").sha256)
		assert(formats.image_hash("base", {"a.wdiff", "b.wdiff"}).sha256 == formats.image_hash("image2").sha256)
		assert(formats.image_hash("base").bhash == nil)
		assert(#formats.image_hash("base", nil, "64k").bhash == 32)
		assert(formats.image_cat("copy", "base", "ab.wdiff") == 1048576)
		assert(formats.image_hash("copy").sha256 == formats.image_hash("image2").sha256)

		local done = formats.wlog_redo("image3", "a.wlog", {discard = "zero"})
		assert(done.normal_lb > 0 and done.clipped == 0 and #done.logs == 1)
		for i, indexed in ipairs{false, true} do
			local c = formats.wlog_to_wdiff("log.wdiff", "a.wlog", {indexed = indexed, max_io = "32k"})
			assert(c.input.normal > 0 and c.logs[1].packs > 0)
			formats.wdiff_redo("image4", "log.wdiff", {discard = "zero"})
			assert(formats.image_hash("image3").sha256 == formats.image_hash("image4").sha256)
		end
		assert(formats.async.wdiff_check("a.wdiff"):wait().kind == "sorted")
	`)
	dir, err := os.ReadDir(".")
	require.NoError(t, err)
	assert.Len(t, dir, 11, "nothing is left behind")
}

func TestBadFiles(t *testing.T) {
	s := newShell(t)
	s.run(t, `
		formats.wdiff_gen("a.wdiff", {size = "1m", records = 30})
		formats.wlog_gen("a.wlog", {size = "1m", log_size = "64k", max_io = "4k"})
	`)
	for name, size := range map[string]int64{"a.wdiff": 5000, "a.wlog": 20000} {
		p, err := os.ReadFile(name)
		require.NoError(t, err)
		require.NoError(t, os.WriteFile("cut"+filepath.Ext(name), p[:size], 0o600))
	}
	require.NoError(t, os.WriteFile("image", make([]byte, 1<<20), 0o600))
	require.NoError(t, os.WriteFile("odd", make([]byte, 1000), 0o600))
	for expr, want := range map[string]string{
		`formats.wdiff_check("cut.wdiff")`:                      "test:1: read cut.wdiff: ",
		`formats.wdiff_show("cut.wdiff")`:                       "test:1: read cut.wdiff: ",
		`formats.wdiff_stat("cut.wdiff")`:                       "test:1: read cut.wdiff: ",
		`formats.wdiff_merge("out", {"a.wdiff", "cut.wdiff"})`:  "test:1: read cut.wdiff: ",
		`formats.wdiff_redo("image", {"a.wdiff", "cut.wdiff"})`: "test:1: read cut.wdiff: ",
		`formats.image_hash("image", "cut.wdiff")`:              "test:1: read cut.wdiff: ",
		`formats.image_cat("out", "image", "cut.wdiff")`:        "test:1: read cut.wdiff: ",
		`formats.wlog_check("cut.wlog")`:                        "test:1: read cut.wlog: ",
		`formats.wlog_show("cut.wlog")`:                         "test:1: read cut.wlog: ",
		`formats.wlog_redo("image", "cut.wlog")`:                "test:1: read cut.wlog: ",
		`formats.wlog_to_wdiff("out", "cut.wlog")`:              "test:1: read cut.wlog: ",

		`formats.wdiff_check("nosuch")`:                                       "no such file",
		`formats.wdiff_check("/dev/null")`:                                    "/dev/null: not a regular file",
		`formats.wdiff_check(".")`:                                            ": not a regular file",
		`formats.wdiff_redo("/dev/null", "a.wdiff")`:                          "/dev/null: not a regular file",
		`formats.wdiff_redo("odd", "a.wdiff")`:                                "odd has 1000 bytes",
		`formats.image_hash("odd")`:                                           "odd has 1000 bytes",
		`formats.image_hash("/dev/null")`:                                     "/dev/null: not a regular file",
		`formats.image_hash("image", nil, "2g")`:                              "bulks of 4194304 blocks",
		`formats.wdiff_merge("/dev/null", "a.wdiff")`:                         "/dev/null: not a regular file",
		`formats.wdiff_merge("out", "a.wdiff", {max_io = 1000})`:              "wants a multiple of 512 bytes, got 1000",
		`formats.wdiff_merge("out", "a.wdiff", {compress = "x"})`:             "argument 4 (compress) parseCompressOpt:parse error:x",
		`formats.wdiff_merge("out", "a.wdiff", {compress = 5})`:               `wants a compression option such as "snappy:0:2", got the number 5`,
		`formats.wdiff_merge("out", {1})`:                                     "argument 2 (files) element 1: wants a string, got the number 1",
		`formats.wdiff_merge("out", {"a.wdiff", "nosuch"})`:                   "no such file",
		`formats.wdiff_redo("image", "a.wdiff", {discard="no"})`:              `wants one of "ignore", "passdown", "zero"`,
		`formats.wlog_to_wdiff("out", "a.wlog", {indexed=true, max_io="2m"})`: "records of 4096 blocks in an indexed diff",
		`formats.wdiff_gen("out", {uuid = "x"})`:                              "strToBinary:bad size:x:32",
		`formats.wdiff_gen("out", {uuid = 5})`:                                "wants 32 hexadecimal digits, got the number 5",
		`formats.wlog_gen("out", {pbs = 1000})`:                               "physical blocks of 1000 bytes",
		`select(2, try(formats.wdiff_check, "cut.wdiff")).code`:               `"checksum"`,
		`formats.wlog_redo("image", "cut.wlog", {salvage = true})`:            "read cut.wlog: ",
	} {
		assert.Contains(t, s.eval(t, expr), want, expr)
	}
	p, err := os.ReadFile("image")
	require.NoError(t, err)
	assert.Equal(t, make([]byte, 1<<20), p, "nothing was written")
	assert.NoFileExists(t, "out")

	// A log that has lost its end, and only that.
	p, err = os.ReadFile("a.wlog")
	require.NoError(t, err)
	require.NoError(t, os.WriteFile("noend.wlog", p[:len(p)-512], 0o600))
	assert.Contains(t, s.eval(t, `formats.wlog_check("noend.wlog")`), "expected a pack header or the end block")
	assert.Equal(t, `"checksum"`, s.eval(t, `formats.wlog_redo("image", "noend.wlog", {salvage = true}).logs[1].ended.code`))
}
