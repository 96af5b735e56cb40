#!/usr/bin/perl
# The application of growing.psgi under a manager that makes its pool larger and smaller by itself. It is not
# FCGI::ProcManager::Dynamic, which is on CPAN alone, but does what the documentation and the source of its version 0.8
# say: min_nproc to max_nproc workers; delta_nproc more when all are busy; delta_nproc fewer when fewer than min_nproc
# were busy for delta_time. Those are killed (SIGKILL), if they have not said that they have a request. The manager looks
# ten times a second. dynamic.pl SOCKET MIN_NPROC MAX_NPROC
package Dynamic;
use strict;
use warnings;
use parent 'FCGI::ProcManager';
use IO::Select;
use POSIX ':sys_wait_h';
use Time::HiRes qw(sleep time);

our ($min, $max) = @ARGV[1, 2];
my ($delta, $delta_time) = (2, 2);
my $changed = time;
pipe my $told, my $tell or die $!;
$tell->autoflush(1);

# Each worker says when it begins and when it ends a request.
sub pm_pre_dispatch { my ($this) = @_; $this->SUPER::pm_pre_dispatch; print $tell "$$ 1\n" }
sub pm_post_dispatch { my ($this) = @_; print $tell "$$ 0\n"; $this->SUPER::pm_post_dispatch }

# Returns when the manager has to fork, so that n_processes is how many there should be.
sub pm_wait {
    my ($this) = @_;
    my $pids = $this->{PIDS};
    while ((my $pid = waitpid -1, WNOHANG) > 0) {
        delete $pids->{$pid};
    }
    sleep 0.1;
    while (IO::Select->new($told)->can_read(0)) {
        sysread $told, my $lines, 4096;
        while ($lines =~ /^([0-9]+) ([01])$/mg) {
            $pids->{$1}{busy} = $2 if $pids->{$1};
        }
    }
    my @idle = grep { !$pids->{$_}{busy} } keys %$pids;
    my ($count, $busy, $now) = ($this->n_processes, keys(%$pids) - @idle, time);
    my $wanted = $count;
    $wanted += $delta if $busy >= $count;
    $wanted -= $delta if $busy < $min && $now - $changed >= $delta_time;
    $wanted = $wanted > $max ? $max : $wanted < $min ? $min : $wanted;
    kill KILL => grep { defined } @idle[0 .. $count - $wanted - 1];
    $changed = $now if $wanted != $count || $busy >= $count - $delta;
    $this->n_processes($wanted);
}

package main;
use strict;
use warnings;
use FindBin;
use Plack::Handler::FCGI;
use Plack::Util;

my $app = Plack::Util::load_psgi("$FindBin::Bin/growing.psgi");
my $manager = Dynamic->new({ n_processes => $Dynamic::min });
Plack::Handler::FCGI->new(listen => [$ARGV[0]], manager => $manager, keep_stderr => 1)->run($app);
