#!/bin/sh
# Runs reaps at the boundary on an aarch64 kernel, emulated: sh benchmarks/aarch64.sh
#
# For Debian with qemu-system-arm, cpio and the network. Fetches a kernel, Perl, Python and FCGI::ProcManager of arm64 into
# a directory that is removed at the end, and boots them with this checkout; some ten minutes. Ends with 0 if each worker
# was signalled at its boundary, none else was signalled, and no request was lost.
set -eu
here=$(cd "$(dirname "$0")/.." && pwd)
for command in qemu-system-aarch64 cpio dpkg-deb apt-get; do
    command -v $command >/dev/null || { echo "aarch64.sh: no $command here; apt-get install qemu-system-arm cpio" >&2; exit 2; }
done
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
trap 'exit 130' INT TERM HUP

echo "== packages of arm64"
mkdir -p "$work/state/lists/partial" "$work/cache/archives/partial" "$work/debs" "$work/root"
touch "$work/state/status"
chmod -R a+rX "$work"
apt() {
    command=$1
    shift
    "$command" -o APT::Architecture=arm64 -o APT::Architectures=arm64 -o Dir::State="$work/state" \
        -o Dir::State::status="$work/state/status" -o Dir::Cache="$work/cache" -o APT::Sandbox::User=root "$@"
}
apt apt-get -qq update
kernel=$(apt apt-cache search --names-only '^linux-image-[0-9].*-cloud-arm64$' | cut -d' ' -f1 | sort -V | tail -n 1)
(
    cd "$work/debs"
    apt apt-get -qq download "$kernel" busybox-static libc6 libgcc-s1 libcrypt1 zlib1g libexpat1 libffi8 libbz2-1.0 liblzma5 \
        libssl3 python3.11-minimal libpython3.11-minimal libpython3.11-stdlib python3-psutil \
        perl-base perl perl-modules-5.36 libperl5.36 libdb5.3 libfcgi-perl libfcgi0ldbl libfcgi-procmanager-perl
)
for package in "$work"/debs/*.deb; do
    dpkg-deb -x "$package" "$work/root"
done
vmlinuz=$(ls "$work"/root/boot/vmlinuz-*)
mv "$vmlinuz" "$work/vmlinuz"
rm -rf "$work/root/boot" "$work/root/lib/modules" "$work/root/usr/lib/modules" "$work/root/usr/share/doc" "$work/root/usr/share/man"

echo "== the guest"
cp -r "$here/supervisor_memreap" "$work/root/supervisor_memreap"
cp "$here/benchmarks/aarch64_guest.py" "$work/root/guest.py"
mkdir -p "$work/root/proc" "$work/root/sys" "$work/root/tmp" "$work/root/dev"
cat >"$work/root/init" <<'INIT'
#!/bin/busybox sh
/bin/busybox mount -t proc proc /proc
/bin/busybox mount -t sysfs sys /sys
/bin/busybox mount -t devtmpfs dev /dev
export PATH=/usr/bin:/bin PYTHONPATH=/:/usr/lib/python3/dist-packages PYTHONDONTWRITEBYTECODE=1
python3.11 /guest.py </dev/null && echo "aarch64: all as it must be" || echo "aarch64: FAILED"
/bin/busybox poweroff -f
INIT
chmod 755 "$work/root/init"
[ -e "$work/root/bin/busybox" ] || cp "$work/root/usr/bin/busybox" "$work/root/bin/busybox"
(cd "$work/root" && find . | cpio --quiet -o -H newc | gzip -1) >"$work/initrd.gz"

echo "== qemu"
qemu-system-aarch64 -M virt -cpu cortex-a57 -smp 2 -m 1024 -nic none -nographic -no-reboot -kernel "$work/vmlinuz" \
    -initrd "$work/initrd.gz" -append 'console=ttyAMA0 rdinit=/init quiet panic=-1' </dev/null | tee "$work/log"
grep -q '^aarch64: all as it must be' "$work/log"
