package wire

import (
	"fmt"
	"strconv"

	"walbsh/walbcore/block"
	"walbsh/walbcore/meta"
	"walbsh/walbcore/walberr"
)

// The extension by which an archive of ours exports snapshots as block devices,
// without copying them.
const (
	// FeatureExport is its name in the answer of [ProtoFeatures].
	FeatureExport = "export"

	// ProtoExport exports a snapshot. Body: strvec [volume, gid, mode]; answer:
	// "ok", then str, an [Export] line. A snapshot that is exported in that
	// mode already stays so.
	ProtoExport = "walbsh-export"

	// ProtoUnexport ends an export. Body: strvec [volume, gid], and "force" to
	// disconnect clients that use it; answer: "ok".
	ProtoUnexport = "walbsh-unexport"

	// TargetExports is a target of get: optionally a volume, answer V, one
	// [Export] line each, by volume and gid.
	TargetExports = "walbsh-exports"

	// ExportForce is the word by which clients are disconnected.
	ExportForce = "force"
)

// ExportMode says what clients may do with an exported snapshot.
type ExportMode string

// The modes.
const (
	ExportReadOnly ExportMode = "ro"
	ExportOverlay  ExportMode = "overlay" // writes are taken, and thrown away at the end of the export
)

// ParseExportMode reads a mode. The error has the code Usage.
func ParseExportMode(word string) (ExportMode, error) {
	switch m := ExportMode(word); m {
	case ExportReadOnly, ExportOverlay:
		return m, nil
	}
	return "", &walberr.Error{Op: "parse export mode", Code: walberr.Usage, Found: fmt.Sprintf("%.16q", word), Expected: "ro or overlay"}
}

// Export is a snapshot that an archive exports. One line:
//
//	volume:vol<TAB>gid:8<TAB>mode:ro<TAB>blocks:2048<TAB>clients:1<TAB>uri:nbd://localhost:10809/vol@8
//
// Fields come in any order; unknown ones are ignored, missing ones are empty
// or 0.
type Export struct {
	Volume  string
	Gid     meta.Gid
	Mode    ExportMode
	Blocks  block.LB // size
	Clients int      // connections that use it
	URI     string   // where NBD clients find it, as seen from the archive's host
}

// String is the line.
func (e Export) String() string {
	return fmt.Sprintf("volume:%s\tgid:%d\tmode:%s\tblocks:%d\tclients:%d\turi:%s",
		e.Volume, e.Gid, e.Mode, e.Blocks, e.Clients, oneLine.Replace(e.URI))
}

// ParseExport reads a line. The error has the code Checksum.
func ParseExport(line string) (Export, error) {
	var e Export
	err := eachField("export", line, func(name, value string) (err error) {
		switch name {
		case "volume":
			e.Volume = value
		case "gid":
			e.Gid, err = meta.ParseGid(value)
		case "mode":
			e.Mode, err = ParseExportMode(value)
		case "blocks":
			var n uint64
			n, err = strconv.ParseUint(value, 10, 64)
			e.Blocks = block.LB(n)
		case "clients":
			e.Clients, err = strconv.Atoi(value)
		case "uri":
			e.URI = value
		}
		return err
	})
	if err != nil {
		return Export{}, err
	}
	return e, nil
}
