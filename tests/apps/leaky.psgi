# A PSGI application that grows when it is asked to: /grow?mb=60 keeps 60 MB, s=0.5 takes its time.
use strict;
use warnings;

my @kept;
my $app = sub {
    my ($env) = @_;
    my %query = map { split /=/, $_, 2 } split /&/, $env->{QUERY_STRING} // '';
    push @kept, 'x' x ($query{mb} * 1024 * 1024) if $query{mb};
    select undef, undef, undef, $query{s} if $query{s};
    return [200, ['Content-Type' => 'text/plain', 'X-Worker' => $$], ["worker $$\n"]];
};
$app;
