// Package group holds the operations that operators know: replicate_once,
// synchronize, full_backup and the others, over a [Layout] of servers. Each
// operation that changes something is a plan (package plan) over the typed
// commands of package client: it looks at the facts first, refuses before it
// has touched anything, undoes what it did when it fails, and judges success by
// facts, never by the end of a counter.
//
// # Words
//
// An archive is *synchronizing* a volume when every proxy of the layout has
// it in the volume's list of archives. A proxy is *running* for a volume in the
// states Started and WlogRecv.
//
// # Rules
//
//   - No operation, however it ended, leaves a proxy or a storage stopped that
//     was running before, unless stopping was its purpose. Registrations return
//     to what they were, too. What cannot be brought back now (a server is down)
//     is named in the error, with the command that does it later.
//   - An operation has one deadline, which covers everything up to its success.
//     Bringing things back has a bound of its own.
//   - Waiting is done in one place, with a backoff from a few milliseconds.
//     A server that cannot be reached for a moment does not end a wait.
//   - A copy that still runs at the archives from an earlier call is joined.
//   - Failing to kick a server is a warning.
//
// What may come in: client, meta, wire, compress, plan and what lies below
// them. No server package, no Lua. All methods of [Group] are safe for
// concurrent use and honour their context.
package group
