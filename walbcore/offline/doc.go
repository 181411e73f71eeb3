// Package offline works on WalB's files where no server does: it lists, checks
// and counts diffs and logs, merges diffs, writes diffs or logs into an image,
// turns logs into a diff, generates files for tests, and reads, hashes and
// copies images with diffs laid over them. It is for the operator who has a
// file and a question; the formats themselves are those of packages wdiff and
// wlog.
//
// # Good and bad files
//
// What is listed, merged or written into an image is read as servers read it.
// The checks are stricter: they refuse whatever a writer would not have left,
// and read and expand all data.
//
// A log has to end with its end block. Readers of a log take whatever is not
// the next pack for its end, which is right for the ring of a log device and
// hides damage in a file; so here an end of another kind is an error, unless
// the caller says that the log is to be salvaged up to there.
//
// Before anything is written into an image all inputs are read and verified,
// so a bad one changes nothing.
//
// # What may come in
//
// Files of any content. Memory does not grow with the size of a file but with
// the number of records of a log that becomes a diff: about 100 bytes for each.
// Outputs are written under a temporary name and appear when they are complete
// and durable. All functions honour their context.
package offline
