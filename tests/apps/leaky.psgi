# A PSGI application that grows when it is asked to: mb=60 keeps 60 MB, s=0.5 takes its time. Answers with what it got.
use strict;
use warnings;

my @kept;
my $app = sub {
    my ($env) = @_;
    my %query = map { split /=/, $_, 2 } split /&/, $env->{QUERY_STRING} // '';
    push @kept, 'x' x ($query{mb} * 1024 * 1024) if $query{mb};
    select undef, undef, undef, $query{s} if $query{s};
    my $got = '';
    $env->{'psgi.input'}->read($got, $env->{CONTENT_LENGTH}) if $env->{CONTENT_LENGTH};
    return [200, ['Content-Type' => 'application/octet-stream', 'X-Worker' => $$], [$got]];
};
$app;
