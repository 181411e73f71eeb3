-- Keep a replica up to date, from cron or a timer.
--
--   walbsh -c group.lua run replica -- VOLUME SOURCE DESTINATION [SECONDS]
--   walbsh -c group.lua run replica -- vol a0 a1 3600
--
-- It brings what the destination lacks, and prints one line. The exit status
-- is 0 when the destination has the newest snapshot of the source.

local volume, source, destination, seconds = arg[1], arg[2], arg[3], tonumber(arg[4] or "3600")
if not destination then
  error("usage: walbsh -c group.lua run replica -- VOLUME SOURCE DESTINATION [SECONDS]", 0)
end

local function server(name)
  local s = rawget(_G, name)
  if not s then
    error("the layout has no server " .. name, 0)
  end
  return s
end

local gid, copy = walbc.replicate_once(server(source), volume, server(destination), seconds)
print(volume .. " at " .. destination .. ": " .. tostring(copy))
