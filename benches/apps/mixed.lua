-- Of twenty requests one computes for 5 ms, two wait for 10 ms, the others are hello.
local count = 0
request = function()
  count = count + 1
  local turn = count % 20
  if turn == 0 then return wrk.format("GET", "/spin") end
  if turn % 8 == 1 and turn > 1 then return wrk.format("GET", "/sleep") end
  return wrk.format("GET", "/")
end
