# A pool of FCGI::ProcManager that forks its workers only when there is a line in the file that is given.
use strict;
use warnings;
use FCGI::ProcManager;

if (@ARGV) {
    open my $start, '<', $ARGV[0] or die $!;
    <$start>;
}
my $manager = FCGI::ProcManager->new({ n_processes => 2 });
$manager->pm_manage();
while (1) {
    sleep 1;
}
