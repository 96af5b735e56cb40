#!/usr/bin/perl
# The application of growing.psgi under Net::Server::PreFork, by Net::Server::PSGI, which speaks HTTP: one request for each
# connection. It has at least MIN workers, and replaces each at once. netserver.pl DIRECTORY PORT MIN
use strict;
use warnings;
use Net::Server::PSGI;

my ($directory, $port, $min) = splice @ARGV;
Net::Server::PSGI->run(
    app => do "$directory/growing.psgi",
    server_type => 'PreFork',
    proto => 'tcp',
    host => '127.0.0.1',
    ipv => 4,
    port => $port,
    min_servers => $min,
    max_servers => $min + 1,
    min_spare_servers => 1,
    max_spare_servers => $min,
    # Net::Server's default is 1000.
    max_requests => 1_000_000_000,
    access_log_file => '/dev/null',
    log_level => 1,
);
