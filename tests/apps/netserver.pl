#!/usr/bin/perl
# The application of growing.psgi under Net::Server::PreFork, by Net::Server::PSGI, which speaks HTTP: one request for each
# connection. It has WORKERS workers, and replaces each at once. netserver.pl DIRECTORY PORT WORKERS
use strict;
use warnings;
use Net::Server::PSGI;

my ($directory, $port, $workers) = splice @ARGV;
Net::Server::PSGI->run(
    app => do "$directory/growing.psgi",
    server_type => 'PreFork',
    proto => 'tcp',
    host => '127.0.0.1',
    ipv => 4,
    port => $port,
    min_servers => $workers,
    max_servers => $workers,
    min_spare_servers => 1,
    max_spare_servers => $workers - 1,
    # Net::Server's default is 1000.
    max_requests => 1_000_000_000,
    access_log_file => '/dev/null',
    log_level => 1,
);
