package kit

import (
	"errors"
	"math"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	lua "github.com/yuin/gopher-lua"

	"walbsh/runtime/vm"
	"walbsh/walbcore/walberr"
)

type bigID uint64

func (bigID) String() string { return "not this" }

type state int

func (state) String() string { return "Archived" }

type uuid [4]byte

type nested struct {
	GidB  bigID
	State state
	UUID  uuid
	skip  int
	Skip  int    `lua:"-"`
	Other string `lua:"renamed"`
}

type embedding struct {
	nested
	Exported
	Next *embedding
}

// Exported is embedded above.
type Exported struct{ BytesSent, LBDone int64 }

type converts struct{}

func (converts) LuaValue(*lua.LState) (lua.LValue, error) { return lua.LString("converted"), nil }

type cyclic struct{ Self *cyclic }

// luaText gives the value of a Go value after an expression over x was
// evaluated on it.
func luaText(t *testing.T, v *vm.VM, x any, expr string) string {
	t.Helper()
	value, err := ToLua(v.State(), x)
	require.NoError(t, err)
	v.SetGlobal("x", value)
	return eval(t, v, expr)
}

func TestToLua(t *testing.T) {
	v, _ := newVM(t)
	var nilPointer *nested
	when := time.Date(2024, 5, 6, 7, 8, 9, 0, time.FixedZone("", 3600))
	for _, c := range []struct {
		x          any
		expr, want string
	}{
		{nil, "x", "nil"},
		{nilPointer, "x", "nil"},
		{true, "x", "true"},
		{"s", "x", "s"},
		{1.5, "x", "1.5"},
		{-3, "x", "-3"},
		{uint8(3), "x", "3"},
		{uint64(math.MaxUint64), "x", "18446744073709551615"},
		{bigID(math.MaxUint64), "x == u64.MAX", "true"},
		{int64(math.MaxInt64), "x", "9223372036854775807"},
		{state(3), "x", "Archived"},
		{90 * time.Second, "x", "90"},
		{when, "x", "2024-05-06T06:08:09"},
		{time.Time{}, "x", "nil"},
		{[]byte("raw"), "x", "raw"},
		{uuid{1, 2, 3, 255}, "x", "010203ff"},
		{[]string{"a", "b"}, "table.concat(x, ',') .. #x", "a,b2"},
		{[]any{1, "x", nil}, "#x", "2"},
		{[2]int{4, 5}, "x[2]", "5"},
		{map[string]int{"b": 1, "a": 2}, "(function() local s = '' for k, n in pairs(x) do s = s .. k .. n end return s end)()", "a2b1"},
		{map[uint64]string{9: "n", 1: "o"}, "(function() local s = '' for k, n in pairs(x) do s = s .. k .. n end return s end)()", "1o9n"},
		{map[int]bool{-1: true}, "x[-1]", "true"},
		{nested{GidB: math.MaxUint64, UUID: uuid{1}, Other: "o", skip: 1}, "x.gid_b .. x.state .. x.uuid .. x.renamed .. tostring(x.skip)", "18446744073709551615Archived01000000onil"},
		{embedding{Exported: Exported{BytesSent: 5, LBDone: 6}}, "x.bytes_sent + x.lb_done", "11"},
		{&embedding{Next: &embedding{}}, "x.next.bytes_sent", "0"},
		{errors.New("an error"), "x.message", "an error"},
		{&walberr.Error{Op: "restore", Code: walberr.NotFound}, "x.code", "not_found"},
		{converts{}, "x", "converted"},
		{[]any{converts{}}, "x[1]", "converted"},
		{lua.LTrue, "x", "true"},
	} {
		assert.Equal(t, c.want, luaText(t, v, c.x, c.expr), "%#v", c.x)
	}
	cycle := &cyclic{}
	cycle.Self = cycle
	for want, x := range map[string]any{
		"nests more than 32 deep": cycle,
		"has no Lua form":         make(chan int),
		"below -(2^53-1)":         int64(math.MinInt64),
		"bad: a func() has no":    struct{ Bad func() }{},
	} {
		_, err := ToLua(v.State(), x)
		require.ErrorContains(t, err, want)
	}
}

func TestPush(t *testing.T) {
	v, _ := newVM(t)
	L := v.State()
	for _, c := range []struct {
		x    any
		want int
	}{{nil, 0}, {1, 1}, {Values{}, 0}, {Values{1, nil, "x"}, 3}, {[]int{1, 2}, 1}} {
		n, err := Push(L, c.x)
		require.NoError(t, err)
		assert.Equal(t, c.want, n)
		assert.Equal(t, c.want, L.GetTop())
		L.SetTop(0)
	}
	_, err := Push(L, Values{make(chan int)})
	require.Error(t, err)
}

func TestSnakeCase(t *testing.T) {
	for name, want := range map[string]string{
		"GidE": "gid_e", "BytesSent": "bytes_sent", "UUID": "uuid", "LBDone": "lb_done", "ID": "id",
		"HTTPServerURL": "http_server_url", "X": "x", "IsSynchronizing": "is_synchronizing", "A0": "a0",
	} {
		assert.Equal(t, want, snakeCase(name))
	}
}

// snap is a record as bindings make them.
type snap struct {
	B, E   lua.LValue
	Size   int64
	Hidden string `lua:"-"`
}

func (s snap) String() string        { return "|" + NumberText(s.B) + "," + NumberText(s.E) + "|" }
func (s snap) IsDirty() bool         { return s.B != s.E }
func (s snap) Write(int) error       { panic("not for scripts") }
func (s snap) Pair() (int, int)      { panic("not for scripts") }
func (s snap) Inner() *walberr.Error { panic("not for scripts") }

type badRecord struct{ V any }

func (badRecord) String() string { return "" }

func TestRecord(t *testing.T) {
	v, _ := newVM(t)
	L := v.State()
	value, err := Record(L, snap{B: lua.LNumber(5), E: U64(L, math.MaxUint64), Size: 7, Hidden: "h"})
	require.NoError(t, err)
	v.SetGlobal("r", value)
	again, err := Record(L, snap{B: lua.LNumber(5), E: U64(L, math.MaxUint64), Size: 7, Hidden: "h"})
	require.NoError(t, err)
	v.SetGlobal("same", again)
	for expr, want := range map[string]string{
		`r`:                                "|5,18446744073709551615|",
		`r.b`:                              "5",
		`r.e == u64.MAX`:                   "true",
		`r.size + 1`:                       "8",
		`r:is_dirty()`:                     "true",
		`r.hidden`:                         "nil",
		`r.write`:                          "nil",
		`r.pair`:                           "nil",
		`r.inner`:                          "nil",
		`r == same`:                        "true",
		`getmetatable(r)`:                  "gopher-luar",
		`pcall(function() r.size = 9 end)`: "false",
		`pcall(setmetatable, r, {})`:       "false",
		`pcall(r.is_dirty)`:                "false",
		`pcall(r.is_dirty, 5)`:             "false",
		`r.size`:                           "7",
	} {
		assert.Equal(t, want, eval(t, v, expr), expr)
	}
	for want, x := range map[string]interface{ String() string }{
		"badRecord.V: a record has no place for a interface {}": badRecord{},
		"snap.B: is nil": snap{E: lua.LNil},
		"snap.Size: 9223372036854775807 is beyond 2^53-1": snap{B: lua.LNil, E: lua.LNil, Size: math.MaxInt64},
		"a record must be a struct, not a *kit.snap":      &snap{},
	} {
		_, err := Record(L, x)
		require.ErrorContains(t, err, want)
	}
}
