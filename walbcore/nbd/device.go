package nbd

import (
	"context"
	"io"

	"walbsh/walbcore/block"
)

// Device is what can be exported. Methods are called concurrently. Ranges
// that come in lie inside the device, in whole blocks.
type Device interface {
	// ReadAt reads at a byte offset.
	io.ReaderAt
	// Size is the size, which does not change.
	Size() block.LB
	// NextData finds the first range at or behind from that may hold
	// anything but zeros; everything between from and its Addr reads as
	// zeros. At the end the range is empty, with Addr = Size().
	NextData(ctx context.Context, from block.LB) (block.Range, error)
}

// Writable is a device that can be written to. An image.Image is one.
type Writable interface {
	Device
	// WriteAt writes at a byte offset. Who reads afterwards, by whatever
	// connection, gets what was written.
	io.WriterAt
	// Zero makes a range read as zeros.
	Zero(r block.Range) error
	// Sync makes everything written before as durable as the device can.
	Sync() error
}
