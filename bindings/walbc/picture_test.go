package walbc

import (
	"errors"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"

	"walbsh/walbcore/group"
)

const alone = `
   +----+
+--| s0 |
|  +----+
|    |
|    v
|  +----+
|  | p0 |
|  +----+
|    |
|    v
|  +----+    +----+
+->| a0 |    | a1 |
   +----+    +----+`

const following = `
   +----+
+--| s0 |
|  +----+
|    |
|    v
|  +----+
|  | p0 |------+
|  +----+      |
|    |         |
|    v         v
|  +----+    +----+
+->| a0 |    | a1 |
   +----+    +----+`

func manual(registered ...string) group.VolumeStatus {
	server := func(name string, kind group.Kind) group.Server {
		return group.Server{Name: name, Host: "h", Port: 1, Kind: kind}
	}
	st := group.VolumeStatus{
		Storages: []group.StorageStatus{{Server: server("s0", group.Storage)}},
		Proxies:  []group.ProxyStatus{{Server: server("p0", group.Proxy)}},
		Archives: []group.ArchiveStatus{{Server: server("a0", group.Archive)}, {Server: server("a1", group.Archive)}},
	}
	for _, name := range registered {
		st.Proxies[0].Archives = append(st.Proxies[0].Archives, group.Registration{Name: name})
	}
	return st
}

// TestPicturesOfTheManual: the operators' manual draws the group before and
// after synchronize.
func TestPicturesOfTheManual(t *testing.T) {
	assert.Equal(t, strings.TrimPrefix(alone, "\n"), draw(manual("a0")))
	assert.Equal(t, strings.TrimPrefix(following, "\n"), draw(manual("a0", "a1")))
}

func TestSilentServersAreNamedBelowThePicture(t *testing.T) {
	st := manual("a0", "a1")
	st.Archives[1].Err = errors.New("connection refused")
	st.Storages[0].Err = errors.New("connection refused")
	assert.Equal(t, strings.TrimPrefix(following, "\n")+"\ns0 does not answer\na1 does not answer", draw(st))
}

func TestOtherLayoutsAreListed(t *testing.T) {
	st := manual("a0", "a1")
	st.Proxies = append(st.Proxies, group.ProxyStatus{Server: group.Server{Name: "p1"}, State: "Clear"})
	st.Storages[0].State = "Target"
	st.Proxies[0].State = "Started"
	st.Archives[0].State, st.Archives[1].State = "Archived", "Archived"
	assert.Equal(t, "storage s0 (Target)\nproxy   p0 (Started) -> a0 a1\nproxy   p1 (Clear)\narchive a0 (Archived)\narchive a1 (Archived)", draw(st))
}
