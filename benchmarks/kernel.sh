#!/bin/sh
# Runs checks on kernels of Debian, each booted in QEMU: sh benchmarks/kernel.sh --help
set -eu

usage() {
    cat <<'USAGE'
usage: sh benchmarks/kernel.sh [--kernel VERSION] [--only WORD] [x86_64|aarch64]...

Boots Debian 12's own kernel in QEMU with this checkout, Perl, Python and FCGI::ProcManager, and runs the
checks of benchmarks/kernel_guest.py there: what the kernel of a container's host does not let a test set.
One line for each check. Default: both architectures, one after the other. Emulated, x86_64 takes some 13
minutes and aarch64 some 25, longer on a busy machine; where the machine has KVM for its own kind, much less.

  --kernel VERSION   such as 6.1 or 6.12; default: the newest of Debian 12
  --only WORD        only checks with this word in their names

Needs Debian or Ubuntu, the network, and: apt-get install qemu-system-x86 qemu-system-arm cpio
debian-archive-keyring. Packages are verified by apt against Debian's keys, and kept in
${XDG_CACHE_HOME:-~/.cache}/memreap-kernel; MIRROR=URL names another mirror.

exit status: 0 each check holds; 1 one does not; 2 something is missing here; 130 Ctrl-C.
USAGE
}

missing() {
    echo "kernel.sh: $*" >&2
    exit 2
}

here=$(cd "$(dirname "$0")/.." && pwd)
kernel='' only='' machines=''
while [ $# -gt 0 ]; do
    case $1 in
        -h | --help) usage; exit 0 ;;
        --kernel | --only)
            [ $# -ge 2 ] || missing "$1 needs a value; see --help"
            if [ "$1" = --only ]; then only=$2; else kernel=$(echo "$2." | sed "s,[.],[.],g"); fi
            shift
            ;;
        x86_64 | aarch64) machines="$machines $1" ;;
        *) missing "unknown argument $1; see --help" ;;
    esac
    shift
done
machines=${machines:-x86_64 aarch64}
case $only in *[!A-Za-z0-9_]*) missing "--only takes one word, of letters, digits and _" ;; esac

keyring=/usr/share/keyrings/debian-archive-keyring.gpg
for machine in $machines; do
    command -v "qemu-system-$machine" >/dev/null ||
        missing "no qemu-system-$machine here; apt-get install qemu-system-x86 qemu-system-arm"
done
for command in apt-get dpkg-deb cpio sha256sum timeout; do
    command -v $command >/dev/null || missing "no $command here; apt-get install apt dpkg cpio coreutils"
done
[ -e $keyring ] || missing "no $keyring here; apt-get install debian-archive-keyring"

work=$(mktemp -d "${TMPDIR:-/tmp}/memreap-kernel.XXXXXX")
qemu='' tail=''
end() {
    # timeout passes it on to QEMU
    [ -z "$qemu" ] || kill "$qemu" 2>/dev/null || true
    [ -z "$tail" ] || kill "$tail" 2>/dev/null || true
    rm -rf "$work"
}
trap end EXIT
trap 'exit 130' INT TERM HUP

apt() {
    command=$1
    shift
    "$command" -o APT::Architecture="$debian" -o APT::Architectures="$debian" -o Dir::Etc::sourcelist="$cache/sources.list" \
        -o Dir::Etc::sourceparts=- -o Dir::State="$cache/state" -o Dir::State::status="$cache/state/status" \
        -o Dir::Cache="$cache/apt" -o APT::Sandbox::User=root -o APT::Update::Error-Mode=any \
        -o Acquire::Retries=2 -o Acquire::http::Timeout=20 "$@"
}

