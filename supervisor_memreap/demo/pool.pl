#!/usr/bin/perl
# The demo's pool with the real FCGI::ProcManager: perl pool.pl SOCKET WORKERS. The same as pool.py.
use strict;
use warnings;
use FCGI;
use FCGI::ProcManager;

my ($path, $workers) = @ARGV;
my $socket  = FCGI::OpenSocket($path, 100);
my $request = FCGI::Request(\*STDIN, \*STDOUT, \*STDERR, {}, $socket, FCGI::FAIL_ACCEPT_ON_INTR);
# Under supervisord's stopwaitsecs, so that the manager is the one that gives up waiting.
my $manager = FCGI::ProcManager->new({ n_processes => $workers, die_timeout => 4 });
$manager->pm_manage;

# The first workers begin as if they had served for a while, each longer than the one before (their pids follow one
# another), so that they do not all come to the limit together.
my $is_first = time - $^T < 3;
my $leak     = (110 + rand 40) * 1024;
my @kept     = ('x' x ($is_first ? ($$ % $workers) / $workers * 24 * 1024**2 : 0));

while ($request->Accept >= 0) {
    $manager->pm_pre_dispatch;
    select undef, undef, undef, 0.005 + rand 0.02;    # so that a signal often finds a worker at work
    my $body = "worker $$\n" x 100;
    print "Status: 200 OK\r\nContent-Length: ", length $body, "\r\n\r\n", $body;
    push @kept, 'x' x rand 2 * $leak;
    $request->Finish;                                 # pm_post_dispatch may be the end of this worker
    $manager->pm_post_dispatch;
}
