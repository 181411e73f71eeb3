package kit

import (
	"bytes"
	"context"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	"walbsh/runtime/vm"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// newVM gives a state with u64 and what it prints.
func newVM(t *testing.T) (*vm.VM, *bytes.Buffer) {
	t.Helper()
	var out bytes.Buffer
	v := vm.New(t.Context(), vm.Options{Stdout: &out, Hint: Hint})
	t.Cleanup(v.Close)
	OpenU64(v.State())
	return v, &out
}

// eval runs an expression and gives its first value as tostring prints it.
func eval(t *testing.T, v *vm.VM, expr string) string {
	t.Helper()
	fn, err := v.Load("test", "return "+expr)
	require.NoError(t, err, expr)
	vals, err := v.Call(fn)
	require.NoError(t, err, expr)
	require.NotEmpty(t, vals, expr)
	return v.Text(vals[0])
}

// fails runs a statement that must fail and gives the error.
func fails(t *testing.T, v *vm.VM, source string) error {
	t.Helper()
	err := v.Run("test", source)
	require.Error(t, err, source)
	return err
}

func nothing(context.Context, Args) (any, error) { return nil, nil }

// sampleVerb has the parameters of replicate_once, as far as they are simple.
func sampleVerb() Verb {
	return Verb{
		Name: "replicate_once", Summary: "replicate a volume once", Doc: "It replicates.", Tier: Safe, Result: "the gid", Run: nothing,
		Params: []Param{
			{Name: "a_src", PyName: "aSrc", Type: String, Required: true, Doc: "source"},
			{Name: "vol", PyName: "vol", Type: String, Required: true, Doc: "volume"},
			{Name: "a_dst", PyName: "aDst", Type: String, Required: true, Doc: "destination"},
			{Name: "timeout_s", PyName: "timeoutS", Type: Seconds, Default: maxSeconds, Doc: "limit"},
			{Name: "gid", PyName: "gid", Type: Uint64, Doc: "up to which gid"},
			{Name: "names", PyName: "names", Type: List(String), Doc: "some names"},
		},
	}
}

func TestValidate(t *testing.T) {
	good := sampleVerb()
	good.Params[3].Default = nil
	require.NoError(t, good.Validate())
	for want, spoil := range map[string]func(v *Verb){
		"name is not an identifier":     func(v *Verb) { v.Name = "a-b" },
		"no summary":                    func(v *Verb) { v.Summary = " " },
		"no doc":                        func(v *Verb) { v.Doc = "" },
		"no result":                     func(v *Verb) { v.Result = "" },
		"without a full stop":           func(v *Verb) { v.Summary = "It does." },
		"no tier":                       func(v *Verb) { v.Tier = 0 },
		"no Run":                        func(v *Verb) { v.Run = nil },
		"wants Name, PyName":            func(v *Verb) { v.Params[1].Doc = "" },
		"parameter vol is there twice":  func(v *Verb) { v.Params[2].Name = "vol" },
		"is required and has a default": func(v *Verb) { v.Params[0].Default = "a0" },
		"comes behind an optional one":  func(v *Verb) { v.Params[0].Required = false },
		"needs the parameter vol":       func(v *Verb) { v.Tier = Destructive; v.Params = nil },
	} {
		v := sampleVerb()
		v.Params[3].Default = nil
		spoil(&v)
		require.ErrorContains(t, v.Validate(), want)
	}
	m := Module{Name: "walbc", Summary: "operate", Verbs: []Verb{good}, Constants: []Constant{{Name: "GID_MAX", Doc: "the all-ones gid", Value: uint64(5)}}}
	require.NoError(t, m.Validate())
	m.Verbs = append(m.Verbs, good)
	require.ErrorContains(t, m.Validate(), "walbc.replicate_once is there twice")
	require.ErrorContains(t, (&Module{}).Validate(), "is not an identifier")
	require.ErrorContains(t, (&Module{Name: "m", Summary: "s", Constants: []Constant{{Name: "try", Doc: "d"}}}).Validate(), "m.try is there twice")
	require.ErrorContains(t, (&Module{Name: "m", Summary: "s", Constants: []Constant{{Name: "X"}}}).Validate(), "wants a name and a doc")
}

func TestTierNames(t *testing.T) {
	assert.Equal(t, "query safe disruptive destructive tier 9",
		Query.String()+" "+Safe.String()+" "+Disruptive.String()+" "+Destructive.String()+" "+Tier(9).String())
}

func TestHint(t *testing.T) {
	v, _ := newVM(t)
	require.ErrorContains(t, fails(t, v, "return u64.MAX < 5"), "order 64-bit numbers with u64.lt(a, b)")
	require.ErrorContains(t, fails(t, v, "for _ in pairs(u64.MAX) do end"), "only tables can be walked")
	assert.Empty(t, Hint("attempt to compare number with nil"))
}

func TestNearest(t *testing.T) {
	names := []string{"replicate", "replicate_once", "synchronize", "stop_synchronizing"}
	for word, want := range map[string]string{
		"replicat":           "replicate",
		"replicateOnce":      "replicate_once",
		"replicte_once":      "replicate_once",
		"replciate":          "replicate",
		"synchronise":        "synchronize",
		"zzz":                "",
		"":                   "",
		"restore_everything": "",
	} {
		assert.Equal(t, want, Nearest(word, names), word)
	}
}

func TestArgsFromGo(t *testing.T) {
	v := sampleVerb()
	a := NewArgs(v.Params, map[string]any{"vol": "v1"})
	assert.Equal(t, "v1", Get[string](a, "vol"))
	assert.True(t, a.Given("vol"))
	assert.False(t, a.Given("a_src"))
	assert.Empty(t, Get[string](a, "a_src"))
	assert.PanicsWithValue(t, `the verb has no parameter "nosuch"`, func() { Get[string](a, "nosuch") })
	assert.PanicsWithValue(t, `parameter "vol" is a string, not a int`, func() { Get[int](a, "vol") })
}
