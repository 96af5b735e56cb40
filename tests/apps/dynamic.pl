#!/usr/bin/perl
# The application of growing.psgi under a manager that makes its pool larger and smaller by itself, as
# FCGI::ProcManager::Dynamic does: as many as MIN to MAX workers, some more when none is idle, one less when two were idle
# for a second. That one is killed, as there. dynamic.pl SOCKET MIN MAX
package Dynamic;
use strict;
use warnings;
use parent 'FCGI::ProcManager';
use IO::Select;
use POSIX ':sys_wait_h';
use Time::HiRes 'time';

our ($min, $max) = @ARGV[1, 2];
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
    if (IO::Select->new($told)->can_read(0.1)) {
        sysread $told, my $lines, 4096;
        while ($lines =~ /^([0-9]+) ([01])$/mg) {
            $pids->{$1}{busy} = $2 if $pids->{$1};
        }
    }
    my @idle = grep { !$pids->{$_}{busy} } keys %$pids;
    my $now = time;
    $this->{many_since} = $now if @idle < 2 || !$this->{many_since};
    my $count = $this->n_processes;
    if (!@idle && $count < $max) {
        $this->n_processes($count + 2 > $max ? $max : $count + 2);
    }
    elsif ($now - $this->{many_since} > 1 && $count > $min) {
        $this->n_processes($count - 1);
        $this->{many_since} = $now;
        kill KILL => $idle[0];
    }
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
