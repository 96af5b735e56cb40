# Stretches the moment in which a forked worker of FCGI::ProcManager still runs its manager's signal handlers, from
# microseconds to half a second: perl -MSlowNewborn
package SlowNewborn;
use strict;
use warnings;

BEGIN {
    *CORE::GLOBAL::fork = sub {
        my $pid = CORE::fork();
        if (defined $pid and $pid == 0) {
            # In pieces, since a signal ends a select; its handler runs then.
            select undef, undef, undef, 0.01 for 1 .. 50;
        }
        return $pid;
    };
}
1;
