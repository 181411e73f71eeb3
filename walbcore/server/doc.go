// Package server is what the storage, the proxy and the archive have in
// common: it takes connections and answers them by protocol name, with the
// limits, refusals and closing rules of the protocol, and it ends gracefully.
//
// A server is made in three steps. [New] takes a listener that the caller has
// bound; the owner registers what it serves ([Server.Handle],
// [Server.HandleTransfer], [Server.HandleExtension], [Server.HandleCommand],
// [Server.HandleStatus], [Server.Target]) and its background work
// ([Server.Background]); [Server.Serve] then runs everything and returns when
// all of it has ended. Several servers live in one process: nothing here is
// global.
//
// # One request
//
//	client                              server
//	hello: id, protocol, version   ->
//	                               <-   server id, "ok" or refusal text
//	body                           ->
//	                               <-   "ok" | "accept" | refusal text, values
//	                               <-   half-close
//	close                          ->
//
// A handler that fails before it sent a status word makes a refusal: the text
// of its error (see [wire.RefusalText]) goes to the client in place of the
// word. What fails later is only logged, and the client sees the connection
// close early.
//
// "ok" commands have done and persisted their work when they answer. An
// "accept" command begins its work only after the client closed its side
// ([Request.Accept]); when the client does not, the command does not run.
//
// # Limits
//
// At most MaxConn connections are served at a time; further clients wait in
// the kernel's backlog. Connections of extension protocols are kept long and
// give their place back once they are known as such. Some handlers also count
// against the foreground limit ([Server.Foreground]).
//
// # Shutdown
//
// A shutdown, of either kind, ends accepting at once, cancels the context of
// every handler and of the background work, and waits for them. Transfers and
// idle connections break off; a control command that is at its reply may
// finish it within a short grace.
//
// # Own protocols and targets of every server
//
//	version         no body; answer: one str
//	sleep           u64 seconds; answer: "ok" after so long
//	shutdown        bool force; answer: "accept"
//	get             strvec target, args; answer: "ok", value, ack
//	status          strvec [volume]; answer: "ok", strvec lines, ack
//	walbsh-features no body; answer: "ok", strvec of feature names
//	get host-type   "storage", "proxy" or "archive"
//	get pid         process id
//	get handler-stat  counters since the last reading; see [Server.Target]
package server
