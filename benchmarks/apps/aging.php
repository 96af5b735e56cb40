<?php
// The application of aging.psgi in PHP: base, leak, and large with stays=add. PHP frees what it allocates after each request,
// but not what FFI has from malloc; a worker remembers in its environment that it has its base.
$c = FFI::cdef('char *getenv(const char *); int setenv(const char *, const char *, int);');
$sizes = [(int) ($_GET['leak'] ?? 0), (int) ($_GET['large'] ?? 0)];
if (isset($_GET['base']) && $c->getenv('AGING_BASE') === null) {
    $sizes[] = (int) $_GET['base'];
    $c->setenv('AGING_BASE', 'kept', 1);
}
foreach (array_filter($sizes) as $size) {
    FFI::memset(FFI::cdef()->new("char[$size]", false, true), 120, $size);
}
header('Content-Type: text/plain');
header('Content-Length: 3');
header('X-Worker: ' . getmypid());
echo "ok\n";
