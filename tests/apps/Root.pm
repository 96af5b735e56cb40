package MyApp::Controller::Root;
# The controller of the test's Catalyst application; the same answers as leaky.psgi.
use Moose;
use Time::HiRes 'time';
use namespace::autoclean;

BEGIN { extends 'Catalyst::Controller' }
__PACKAGE__->config(namespace => '');

my @kept;

sub grow : Path : Args {
    my ($self, $c) = @_;
    my $query = $c->request->query_parameters;
    push @kept, 'x' x ($query->{mb} * 1024 * 1024) if $query->{mb};
    # A signal cuts one wait short, not the request.
    my $end = time + ($query->{s} // 0);
    while ((my $left = $end - time) > 0) { select undef, undef, undef, $left }
    $c->response->header('X-Worker' => $$);
    $c->response->content_type('text/plain');
    my $got = $c->request->body; # Catalyst keeps what is no form in a file
    $c->response->body($got ? do { local $/; <$got> } : '');
}

__PACKAGE__->meta->make_immutable;
1;
