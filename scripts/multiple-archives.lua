-- Manage multiple archives: the operators' manual as a runbook.
--
--   walbsh run multiple-archives                    on an embedded group
--   walbsh -c group.lua run multiple-archives       on yours
--
-- It brings a replica of the volume to the second archive, lets it follow the
-- volume for a while, and stops that again. The replica stays.

print("The group now:")
print(walbc.layout(vol))

-- Once. All snapshots of the volume at a0 can be restored at a1 afterwards.
local gid, copy = walbc.replicate_once(a0, vol, a1, timeoutS)
print("replicate_once: " .. tostring(copy))

-- Again: it brings only what is new.
gid, copy = walbc.replicate_once(a0, vol, a1, timeoutS)
print("again:          " .. tostring(copy))

-- Synchronizing: a1 follows by itself from now on.
print("synchronize:    " .. tostring(walbc.synchronize(a0, vol, a1, timeoutS)))
assert(walbc.is_synchronizing(a1, vol))
print(walbc.layout(vol))

-- A snapshot at the storage can be restored at both, with no further call.
gid = walbc.snapshot(s0, vol, {a0, a1}, timeoutS)
print("snapshot " .. tostring(gid) .. " can be restored at a0 and a1")

-- And no longer.
print("stop:           " .. walbc.stop_synchronizing(a1, vol))
assert(not walbc.is_synchronizing(a1, vol))
