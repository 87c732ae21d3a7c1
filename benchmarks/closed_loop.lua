-- A closed loop for wrk: bodies in turn from a file, one a line; with "pairs" each answered decision
-- is rewarded next. See closed_loop.py, which runs it as: wrk ... -s THIS URL -- BODIES PATH MODE
local headers = { ["Content-Type"] = "application/json" }
local requests, decided, turn = {}, {}, 0

function init(args)
  for line in io.lines(args[1]) do
    requests[#requests + 1] = wrk.format("POST", args[2], headers, line)
  end
  if args[3] ~= "pairs" then
    response = nil -- wrk then does not parse answers
  end
end

function request()
  local id = table.remove(decided)
  if id then
    return wrk.format("POST", "/reward", headers, '{"decision_id": "' .. id .. '", "reward": 0.5}')
  end
  turn = turn % #requests + 1
  return requests[turn]
end

function response(_, _, body)
  local id = string.match(body, '^{"decision_id":"([^"]+)"')
  if id then
    decided[#decided + 1] = id
  end
end

function done(summary)
  local e = summary.errors
  io.write(string.format('{"requests": %d, "seconds": %.6f, "failed": %d}\n', summary.requests,
    summary.duration / 1e6, e.connect + e.read + e.write + e.status + e.timeout))
end
