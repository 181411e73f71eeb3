package wire

// Targets of get. The answer is a number (N), a string (S) or a vector of
// strings (V).
const (
	TargetHostType         = "host-type"           // S, all servers
	TargetPid              = "pid"                 // N, all servers
	TargetVol              = "vol"                 // V, all servers
	TargetState            = "state"               // S, all servers
	TargetHandlerStat      = "handler-stat"        // V, all servers
	TargetLatestSnap       = "latest-snap"         // V, all servers
	TargetUUID             = "uuid"                // S, storage and archive
	TargetTsDelta          = "ts-delta"            // V, storage and archive
	TargetIsOverflow       = "is-overflow"         // N, storage
	TargetLogUsage         = "log-usage"           // V, storage
	TargetIsWdiffSendError = "is-wdiff-send-error" // N, proxy
	TargetProxyDiff        = "proxy-diff"          // V, proxy
	TargetDiff             = "diff"                // V, archive
	TargetTotalDiffSize    = "total-diff-size"     // N, archive
	TargetNumDiff          = "num-diff"            // N, archive
	TargetApplicableDiff   = "applicable-diff"     // V, archive
	TargetExistsDiff       = "exists-diff"         // N, archive
	TargetExistsBaseImage  = "exists-base-image"   // N, archive
	TargetNumAction        = "num-action"          // N, archive
	TargetAllActions       = "all-actions"         // V, archive
	TargetRestored         = "restored"            // V, archive
	TargetRestorable       = "restorable"          // V, archive
	TargetArchiveUUID      = "archive-uuid"        // S, archive
	TargetBase             = "base"                // S, archive
	TargetBaseAll          = "base-all"            // V, archive
	TargetVolSize          = "vol-size"            // N, archive
	TargetProgress         = "progress"            // N, archive
	TargetVolumeGroup      = "volume-group"        // S, archive
	TargetMetaSnap         = "meta-snap"           // S, archive
	TargetMetaState        = "meta-state"          // S, archive
)
