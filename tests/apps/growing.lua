-- The application of growing.psgi for Apache's mod_lua, whose state each worker keeps (LuaScope thread).
kept = kept or {}

local function pid() -- which mod_lua does not say
    local stat = io.open('/proc/self/stat')
    local pid = stat:read('*l'):match('^%d+')
    stat:close()
    return pid
end

function handle(r)
    local query = r:parseargs()
    if query.mb then
        table.insert(kept, string.rep(string.rep('x', 1024 * 1024), query.mb)) -- by bytes, 160 MB would take 2 s
    end
    if query.kb then
        table.insert(kept, string.rep(string.rep('x', 1024), query.kb))
    end
    if query.s then
        r.usleep(query.s * 1000000)
    end
    local got = r:requestbody() or ''
    local answer = #got .. ' ' .. r:md5(got) .. '\n' .. string.rep('.', 4000) .. '\nend\n'
    r.content_type = 'text/plain'
    r.headers_out['Content-Length'] = tostring(#answer)
    r.headers_out['X-Worker'] = pid()
    r:write(answer)
    return apache2.OK
end
