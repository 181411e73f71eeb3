package nbd

const (
	magicServer  = "NBDMAGIC"
	magicOption  = "IHAVEOPT"
	magicReply   = 0x3e889045565a9
	magicRequest = 0x25609513
	magicSimple  = 0x67446698
	magicChunk   = 0x668e33ef
)

// Bits of the handshake, of server and client alike.
const (
	fixedNewstyle = 1
	noZeroes      = 2
)

const (
	optExportName  = 1
	optAbort       = 2
	optList        = 3
	optInfo        = 6
	optGo          = 7
	optStructured  = 8
	optListContext = 9
	optSetContext  = 10
)

const (
	repAck        = 1
	repServer     = 2
	repInfo       = 3
	repContext    = 4
	repErrUnsup   = 1<<31 + 1
	repErrInvalid = 1<<31 + 3
	repErrUnknown = 1<<31 + 6
	repErrTooBig  = 1<<31 + 9
)

const (
	infoExport      = 0
	infoDescription = 2
	infoBlockSize   = 3
)

// Flags of an export.
const (
	flagHasFlags        = 1 << 0
	flagReadOnly        = 1 << 1
	flagSendFlush       = 1 << 2
	flagSendFUA         = 1 << 3
	flagSendTrim        = 1 << 5
	flagSendWriteZeroes = 1 << 6
	flagSendDF          = 1 << 7
	flagMultiConn       = 1 << 8
)

const (
	cmdRead        = 0
	cmdWrite       = 1
	cmdDisconnect  = 2
	cmdFlush       = 3
	cmdTrim        = 4
	cmdWriteZeroes = 6
	cmdBlockStatus = 7
)

// Flags of a request.
const (
	cmdFUA    = 1 << 0
	cmdNoHole = 1 << 1
	cmdDF     = 1 << 2
	cmdReqOne = 1 << 3
)

const (
	chunkDone        = 1
	chunkData        = 1
	chunkBlockStatus = 5
	chunkError       = 1<<15 + 1
)

// What block status tells of an extent: a hole that reads as zeros, or data.
const (
	extentData = 0
	extentHole = 1 | 2
)

// Errors of the protocol, which have the numbers of Linux.
const (
	errPerm     = 1
	errIO       = 5
	errInvalid  = 22
	errNoSpace  = 28
	errOverflow = 75
	errNotSup   = 95
)

// contextName is the one meta context that there is, and contextID its number.
const (
	contextName = "base:allocation"
	contextID   = 1
)

const (
	maxPayload   = 32 << 20 // bytes of one read or write
	maxOption    = 64 << 10 // bytes of one option
	maxName      = 4096     // bytes of a name, of the protocol
	maxExtents   = 4096     // of one answer to block status
	maxInFlight  = 64 << 20 // bytes of requests that run beside each other, per connection
	leastCost    = 64 << 10 // bytes that each of them counts at least
	preferredLen = 4096     // preferred block size
	requestSize  = 28       // bytes of a request's head
)
