# The application of test_servers.py in PSGI. mb=60 or kb=60 keeps 60 MB or KB for good, s=0.5 takes its time. Its answer says what was
# posted: its length and its MD5; the rest of it is always the same, so that a client knows a whole one.
use strict;
use warnings;
use Digest::MD5 'md5_hex';

my @kept;
my $app = sub {
    my ($env) = @_;
    my %query = map { split /=/, $_, 2 } split /&/, $env->{QUERY_STRING} // '';
    push @kept, 'x' x ($query{mb} * 1024 * 1024) if $query{mb};
    push @kept, 'x' x ($query{kb} * 1024) if $query{kb};
    select undef, undef, undef, $query{s} if $query{s};
    my $got = '';
    while (length $got < ($env->{CONTENT_LENGTH} || 0)) {
        $env->{'psgi.input'}->read($got, $env->{CONTENT_LENGTH} - length $got, length $got) or last;
    }
    my $answer = length($got) . ' ' . md5_hex($got) . "\n" . '.' x 4000 . "\nend\n";
    my @head = ('Content-Type' => 'text/plain', 'Content-Length' => length $answer, 'X-Worker' => $$);
    return [200, \@head, [$answer]];
};
$app;
