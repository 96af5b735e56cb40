# An application that ages as its requests say, for suggest_record.py; aging.py, .ru, .php and .lua are the same, as far as
# their language can. Sizes are in bytes.
#   base=N           the first request of a worker keeps N, as caches that every worker has
#   leak=N           N are kept for good
#   touch=N          N pages of what the manager holds (AGING_SHARED MiB) are written to, at random: the kernel copies them
#   cache=K&entry=N  one of K entries, at random, is made and kept, if it is not there yet
#   large=N          a request that needs N. stays=add: they are leaked; max: the next one uses them again;
#                    no: they are freed by the first request after hold=S seconds
use strict;
use warnings;
use Time::HiRes 'time';

my ($shared, $pages) = ('', 256 * ($ENV{AGING_SHARED} // 0));
vec($shared, 4096 * $pages - 1, 8) = 1 if $pages;
my ($base, $large, $until, @leaked, %cache) = ('', '', 0);

# Not 'x' x N, of which Perl keeps a copy.
sub fill { vec($_[0], $_[1] - 1, 8) = 1 if $_[1] > length $_[0] }

my $app = sub {
    my ($env) = @_;
    my %query = map { split /=/, $_, 2 } split /&/, $env->{QUERY_STRING} // '';
    fill($base, $query{base}) if $query{base};
    if ($query{leak}) {
        push @leaked, '';
        fill($leaked[-1], $query{leak});
    }
    vec($shared, 4096 * int rand $pages, 8) = 2 for 1 .. $query{touch} // 0;
    if ($query{cache}) {
        my $key = int rand $query{cache};
        $cache{$key} //= '';
        fill($cache{$key}, $query{entry});
    }
    if ($until && time > $until) {
        undef $large;
        ($large, $until) = ('', 0);
    }
    if ($query{large} && $query{stays} eq 'add') {
        push @leaked, '';
        fill($leaked[-1], $query{large});
    }
    elsif ($query{large}) {
        fill($large, $query{large});
        $until = time + $query{hold} if $query{stays} eq 'no';
    }
    return [200, ['Content-Type' => 'text/plain', 'Content-Length' => 3, 'X-Worker' => $$], ["ok\n"]];
};
$app;
