<?php
// The application of growing.psgi in PHP. What PHP allocates it frees after each request, but not what FFI has from
// malloc: so this grows for good.
if (isset($_GET['mb']) || isset($_GET['kb'])) {
    $size = ($_GET['mb'] ?? 0) * 1024 * 1024 + ($_GET['kb'] ?? 0) * 1024;
    FFI::memset(FFI::cdef()->new("char[$size]", false, true), 120, $size);
}
if (isset($_GET['s'])) {
    usleep((int) ($_GET['s'] * 1e6));
}
$got = file_get_contents('php://input');
$answer = strlen($got) . ' ' . md5($got) . "\n" . str_repeat('.', 4000) . "\nend\n";
header('Content-Type: text/plain');
header('Content-Length: ' . strlen($answer));
header('X-Worker: ' . getmypid());
echo $answer;
