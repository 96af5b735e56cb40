# A manager with a title of its own. Its workers are called as those of FCGI::ProcManager are; with an argument, they have
# a title of their own too.
use strict;
use warnings;
use FCGI::ProcManager;

my $manager = FCGI::ProcManager->new({ n_processes => 2, pm_title => 'myapp' });
$manager->pm_manage();
$0 = "worker of $ARGV[0]" if @ARGV;
while (1) {
    sleep 1;
}