# All packages into $work/root, and the kernel to $work/vmlinuz.
unpack() {
    cache=${XDG_CACHE_HOME:-$HOME/.cache}/memreap-kernel/$debian
    mkdir -p "$cache/state/lists/partial" "$cache/apt/archives/partial" "$cache/debs"
    touch "$cache/state/status"
    mirror=${MIRROR:-http://deb.debian.org}
    echo "deb [signed-by=$keyring] $mirror/debian bookworm main
deb [signed-by=$keyring] $mirror/debian-security bookworm-security main" >"$cache/sources.list"
    apt apt-get -qq update || missing "cannot reach Debian's mirror $mirror; see the error above"
    # Not the metapackages, such as linux-image-6.12-cloud-amd64.
    image=$(apt apt-cache search --names-only "^linux-image-[0-9].*-cloud-$debian\$" | cut -d' ' -f1 | sort -V |
        grep -v '^linux-image-[0-9]*[.][0-9]*-cloud' | grep "^linux-image-$kernel[-.+0-9]" | tail -n 1)
    [ "$image" ] || missing "Debian 12 has no kernel $kernel for $debian"
    packages="$image busybox-static libc6 libgcc-s1 libcrypt1 zlib1g libexpat1 libffi8 libbz2-1.0 liblzma5 libssl3
        python3.11-minimal libpython3.11-minimal libpython3.11-stdlib python3-psutil supervisor python3-pkg-resources
        perl-base perl perl-modules-5.36 libperl5.36 libdb5.3 libfcgi-perl libfcgi0ldbl libfcgi-procmanager-perl"
    # shellcheck disable=SC2086
    apt apt-get -qq --print-uris download $packages >"$work/uris"
    # 'URI' file size SHA256:sum, of the lists that apt has verified
    sed 's/^.* \([^ ]*\) [0-9]* SHA256:\([0-9a-f]*\)$/\2  \1/' "$work/uris" >"$work/sums"
    cd "$cache/debs"
    if ! sha256sum --status --check "$work/sums" 2>/dev/null; then
        rm -f ./*.deb
        # shellcheck disable=SC2086
        apt apt-get -qq download $packages || missing "cannot fetch packages from $mirror; see the error above"
        sha256sum --quiet --check "$work/sums"
    fi
    rm -rf "$work/root"
    mkdir "$work/root"
    cut -d' ' -f3 "$work/sums" | while read -r package; do
        dpkg-deb -x "$package" "$work/root"
    done
    cd "$here"
    mv "$work"/root/boot/vmlinuz-* "$work/vmlinuz"
    rm -rf "$work/root/boot" "$work/root/lib/modules" "$work/root/usr/lib/modules" "$work/root/usr/share/doc" \
        "$work/root/usr/share/man"
}

# $work/initrd.gz: all of it, with this checkout and what runs first.
pack() {
    cp -r "$here/supervisor_memreap" "$work/root/supervisor_memreap"
    cp "$here/benchmarks/kernel_guest.py" "$here/benchmarks/kernel_conditions.py" "$work/root"
    mkdir -p "$work/root/proc" "$work/root/sys" "$work/root/tmp" "$work/root/dev" "$work/root/run"
    [ -e "$work/root/bin/busybox" ] || cp "$work/root/usr/bin/busybox" "$work/root/bin/busybox"
    cat >"$work/root/init" <<'INIT'
#!/bin/busybox sh
/bin/busybox mount -t proc proc /proc
/bin/busybox mount -t sysfs sys /sys
/bin/busybox mount -t devtmpfs dev /dev
/bin/busybox mount -t cgroup2 cgroup2 /sys/fs/cgroup
/bin/busybox chmod 1777 /tmp
/bin/busybox ip link set lo up
export PATH=/usr/bin:/bin PYTHONPATH=/:/usr/lib/python3/dist-packages PYTHONDONTWRITEBYTECODE=1
only=$(/bin/busybox sed -n 's/.*memreap.only=\([^ ]*\).*/\1/p' /proc/cmdline)
python3.11 /kernel_guest.py "$only" </dev/null && echo "kernel: all as it must be" || echo "kernel: FAILED"
/bin/busybox poweroff -f
INIT
    chmod 755 "$work/root/init"
    (cd "$work/root" && find . | cpio --quiet -o -H newc | gzip -1) >"$work/initrd.gz"
}

# Whether this machine can run the kernel itself. A /dev/kvm alone may be one that cannot (in a virtual machine).
has_kvm() {
    [ -w /dev/kvm ] && [ "$(uname -m)" = "$machine" ] && { [ "$machine" = aarch64 ] || grep -qwE 'vmx|svm' /proc/cpuinfo; }
}

# 0: all checks hold.
boot() {
    : >"$work/log"
    tail -n +1 -f "$work/log" &
    tail=$!
    # shellcheck disable=SC2086
    timeout 7200 "qemu-system-$machine" $board -smp 2 -m 1024 -nic none -display none -monitor none -no-reboot \
        -kernel "$work/vmlinuz" -initrd "$work/initrd.gz" -serial "file:$work/log" \
        -append "console=$console rdinit=/init loglevel=2 panic=-1 psi=1 memreap.only=$only" </dev/null &
    qemu=$!
    wait $qemu || true
    qemu=''
    sleep 1
    kill $tail 2>/dev/null || true
    wait $tail 2>/dev/null || true
    tail=''
    grep -q '^kernel: all as it must be' "$work/log"
}

failed=0
for machine in $machines; do
    case $machine in
        x86_64) debian=amd64 console=ttyS0 board='-M q35' emulated=max ;;
        aarch64) debian=arm64 console=ttyAMA0 board='-M virt' emulated=cortex-a57 ;;
    esac
    if has_kvm; then board="$board -accel kvm -cpu host"; else board="$board -accel tcg,thread=multi -cpu $emulated"; fi
    echo "== $machine: packages"
    unpack
    echo "== $machine: $image"
    pack
    boot || failed=1
done
exit $failed
