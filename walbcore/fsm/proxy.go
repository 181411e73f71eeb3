package fsm

// ProxyState is the state of a volume at a proxy. None is ever stored: a volume
// with a directory begins as Stopped.
type ProxyState uint8

// The states of a proxy volume, the steady ones first.
const (
	ProxyClear   ProxyState = iota // unknown or forgotten: no directory
	ProxyStopped                   // has archives, takes and sends nothing
	ProxyStarted                   // takes logs and sends diffs

	ProxyAddArchiveInfo
	ProxyDeleteArchiveInfo
	ProxyClearVol
	ProxyStart
	ProxyStop
	ProxyWaitForEmpty
	ProxyWlogRecv
)

var proxyNames = [...]string{
	ProxyClear:             "Clear",
	ProxyStopped:           "Stopped",
	ProxyStarted:           "Started",
	ProxyAddArchiveInfo:    "AddArchiveInfo",
	ProxyDeleteArchiveInfo: "DeleteArchiveInfo",
	ProxyClearVol:          "ClearVol",
	ProxyStart:             "Start",
	ProxyStop:              "Stop",
	ProxyWaitForEmpty:      "WaitForEmpty",
	ProxyWlogRecv:          "WlogRecv",
}

// String gives the name on the wire.
func (s ProxyState) String() string { return nameOf(proxyNames[:], s) }

// Steady reports whether it is Clear, Stopped or Started.
func (s ProxyState) Steady() bool { return s <= ProxyStarted }

// ParseProxyState reads a name, also of a temporary state.
func ParseProxyState(name string) (ProxyState, error) {
	return parseName[ProxyState](proxyNames[:], name)
}

// ProxyTable lists all moves of a proxy volume.
func ProxyTable() []Move[ProxyState] {
	return []Move[ProxyState]{
		{ProxyClear, ProxyAddArchiveInfo, ProxyStopped},      // archive-info add, update
		{ProxyStopped, ProxyAddArchiveInfo, ProxyStopped},    // archive-info add, update
		{ProxyStopped, ProxyDeleteArchiveInfo, ProxyStopped}, // archive-info delete
		{ProxyStopped, ProxyDeleteArchiveInfo, ProxyClear},   // archive-info delete of the last one
		{ProxyStopped, ProxyClearVol, ProxyClear},            // clear-vol
		{ProxyStopped, ProxyStart, ProxyStarted},             // start
		{ProxyStarted, ProxyStop, ProxyStopped},              // stop graceful, force
		{ProxyStarted, ProxyWaitForEmpty, ProxyStopped},      // stop empty
		{ProxyStarted, ProxyWlogRecv, ProxyStarted},          // wlog-transfer
	}
}

// NewProxy makes the machine of a proxy volume. initial must be steady. Its
// actions are named by the archives to which diffs are sent. observe is as in [NewStorage].
func NewProxy(initial ProxyState, observe func(from, to ProxyState)) *Machine[ProxyState] {
	return newMachine(ProxyTable(), nil, initial, observe)
}
