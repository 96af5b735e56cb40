# A PSGI application that grows when it is asked to: mb=60 keeps 60 MB, s=0.5 takes its time. Answers with what it got.
use strict;
use warnings;
use Time::HiRes 'time';

my @kept;
my $app = sub {
    my ($env) = @_;
    my %query = map { split /=/, $_, 2 } split /&/, $env->{QUERY_STRING} // '';
    push @kept, 'x' x ($query{mb} * 1024 * 1024) if $query{mb};
    # A signal cuts one wait short, not the request.
    my $end = time + ($query{s} // 0);
    while ((my $left = $end - time) > 0) { select undef, undef, undef, $left }
    my $got = '';
    $env->{'psgi.input'}->read($got, $env->{CONTENT_LENGTH}) if $env->{CONTENT_LENGTH};
    return [200, ['Content-Type' => 'text/plain', 'X-Worker' => $$], [$got]];
};
$app;
