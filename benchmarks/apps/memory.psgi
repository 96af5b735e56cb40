# Holds 200 MiB before the manager forks. A worker that is asked with unshare=30 writes to 30 MiB of that, so it gets
# copies of these pages and no page more; own=5 keeps 5 MiB more; map=100 maps 100 MiB of a file and reads none of it.
use strict;
use warnings;

my $MIB     = 1024 * 1024;
my @held    = map { 'x' x $MIB } 1 .. $ENV{MEMORY_HELD} // 200;
my $written = 0;
my ( @own, @mapped );

my $app = sub {
    my ($env) = @_;
    my %query = map { split /=/, $_, 2 } split /&/, $env->{QUERY_STRING} // '';
    for ( 1 .. $query{unshare} // 0 ) {
        last if $written == @held;
        for ( my $at = 0 ; $at < $MIB ; $at += 4096 ) {
            substr( $held[$written], $at, 1, 'y' );
        }
        $written++;
    }
    push @own, 'x' x ( $query{own} * $MIB ) if $query{own};
    for ( 1 .. ( $query{map} // 0 ) / 50 ) {
        open my $file, '<:mmap', $ENV{MEMORY_FILE} or die;
        read $file, my $start, 1;
        push @mapped, $file;
    }
    select undef, undef, undef, $query{s} if $query{s};
    return [ 200, [ 'Content-Type' => 'text/plain', 'X-Worker' => $$ ], ["$$ $written\n"] ];
};
$app;
