# The same pool as pool.py, with the real FCGI::ProcManager: perl pool.pl SOCKET WORKERS
use strict;
use warnings;
use FCGI;
use FCGI::ProcManager;

my ($path, $count) = @ARGV;
my $socket = FCGI::OpenSocket($path, 100);
my $request = FCGI::Request(\*STDIN, \*STDOUT, \*STDERR, \my %env, $socket, FCGI::FAIL_ACCEPT_ON_INTR);
my $manager = FCGI::ProcManager->new({ n_processes => $count, die_timeout => 8 });
$manager->pm_manage;

my @kept;
my $pace = (0.7, 0.9, 1.2, 1.5)[$$ % 4];
while ($request->Accept >= 0) {
    $manager->pm_pre_dispatch;
    select undef, undef, undef, $1 if $env{QUERY_STRING} =~ /^s=([0-9.]+)$/;
    push @kept, 'x' x int(250_000 * $pace * rand 2);
    print "Status: 200 OK\r\nContent-Type: text/plain\r\n\r\nok";
    $request->Finish;
    $manager->pm_post_dispatch;
}
