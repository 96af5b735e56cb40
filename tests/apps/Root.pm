package MyApp::Controller::Root;
# The controller of the test's Catalyst application; the same answers as leaky.psgi.
use Moose;
use namespace::autoclean;

BEGIN { extends 'Catalyst::Controller' }
__PACKAGE__->config(namespace => '');

my @kept;

sub grow : Path : Args {
    my ($self, $c) = @_;
    my $query = $c->request->query_parameters;
    push @kept, 'x' x ($query->{mb} * 1024 * 1024) if $query->{mb};
    select undef, undef, undef, $query->{s} if $query->{s};
    $c->response->header('X-Worker' => $$);
    $c->response->content_type('text/plain');
    $c->response->body("worker $$\n");
}

__PACKAGE__->meta->make_immutable;
1;
