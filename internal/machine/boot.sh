# The first process of a machine: makes its root, then becomes systemd. It is in new mount, process, network, IPC, host
# name and cgroup namespaces.
#
#   bash -c SCRIPT machine BASE SYSTEMD MACHINE-ID
#
# BASE is an empty directory. Everything is mounted in this mount namespace and ends with it.
set -eu
base=$1 systemd=$2 id=$3
echo machine >/proc/sys/kernel/hostname

# A writable root over the host's.
mount --make-rprivate /
mount -t tmpfs tmpfs "$base"
mkdir "$base/upper" "$base/work" "$base/root"
mount -t overlay overlay -o "lowerdir=/,upperdir=$base/upper,workdir=$base/work" "$base/root"
cd "$base/root"

# Nothing of the host starts, is mounted or shows: no enabled units, no generators, no journal, no state of ours.
for d in etc/systemd/system etc/systemd/system-generators usr/lib/systemd/system-generators \
	var/log/journal var/lib/culvert etc/culvert etc/netns etc/fstab usr/sbin/policy-rc.d etc/machine-id \
	etc/hostname etc/resolv.conf; do
	rm -rf "$d"
done
mkdir -p etc/systemd/system etc/systemd/system-generators usr/lib/systemd/system-generators etc/systemd/journald.conf.d
echo "$id" >etc/machine-id
echo machine >etc/hostname
: >etc/resolv.conf
printf '[Journal]\nStorage=volatile\nRateLimitIntervalSec=0\nAudit=no\n' >etc/systemd/journald.conf.d/machine.conf
for unit in console-getty.service getty.target proc-sys-fs-binfmt_misc.automount sys-kernel-config.mount \
	sys-kernel-debug.mount sys-kernel-tracing.mount systemd-journald-audit.socket systemd-timesyncd.service; do
	ln -s /dev/null "etc/systemd/system/$unit"
done

# Kernel interfaces: what belongs to these namespaces can be written, what is the whole machine's cannot.
mkdir -p proc sys dev run tmp
mount -t proc -o nosuid,nodev,noexec proc proc
mount --bind proc/sys/net proc/sys/net
mount --bind proc/sys proc/sys
mount -o remount,bind,ro,nosuid,nodev,noexec proc/sys
mount --bind /proc/sys/net proc/sys/net
if [ -e proc/sysrq-trigger ]; then
	mount --bind proc/sysrq-trigger proc/sysrq-trigger
	mount -o remount,bind,ro proc/sysrq-trigger
fi
mount -t sysfs -o ro,nosuid,nodev,noexec sysfs sys
mount -t cgroup2 -o nosuid,nodev,noexec cgroup2 sys/fs/cgroup
mount -t bpf -o nosuid,nodev,noexec,mode=0700 bpf sys/fs/bpf
mount -t tmpfs -o nosuid,mode=0755 tmpfs dev
mkdir dev/pts dev/shm dev/mqueue dev/net
mount -t devpts -o newinstance,ptmxmode=0666,mode=0620,gid=5 devpts dev/pts
mount -t tmpfs -o nosuid,nodev,mode=1777 tmpfs dev/shm
mknod -m 0666 dev/null c 1 3
mknod -m 0666 dev/zero c 1 5
mknod -m 0666 dev/full c 1 7
mknod -m 0666 dev/random c 1 8
mknod -m 0666 dev/urandom c 1 9
mknod -m 0666 dev/tty c 5 0
mknod -m 0666 dev/fuse c 10 229
mknod -m 0666 dev/net/tun c 10 200
ln -s pts/ptmx dev/ptmx
ln -s /proc/self/fd dev/fd
ln -s /proc/self/fd/0 dev/stdin
ln -s /proc/self/fd/1 dev/stdout
ln -s /proc/self/fd/2 dev/stderr
mount -t tmpfs -o nosuid,nodev,mode=0755 tmpfs run
mount -t tmpfs -o nosuid,nodev,mode=1777 tmpfs tmp

mkdir run/old
pivot_root . run/old
cd /
umount -l /run/old
rmdir /run/old
mount --make-rshared / # as systemd does on a host

# The clock and the kernel's modules are the whole machine's.
exec env -i container=machine PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin LANG=C.UTF-8 \
	setpriv --bounding-set -sys_time,-sys_module,-sys_rawio --inh-caps -sys_time,-sys_module,-sys_rawio \
	"$systemd" --system --unit=multi-user.target --log-target=journal-or-kmsg --show-status=no
