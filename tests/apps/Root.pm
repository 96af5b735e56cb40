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
    $c->response->content_type('application/octet-stream'); # no text, which Catalyst would encode
    my $got = $c->request->body; # Catalyst keeps what is no form in a file
    $c->response->body($got ? do { local $/; <$got> } : '');
}

__PACKAGE__->meta->make_immutable;
1;
