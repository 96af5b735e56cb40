# In place of your application.
sub { [200, ['Content-Type' => 'text/plain'], ["Hello from worker $$\n"]] }
