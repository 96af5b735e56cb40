-- The application of aging.psgi for Apache's mod_lua, whose state each worker keeps (LuaScope thread): base, leak, cache,
-- and large with stays=add.
kept = kept or {}
cached = cached or {}

function handle(r)
    local query = r:parseargs()
    if query.base and not base then
        base = string.rep('x', query.base)
    end
    if query.leak then
        table.insert(kept, string.rep('x', query.leak))
    end
    if query.cache then
        local key = math.random(query.cache)
        cached[key] = cached[key] or string.rep('x', query.entry)
    end
    if query.large then
        table.insert(kept, string.rep('x', query.large))
    end
    collectgarbage()
    local stat = io.open('/proc/self/stat')
    local pid = stat:read('*l'):match('^%d+')
    stat:close()
    r.content_type = 'text/plain'
    r.headers_out['Content-Length'] = '3'
    r.headers_out['X-Worker'] = pid
    r:write('ok\n')
    return apache2.OK
end
