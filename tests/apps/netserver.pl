#!/usr/bin/perl
# A server of one's own, by Net::Server::PSGI, which speaks HTTP: one request for each connection. netserver.pl APP, and
# the options of Net::Server
use strict;
use warnings;
use Net::Server::PSGI;

my $app = do(shift) or die $@ || $!;
Net::Server::PSGI->run(app => $app, server_type => 'PreFork', ipv => 4, access_log_file => '/dev/null', log_level => 1);
