package storage

import (
	"encoding/binary"
	"fmt"

	"walbsh/walbcore/checksum"
	"walbsh/walbcore/meta"
	"walbsh/walbcore/vfs"
	"walbsh/walbcore/walberr"
	"walbsh/walbcore/wire"
)

// The queue file holds the snapshots that were taken and are not wholly
// shipped, newest first.
//
//	byte  size
//	0     28    header copy 0
//	28    28    header copy 1, the same
//	56    ...   records, and behind the last one a stub; the rest of the
//	            last 4096 bytes is zero
//
//	header                              record
//	0  4 magic 119d83a7                 0  4 magic 119d83a7
//	4  4 checksum of the 28, salt 0     4  4 checksum of the data, the file's salt
//	8  4 salt                           8  4 size of the data
//	12 8 offset of the newest record    12 4 distance back to the record before,
//	20 8 offset of the stub                  of no meaning in the first one
//	                                    16   an lsid-gid record (package wire)
//
// All little-endian; offsets count from byte 56. The stub is a record header of
// which only the distance is meaningful.
//
// The original changes the file in place. Here every change writes a new file
// and renames it over the old one: the queue is short, and so no power cut can
// leave half of a change.
const (
	queueMagic      = 0x119d83a7
	queueHeaderSize = 28
	queueRecords    = 2 * queueHeaderSize
	queueRecordHead = 16
	queuePage       = 4096
	maxQueueFile    = 64 << 20
	maxQueueRecord  = 64 // an lsid-gid record has at most 30 bytes
)

// encodeQueue gives the content of a queue file. The newest record is first.
func encodeQueue(records []meta.LsidGid, salt uint32) []byte {
	body := make([]byte, 0, 48*(len(records)+1))
	var previous int
	for _, rec := range records {
		data := wire.Marshal(func(w *wire.Writer) { w.LsidGid(rec) })
		body = appendQueueHead(body, checksum.Sum(data, salt), len(data), previous)
		body = append(body, data...)
		previous = queueRecordHead + len(data)
	}
	end := len(body)
	body = appendQueueHead(body, 0, 0, previous)

	header := make([]byte, 0, queueHeaderSize)
	header = binary.LittleEndian.AppendUint32(header, queueMagic)
	header = binary.LittleEndian.AppendUint32(header, 0)
	header = binary.LittleEndian.AppendUint32(header, salt)
	header = binary.LittleEndian.AppendUint64(header, 0)
	header = binary.LittleEndian.AppendUint64(header, uint64(end))
	binary.LittleEndian.PutUint32(header[4:], checksum.Sum(header, 0))

	used := queueRecords + len(body)
	file := make([]byte, (used+queuePage-1)/queuePage*queuePage)
	copy(file, header)
	copy(file[queueHeaderSize:], header)
	copy(file[queueRecords:], body)
	return file
}

func appendQueueHead(p []byte, sum uint32, size, toPrevious int) []byte {
	p = binary.LittleEndian.AppendUint32(p, queueMagic)
	p = binary.LittleEndian.AppendUint32(p, sum)
	p = binary.LittleEndian.AppendUint32(p, uint32(size))
	return binary.LittleEndian.AppendUint32(p, uint32(toPrevious))
}

