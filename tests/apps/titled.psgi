# Its workers take a title of their own at the first request, as many applications do to show what they serve.
my $app = sub {
    my ($env) = @_;
    $0 = "myapp $env->{PATH_INFO}";
    return [200, ['Content-Type' => 'text/plain', 'X-Worker' => $$], ["$$\n"]];
};
$app;
