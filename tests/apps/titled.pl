# A manager with a title of its own: only its workers are called as those of FCGI::ProcManager are.
use strict;
use warnings;
use FCGI::ProcManager;

my $manager = FCGI::ProcManager->new({ n_processes => 2, pm_title => 'myapp' });
$manager->pm_manage();
while (1) {
    sleep 1;
}
