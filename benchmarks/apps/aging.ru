# The application of aging.psgi for Rack.
PAGES = 256 * ENV.fetch('AGING_SHARED', '0').to_i
SHARED = 'x' * (4096 * PAGES)
leaked = []
cache = {}
base = nil
large = +''
till = nil
served = 0
run(lambda do |env|
  query = env['QUERY_STRING'].split('&').map { |pair| pair.split('=', 2) }.to_h
  base ||= 'x' * query['base'].to_i
  leaked << 'x' * query['leak'].to_i if query['leak']
  query['touch'].to_i.times { SHARED.setbyte(4096 * rand(PAGES), 1) }
  cache[rand(query['cache'].to_i)] ||= 'x' * query['entry'].to_i if query['cache']
  if till && Time.now.to_f > till
    large.clear
    till = nil
  end
  if query['large'] && query['stays'] == 'add'
    leaked << 'x' * query['large'].to_i
  elsif query['large']
    large << 'x' * [0, query['large'].to_i - large.bytesize].max
    till = Time.now.to_f + query['hold'].to_f if query['stays'] == 'no'
  end
  # As Unicorn::OobGC does. Else a worker grows until it collects its garbage for the first time.
  GC.start if ((served += 1) % 5).zero?
  [200, { 'Content-Type' => 'text/plain', 'Content-Length' => '3', 'X-Worker' => Process.pid.to_s }, ["ok\n"]]
end)
