package MyApp::Controller::Root;
# The controller of loss.py's Catalyst application: it leaks, reads the whole body, sleeps, promises a cleanup, and says
# in its answer what it really did.
use Moose;
use namespace::autoclean;
use Digest::MD5 'md5_hex';
use Time::HiRes 'time';

BEGIN { extends 'Catalyst::Controller' }
__PACKAGE__->config(namespace => '');

my @kept;

sub answer : Path : Args {
    my ($self, $c) = @_;
    my $query = $c->request->query_parameters;
    my $id = $query->{id} // '';
    my $file = $c->request->body; # Catalyst keeps what is no form in a file
    my $body = $file ? do { local $/; <$file> } // '' : '';
    push @kept, 'x' x ($query->{leak} * 1024) if $query->{leak}; # written to, so it is resident
    my $begun = time;
    select undef, undef, undef, $query->{s} if $query->{s};
    my $slept = time - $begun;
    if ($query->{cleanup}) {
        push @{ $c->request->env->{'psgix.cleanup.handlers'} }, sub {
            open my $written, '>>', $ENV{LOSS_WRITTEN} or die "$ENV{LOSS_WRITTEN}: $!";
            syswrite $written, "$id\n"; # one write with O_APPEND: the workers' lines never mix
        };
    }
    $c->response->header('X-Worker' => $$);
    $c->response->content_type('application/octet-stream'); # no text, which Catalyst would encode
    my $head = sprintf '%s %d %s %.4f %d', $id, length $body, md5_hex($body), $slept, $query->{cleanup} // 0;
    $c->response->body("$head\n" . '.' x 4000 . "\nend\n");
}

__PACKAGE__->meta->make_immutable;
1;
