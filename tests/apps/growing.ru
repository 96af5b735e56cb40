# The application of growing.psgi for Rack.
require 'digest'

kept = []
run(lambda do |env|
  query = env['QUERY_STRING'].split('&').map { |pair| pair.split('=', 2) }.to_h
  kept << 'x' * (query['mb'].to_i * 1024 * 1024) if query['mb']
  kept << 'x' * (query['kb'].to_i * 1024) if query['kb']
  sleep query['s'].to_f if query['s']
  got = env['rack.input'].read
  answer = "#{got.bytesize} #{Digest::MD5.hexdigest(got)}\n#{'.' * 4000}\nend\n"
  head = { 'Content-Type' => 'text/plain', 'Content-Length' => answer.bytesize.to_s, 'X-Worker' => Process.pid.to_s }
  [200, head, [answer]]
end)
