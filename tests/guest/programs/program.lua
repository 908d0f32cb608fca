-- SPDX-License-Identifier: GPL-2.0-or-later
-- A few benchmark programs in one; prints one line of results for each of the rounds that it is asked for.
local function fannkuch(n)
  local p, q, s, sign, maxflips, sum = {}, {}, {}, 1, 0, 0
  for i = 1, n do p[i] = i; q[i] = i; s[i] = i end
  repeat
    local q0 = p[1]
    if q0 ~= 1 then
      for i = 2, n do q[i] = p[i] end
      local flips = 1
      while true do
        local qq = q[q0]
        if qq == 1 then
          sum = sum + sign * flips
          if flips > maxflips then maxflips = flips end
          break
        end
        q[q0] = q0
        if q0 >= 4 then
          local i, j = 2, q0 - 1
          repeat q[i], q[j] = q[j], q[i]; i = i + 1; j = j - 1 until i >= j
        end
        q0 = qq; flips = flips + 1
      end
    end
    if sign == 1 then
      p[1], p[2] = p[2], p[1]; sign = -1
    else
      p[2], p[3] = p[3], p[2]; sign = 1
      for i = 3, n do
        local sx = s[i]
        if sx ~= 1 then s[i] = sx - 1; break end
        if i == n then return sum, maxflips end
        s[i] = i
        local t = p[1]; for j = 1, i do p[j] = p[j + 1] end; p[i + 1] = t
      end
    end
  until false
end
local function spectral(n)
  local function A(i, j) local ij = i + j - 1; return 1.0 / (ij * (ij - 1) * 0.5 + i) end
  local function Av(x, y) for i = 1, n do local a = 0; for j = 1, n do a = a + x[j] * A(i, j) end y[i] = a end end
  local function Atv(x, y) for i = 1, n do local a = 0; for j = 1, n do a = a + x[j] * A(j, i) end y[i] = a end end
  local u, v, t = {}, {}, {}
  for i = 1, n do u[i] = 1 end
  for i = 1, 10 do Av(u, t) Atv(t, v) Av(v, t) Atv(t, u) end
  local vBv, vv = 0, 0
  for i = 1, n do local ui, vi = u[i], v[i]; vBv = vBv + ui * vi; vv = vv + vi * vi end
  return math.sqrt(vBv / vv)
end
local function sieve(n)
  local f, count = {}, 0
  for i = 2, n do f[i] = true end
  for i = 2, n do if f[i] then count = count + 1; for k = i * i, n, i do f[k] = false end end end
  return count
end
local function words(n)
  local t, h = {}, 0
  for i = 1, n do local s = string.rep(string.char(97 + i % 26), i % 7) .. i; t[s] = (t[s] or 0) + i; h = (h * 31 + #s + s:byte(1)) % 4294967296 end
  local k = {}
  for s in pairs(t) do k[#k + 1] = s end
  table.sort(k)
  for i = 1, #k do h = (h * 17 + t[k[i]] + k[i]:byte(-1)) % 4294967296 end
  return h
end
-- Each loop gets hot, is compiled, and is thrown away again, so that code is written over and over.
local rounds = tonumber(arg[1])
for r = 1, rounds do
  local sum, flips = fannkuch(8)
  print(string.format("%d %d %.9f %d %.0f", sum, flips, spectral(100), sieve(100000), words(20000)))
  if jit then jit.flush() end
end
