# A pool of FCGI::ProcManager that does what its requests say: mb=60 and kb=60 keep 60 MB or KB, s=0.5 takes its time,
# until=PATH waits for that file.
# perl obeying.pl SOCKET WORKERS [MB [fragile]]; each worker holds MB from its start, and a fragile manager ends with the
# first worker that leaves. While there is a file SOCKET.broken, workers end before they serve.
use strict;
use warnings;
use FCGI;
use FCGI::ProcManager;

my ($path, $count, $mb, $is_fragile) = @ARGV;
my $socket = FCGI::OpenSocket($path, 100);
my $request = FCGI::Request(\*STDIN, \*STDOUT, \*STDERR, \my %env, $socket, FCGI::FAIL_ACCEPT_ON_INTR);
my $manager = FCGI::ProcManager->new({ n_processes => $count, die_timeout => 8 });
if ($is_fragile) {
    no warnings 'redefine';
    my $wait = \&FCGI::ProcManager::pm_wait;
    *FCGI::ProcManager::pm_wait = sub { $wait->(@_); $manager->pm_exit('one has left') };
}
$manager->pm_manage;
if (-e "$path.broken") {
    select undef, undef, undef, 0.2;
    exit 1;
}
my @kept = ('x' x (1024 * 1024 * ($mb || 0)));
while ($request->Accept >= 0) {
    $manager->pm_pre_dispatch;
    my %query = map { split /=/, $_, 2 } split /&/, $env{QUERY_STRING} // '';
    push @kept, 'x' x ($query{mb} * 1024 * 1024) if $query{mb};
    push @kept, 'x' x ($query{kb} * 1024) if $query{kb};
    select undef, undef, undef, $query{s} if $query{s};
    select undef, undef, undef, 0.05 while $query{until} && !-e $query{until};
    print "Status: 200 OK\r\nContent-Type: text/plain\r\n\r\nok";
    $request->Finish;
    $manager->pm_post_dispatch;
}
