# The first process of a machine: makes its root, then runs commands. It is in new mount, process and host name
# namespaces, and in the machine's network namespace.
#
#   bash -c SCRIPT machine NAME DIRECTORY PROGRAMS
#
# DIRECTORY is shared with the test. For each number N read from descriptor 4, DIRECTORY/N.sh is run in this shell, with
# output to N.out, and "N STATUS" is written to descriptor 3. PROGRAMS is a directory put first in PATH.
set -eu
name=$1 dir=$2 programs=$3
echo "$name" >/proc/sys/kernel/hostname

# A writable root over this machine's; none of it outlives the namespace.
mount --make-rprivate /
base=$(mktemp -d "$dir/root.XXXXXX")
mount -t tmpfs tmpfs "$base"
mkdir "$base/upper" "$base/work" "$base/root"
mount -t overlay overlay -o "lowerdir=/,upperdir=$base/upper,workdir=$base/work" "$base/root"
cd "$base/root"
for d in root run srv tmp etc/netns var/lib/culvert; do
	mkdir -p "$d"
	mount -t tmpfs tmpfs "$d"
done
mount --rbind /dev dev
mount -t proc proc proc
mount -t sysfs sysfs sys
mount -t bpf bpf sys/fs/bpf
mkdir run/machine run/programs run/old
mount --bind "$dir" run/machine
mount --bind "$programs" run/programs
pivot_root . run/old
cd /
umount -l /run/old
rmdir /run/old

# The names that this machine resolves are not the document's business.
rm -f /etc/resolv.conf
: >/etc/resolv.conf
cd /root
set +e -o pipefail
while IFS= read -r n <&4; do
	{ eval "$(<"/run/machine/$n.sh")"; } >"/run/machine/$n.out" 2>&1 </dev/null 3>&- 4<&-
	echo "$n $?" >&3
done