// decodeQueue reads a queue file, newest record first. Every record is
// verified; name is for the error.
func decodeQueue(name string, file []byte) ([]meta.LsidGid, uint32, error) {
	corrupt := func(offset int, found, expected string) error {
		return walberr.Corrupt("queue file "+name, fmt.Sprintf("at byte %d %s", offset, found), expected)
	}
	var header []byte
	for at := 0; at+queueHeaderSize <= min(len(file), queueRecords) && header == nil; at += queueHeaderSize {
		h := file[at : at+queueHeaderSize]
		if binary.LittleEndian.Uint32(h) == queueMagic && checksum.Sum(h, 0) == 0 {
			header = h
		}
	}
	if header == nil {
		return nil, 0, corrupt(0, "no valid header in either copy", "magic 119d83a7 and a right checksum")
	}
	salt := binary.LittleEndian.Uint32(header[8:])
	begin, end := binary.LittleEndian.Uint64(header[12:]), binary.LittleEndian.Uint64(header[20:])
	body := file[min(queueRecords, len(file)):]
	if begin > end || end > uint64(len(body)) {
		return nil, 0, corrupt(12, fmt.Sprintf("records from %d to %d", begin, end), fmt.Sprintf("an ascending range within %d bytes", len(body)))
	}
	var records []meta.LsidGid
	for at := begin; at < end; {
		where := queueRecords + int(at)
		if end-at < queueRecordHead {
			return nil, 0, corrupt(where, fmt.Sprintf("%d bytes before the end", end-at), "a record header of 16")
		}
		head := body[at : at+queueRecordHead]
		size := uint64(binary.LittleEndian.Uint32(head[8:]))
		if magic := binary.LittleEndian.Uint32(head); magic != queueMagic {
			return nil, 0, corrupt(where, fmt.Sprintf("magic %08x", magic), "119d83a7")
		}
		if size > maxQueueRecord || size > end-at-queueRecordHead {
			return nil, 0, corrupt(where+8, fmt.Sprintf("a record of %d bytes", size), "one that ends before the stub")
		}
		data := body[at+queueRecordHead : at+queueRecordHead+size]
		want := binary.LittleEndian.Uint32(head[4:])
		if got := checksum.Sum(data, salt); got != want {
			return nil, 0, corrupt(where+4, fmt.Sprintf("checksum %08x", want), fmt.Sprintf("%08x as computed", got))
		}
		var rec meta.LsidGid
		if err := wire.Unmarshal(data, func(r *wire.Reader) { rec = r.LsidGid() }); err != nil {
			return nil, 0, corrupt(where+queueRecordHead, err.Error(), "an lsid-gid record")
		}
		records = append(records, rec)
		at += queueRecordHead + size
	}
	return records, salt, nil
}

// queueFile is the queue of one volume in memory and on disk. Its owner's lock
// guards it.
type queueFile struct {
	fsys    vfs.FS
	path    string
	salt    uint32
	records []meta.LsidGid // newest first
}

// createQueue makes an empty queue file, durably.
func createQueue(fsys vfs.FS, path string, salt uint32) (*queueFile, error) {
	q := &queueFile{fsys: fsys, path: path, salt: salt}
	return q, q.replace(nil)
}

// openQueue loads a queue file.
func openQueue(fsys vfs.FS, path string) (*queueFile, error) {
	data, err := vfs.ReadFile(fsys, path, maxQueueFile)
	if err != nil {
		return nil, err
	}
	records, salt, err := decodeQueue(path, data)
	if err != nil {
		return nil, err
	}
	return &queueFile{fsys: fsys, path: path, salt: salt, records: records}, nil
}

// replace makes records the content; durable on return. On an error memory
// stays as it was.
func (q *queueFile) replace(records []meta.LsidGid) error {
	if err := vfs.WriteFile(q.fsys, q.path, encodeQueue(records, q.salt)); err != nil {
		return err
	}
	q.records = records
	return nil
}

// push puts a record in front, as the newest.
func (q *queueFile) push(rec meta.LsidGid) error {
	records := make([]meta.LsidGid, 0, len(q.records)+1)
	return q.replace(append(append(records, rec), q.records...))
}

// dropShipped removes from the old end what done has reached.
func (q *queueFile) dropShipped(done meta.LsidGid) error {
	n := len(q.records)
	for n > 0 {
		old := q.records[n-1]
		if old.Lsid > done.Lsid || (old.Lsid == done.Lsid && old.Gid > done.Gid) {
			break
		}
		n--
	}
	if n == len(q.records) {
		return nil
	}
	return q.replace(q.records[:n:n])
}

// newest is the record pushed last.
func (q *queueFile) newest() (meta.LsidGid, bool) {
	if len(q.records) == 0 {
		return meta.LsidGid{}, false
	}
	return q.records[0], true
}

// oldest is the record to be shipped next.
func (q *queueFile) oldest() (meta.LsidGid, bool) {
	if len(q.records) == 0 {
		return meta.LsidGid{}, false
	}
	return q.records[len(q.records)-1], true
}
